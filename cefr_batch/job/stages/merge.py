"""Stage ``merge``: one 16-bit model of base and adapter, loaded again and checked."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum
from typing import TYPE_CHECKING, Any

from cefr_batch.errors import JobFailed
from cefr_batch.files import sha256_file
from cefr_batch.job.context import StageContext, within_memory
from cefr_batch.records import layout
from cefr_batch.records.losses import ExampleScore
from cefr_batch.records.stages import Fp16Overflow, MergeCheck, MergeResult, StageRecord, TunedResult

if TYPE_CHECKING:
    import torch

    from cefr_batch.models.merge import MergedWeights

log = logging.getLogger(__name__)

CHECKED_EXAMPLES = 16
TRIED_EXAMPLES = 4  # by each 16-bit type: they differ by more than examples do


@within_memory("evaluation")
def run(context: StageContext) -> MergeResult:
    """Merge into the 16-bit type that ``model.merged_dtype`` names, load what was written as a user would, and compare it.

    Before they are rounded, the weights must be those that PEFT merges in fp32, with the loss of stage ``tuned``; what was
    written must be these weights as rounded, with the loss that they have in memory. Raises ``JobFailed`` if not: the merge
    is wrong. What rounding changes is a loss of precision, and a warning where it is much.
    """
    from cefr_batch.models.merge import MergedWeights, check_loss, merge

    tuned = context.result("tuned", StageRecord[TunedResult])
    _require_evaluated_adapter(context, tuned.adapter_sha256)
    with_adapter = _loss(tuned.examples[:CHECKED_EXAMPLES])
    weights = MergedWeights(context.model_path, context.work.path(layout.ADAPTER))
    trial = _try_types(context, weights, with_adapter)
    context.unload_tuned_model()
    target = context.work.path(layout.MERGED)
    merge(
        weights.base,
        weights.adapter,
        context.tokenizer,
        context.prompts,
        trial.best,
        target,
        context.work.tmp / "merged",
    )
    reloaded = _as_a_user_loads_it(context)
    weights.check_written(reloaded, trial.best)
    written = context.evaluate(reloaded, CHECKED_EXAMPLES).examples
    rounded = trial.scores[trial.best]
    check_loss(_loss(rounded), _loss(written[: len(rounded)]), "it, loaded again,")
    check = MergeCheck(
        adapter_loss=with_adapter,
        exact_loss=_loss(trial.exact),
        merged_loss=_loss(written),
        dtype=_name(trial.best),
        examples=len(written),
        tried={_name(dtype): trial.change(dtype) for dtype in trial.scores},
        overflow=trial.overflow,
    )
    _tell(check, context.spec.model.merged_dtype)
    return MergeResult(merge=check)


@dataclass(frozen=True)
class _Trial:
    """What rounding the merged weights to 16-bit types changes. ``exact``: the examples' scores before it; ``scores``: those
    of the first examples after it, by type; ``overflow``: what fp16 cannot hold of the model."""

    exact: Sequence[ExampleScore]
    overflow: Fp16Overflow | None
    scores: dict[torch.dtype, Sequence[ExampleScore]]

    @property
    def best(self) -> torch.dtype:
        """The type with the losses nearest to the exact ones, example by example: in a mean they may cancel."""
        return min(self.scores, key=self.change)

    def change(self, dtype: torch.dtype) -> float:
        """By how much rounding to a type changes an example's loss, up or down, in nats a token."""
        pairs = list(zip(self.exact, self.scores[dtype], strict=False))
        tokens = sum(before.tokens.full for before, _ in pairs)
        return fsum(abs(after.nll.full - before.nll.full) for before, after in pairs) / tokens


def _try_types(context: StageContext, weights: MergedWeights, with_adapter: float) -> _Trial:
    """Check the merge in fp32, then round it to each type in question."""
    from cefr_batch.models.merge import check_loss
    from cefr_batch.models.precision import LargestOutput, fp16_overflow

    model = context.tuned_model.get_base_model()  # PEFT has merged the adapter into it
    largest_weight = weights.check_against(model)
    with LargestOutput(model) as outputs:
        exact = context.evaluate(model, CHECKED_EXAMPLES).examples
    check_loss(with_adapter, _loss(exact), "before it is rounded, it")
    overflow = fp16_overflow(largest_weight, outputs.value)
    scores: dict[torch.dtype, Sequence[ExampleScore]] = {}
    for dtype in _candidates(context.spec.model.merged_dtype, overflow):
        weights.put_into(model, dtype)
        scores[dtype] = context.evaluate(model, TRIED_EXAMPLES).examples
    return _Trial(exact, overflow, scores)


def _candidates(wanted: str, overflow: Fp16Overflow | None) -> list[torch.dtype]:
    """The types to try. fp16 that was asked for is taken wherever it can hold the weights: some programs compute in fp32."""
    import torch

    possible = {None: ("auto", "fp16"), "outputs": ("fp16",), "weights": ()}[overflow]
    types = [torch.float16] if wanted in possible else []
    return types if types and wanted == "fp16" else [*types, torch.bfloat16]


def _require_evaluated_adapter(context: StageContext, evaluated: str | None) -> None:
    if evaluated and sha256_file(context.work.path(layout.ADAPTER_WEIGHTS)) != evaluated:
        raise JobFailed(
            f"{context.work.path(layout.ADAPTER_WEIGHTS)} is not the adapter that was evaluated: it was changed; resume the "
            "run, which fetches the adapter again"
        )


def _as_a_user_loads_it(context: StageContext) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    from cefr_batch.models.device import device

    folder = context.work.path(layout.MERGED)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False)
    return model.to(device()).eval()


def _loss(scores: Sequence[ExampleScore]) -> float:
    """In nats a token."""
    return fsum(score.nll.full for score in scores) / sum(score.tokens.full for score in scores)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _tell(check: MergeCheck, wanted: str) -> None:
    """Log which type was taken and why, and warn of what it costs."""
    tried = ", ".join(f"{change:.2g} by {name}" for name, change in check.tried.items())
    log.info("the merged model is in %s; rounding changes an example's loss per token by %s", check.dtype, tried)
    if check.overflow:
        what = "some weights" if check.overflow == "weights" else "what the model computes"
        taken = "so it is not taken" if check.dtype != "float16" else "so run it in bf16 or fp32"
        level = logging.INFO if wanted == "auto" else logging.WARNING
        log.log(level, "%sfp16 cannot hold %s, %s", "" if wanted == "auto" else "warning: ", what, taken)
    if check.rounding_change is not None:
        log.warning(
            "warning: rounding the merged weights to %s changes the loss from %.4f to %.4f: training changed many weights "
            "by less than this type can hold. The adapter is exact: use it on the base model, or train more",
            check.dtype,
            check.exact_loss,
            check.merged_loss,
        )
