"""The objects of a finished run, typed and checked. Keys that the report does not use are ignored."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Count = Annotated[int, Field(ge=0)]


class _Stored(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, allow_inf_nan=False)


class SpecFile(_Stored):
    """``spec.json``."""

    dataset: str
    spec: dict[str, Any]
    submitted_at: str
    code_version: str | None = None


class StoredObject(_Stored):
    key: str  # relative to the run
    size: Count  # bytes


class ManifestFile(_Stored):
    """``manifest.json``."""

    complete_at: str
    objects: list[StoredObject]


class TooLarge(_Stored):
    step: Count
    batch_size: Count


class Train(_Stored):
    examples: Count
    steps: Count
    epochs: float
    duration_seconds: float
    samples_per_second: float
    final_loss: float | None
    batch_size: Count | None = None  # on each GPU, in the end
    gradient_accumulation_steps: Count | None = None
    gpus: Count | None = None
    out_of_memory: list[TooLarge] = []


class LogEntry(_Stored):
    step: Count
    epoch: float
    loss: float | None = None
    eval_loss: float | None = None
    learning_rate: float | None = None
    gradient_norm: float | None = None


class Best(_Stored):
    step: Count
    epoch: float
    eval_loss: float


class Score(_Stored):
    loss: float
    perplexity: float


class TokenScore(Score):
    tokens: Count


class Evaluated(_Stored):
    full: TokenScore
    response: TokenScore
    seed_protocol: Score
    seen: TokenScore | None = None  # over the evaluation sentences that stand in the training file
    unseen: TokenScore | None = None  # and over those that do not


class Reduction(_Stored):
    loss_percent: float
    perplexity_percent: float


class Reductions(_Stored):
    full: Reduction
    response: Reduction
    seed_protocol: Reduction


class Leakage(_Stored):
    sentences_percent: float
    words_percent: float


class Data(_Stored):
    train_examples: Count
    eval_examples: Count
    unique_words: Count
    longest_example_tokens: Count
    train_sha256: str = ""
    eval_sha256: str = ""


class Machine(_Stored):
    cpu: str
    gpu: str | None
    threads: int
    gpu_memory_gb: float | None = None


class Evaluation(_Stored):
    examples: Count


class Merge(_Stored):
    adapter_loss: float
    merged_loss: float
    examples: Count


class Attempt(_Stored):
    """``attempts/<n>.json``."""

    image: str | None = None


class ExampleTokens(_Stored):
    full: Count


class ExampleSums(_Stored):
    full: float


class ExampleLosses(_Stored):
    tokens: ExampleTokens
    baseline: ExampleSums
    tuned: ExampleSums


class EvaluationFile(_Stored):
    """``evaluation.json``: each evaluation example's summed negative log-likelihood, in nats."""

    examples: list[ExampleLosses]


class Answers(_Stored):
    greedy: str
    sampled: str


class WrittenExample(_Stored):
    words: list[str]
    baseline: Answers
    tuned: Answers


class GenerationFile(_Stored):
    """``generation.json``: what the untrained and the tuned model wrote for the words of evaluation examples."""

    examples: list[WrittenExample]


class Quality(_Stored):
    """Counted in a model's texts; ``cefr_batch.quality.Quality`` says how."""

    answers: Count
    sentences: Count
    well_formed_percent: float | None
    words_used_percent: float | None
    copied_percent: float | None
    duplicate_percent: float | None
    words_per_sentence: float | None
    at_or_below_level_percent: float | None
    unknown_words_percent: float | None
    readability_grade: float | None


class Written(_Stored):
    greedy: Quality
    sampled: Quality


class Generation(_Stored):
    baseline: Written
    tuned: Written


class MetricsFile(_Stored):
    """``metrics.json``. The last keys, those with defaults, came later than the others, so they may be missing."""

    level: str
    backend: str
    model: str
    train: Train
    log: list[LogEntry]
    best: Best | None
    baseline: Evaluated
    tuned: Evaluated
    reduction: Reductions
    leakage: Leakage
    data: Data
    attempts: int | None = None
    repeated_steps: int = 0
    machine: Machine | None = None
    versions: dict[str, str] = {}
    evaluation: Evaluation | None = None
    merge: Merge | None = None
    generation: Generation | None = None
    model_revision: str | None = None

    @property
    def examples_evaluated(self) -> int:
        """All evaluation examples unless the spec limits them."""
        return self.evaluation.examples if self.evaluation else self.data.eval_examples


def explain(exc: ValidationError, limit: int = 4) -> str:
    """What is wrong with a stored object, by key, in one line."""
    errors = exc.errors()
    parts = [f"{'.'.join(map(str, e['loc'])) or 'the document'}: {_what(dict(e))}" for e in errors[:limit]]
    more = [f"and {len(errors) - limit} more"] if len(errors) > limit else []
    return "; ".join(parts + more)


def _what(error: dict[str, Any]) -> str:
    return "missing" if error["type"] == "missing" else str(error["msg"]).replace("Input should be", "must be")
