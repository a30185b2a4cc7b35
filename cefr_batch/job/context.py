"""What the stages of a job share within one process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeVar

from cefr_batch.config.load import recorded_spec
from cefr_batch.config.schema import RunSpec
from cefr_batch.data import Dataset, Example, PromptFormat, prompt_format, read_dataset, sentences_of
from cefr_batch.errors import JobFailed
from cefr_batch.records import layout
from cefr_batch.records.document import Part, read_file
from cefr_batch.records.layout import WorkDir
from cefr_batch.records.rung import Pause
from cefr_batch.records.spec import SpecRecord
from cefr_batch.records.stages import StageRecord
from cefr_batch.training.progress import ProgressFile

if TYPE_CHECKING:
    from cefr_batch.data.encoding import Encoded
    from cefr_batch.evaluation.losses import Evaluation

P = TypeVar("P", bound=Part)
Q = ParamSpec("Q")
T = TypeVar("T")


class StageContext:
    """A job's folder, and what its stages load once and share. Models load when they are first asked for."""

    def __init__(self, work: WorkDir) -> None:
        self.work = work
        self.progress = ProgressFile(work.progress)
        self.adapter = work.path(layout.ADAPTER)  # the folder of the adapter that ``tuned_model`` has

    @cached_property
    def record(self) -> SpecRecord:
        """What was submitted."""
        return read_file(SpecRecord, self.work.path(layout.SPEC))

    @cached_property
    def spec(self) -> RunSpec:
        """The run's settings."""
        return recorded_spec(self.record.spec, str(self.work.path(layout.SPEC)))

    @property
    def pause(self) -> Pause | None:
        """What was asked about stopping in training; None: nothing."""
        path = self.work.path(layout.PAUSE)
        return read_file(Pause, path) if path.is_file() else None

    @cached_property
    def model_path(self) -> Path:
        """The folder of the pretrained model, which transformers loads."""
        from cefr_batch.models.resolve import resolve_model

        return resolve_model(self.spec.model)

    @cached_property
    def tokenizer(self) -> Any:
        """The pretrained model's tokenizer, with a padding token."""
        from cefr_batch.models.loading import load_tokenizer

        return load_tokenizer(self.model_path)

    @cached_property
    def prompts(self) -> PromptFormat:
        """How the run's examples become text."""
        return prompt_format(self.spec.model.prompt, self.model_path)

    @cached_property
    def dataset(self) -> Dataset:
        """The job's dataset, fetched and verified before any stage began."""
        return read_dataset(self.work.dataset)

    @property
    def evaluated(self) -> Sequence[Example]:
        """The evaluation examples that this run uses, in file order."""
        return self.dataset.eval[: self.spec.evaluation.max_examples]

    @cached_property
    def eval_tokens(self) -> list[Encoded]:
        """``evaluated`` as tokens."""
        return self.encoded(self.evaluated)

    def encoded(self, examples: Sequence[Example]) -> list[Encoded]:
        """Examples as this run's model reads them, with what of them is in its training data."""
        from cefr_batch.data.encoding import encode

        return encode(self.tokenizer, self.prompts, examples, self.spec.training.max_length, self.train_sentences)

    @cached_property
    def train_sentences(self) -> set[str]:
        """The sentences of the training data."""
        return sentences_of(self.dataset.train)

    @cached_property
    def base_model(self) -> Any:
        """The pretrained model in 16-bit weights, computing in fp32. ``tuned_model`` takes it over."""
        from cefr_batch.models.loading import load_for_evaluation

        return load_for_evaluation(self.model_path)

    @cached_property
    def tuned_model(self) -> Any:
        """``base_model`` with the trained adapter merged into its weights: a separate product for the adapter would cost a
        third more time."""
        from peft import PeftModel

        model = PeftModel.from_pretrained(self.base_model, self.adapter).eval()
        model.merge_adapter()
        del self.base_model  # its weights are the tuned model's now
        return model

    def unload_tuned_model(self) -> None:
        """Free the memory of ``tuned_model``; it is loaded again if it is asked for again."""
        self.__dict__.pop("tuned_model", None)

    def evaluate(self, model: Any, limit: int | None = None) -> Evaluation:
        """A causal model's losses on the first ``limit`` evaluation examples (default: all)."""
        return self.losses(model, self.eval_tokens[:limit])

    def losses(self, model: Any, examples: Sequence[Encoded]) -> Evaluation:
        """A causal model's losses on examples that ``encoded`` gave."""
        from cefr_batch.evaluation.losses import evaluate

        return evaluate(
            model,
            examples,
            pad_id=self.tokenizer.pad_token_id,
            end_id=self.tokenizer.convert_tokens_to_ids(self.prompts.answer.end),
            batch_size=self.spec.evaluation.batch_size,
            on_batch=self.progress.count,
        )

    def result(self, stage: str, kind: type[StageRecord[P]]) -> P:
        """What a finished stage found out."""
        return read_file(kind, self.work.path(layout.stage_name(stage))).result


def within_memory(
    part: Literal["evaluation", "generation"],
) -> Callable[[Callable[Concatenate[StageContext, Q], T]], Callable[Concatenate[StageContext, Q], T]]:
    """For what works in batches of ``<part>.batch_size``: running out of GPU memory becomes ``JobFailed``, with what to
    lower."""

    def limited(
        work: Callable[Concatenate[StageContext, Q], T],
    ) -> Callable[Concatenate[StageContext, Q], T]:
        @wraps(work)
        def run(context: StageContext, /, *args: Q.args, **kwargs: Q.kwargs) -> T:
            import torch

            try:
                return work(context, *args, **kwargs)
            except torch.OutOfMemoryError as exc:
                size = getattr(context.spec, part).batch_size
                remedy = f"lower {part}.batch_size, which is {size}, or take" if size > 1 else "take"
                text = f"stage {context.progress.stage} ran out of the GPU's memory; {remedy} a larger GPU"
                raise JobFailed(text) from exc

        return run

    return limited
