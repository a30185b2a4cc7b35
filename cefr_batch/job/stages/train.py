"""Stage ``train``: from the newest complete checkpoint, on one GPU or several."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from cefr_batch.errors import JobFailed
from cefr_batch.files import read_json
from cefr_batch.job.context import StageContext
from cefr_batch.records import layout
from cefr_batch.records.spec import StartingAdapter
from cefr_batch.records.stages import TrainResult
from cefr_batch.training.process import paused

_LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "unsloth", "unsloth_zoo", "bitsandbytes")


def run(context: StageContext) -> TrainResult:
    """Train. Raises as ``training.trainer.train`` does; ``Paused`` too where an attempt before came to that step."""
    _require_not_there(context)
    from cefr_batch.models.device import this_machine
    from cefr_batch.models.licence import licence_in
    from cefr_batch.models.resolve import commit_of
    from cefr_batch.training import checkpoints
    from cefr_batch.training.ddp import train_in_processes
    from cefr_batch.training.task import TrainingTask
    from cefr_batch.training.trainer import train

    adapter = context.record.adapter
    _require_same_model(adapter, commit_of(context.model_path))
    task = TrainingTask(
        spec=context.spec,
        model_path=context.model_path,
        train=context.dataset.train,
        evaluation=context.evaluated,
        work=context.work,
        adapter=context.work.starting_adapter if adapter else None,
        pause_after=context.pause.after_step if context.pause else None,
    )
    resume = checkpoints.restore(context.work)
    trained = (train_in_processes if context.spec.resources.gpus > 1 else train)(task, resume)
    result = TrainResult(
        train=trained.figures,
        log=trained.log,
        best=trained.best,
        machine=this_machine(),
        versions=library_versions(),
        model_revision=commit_of(context.model_path),
    )
    licence = licence_in(context.model_path)
    optional = {"peak_gpu_memory_gb": trained.peak_gpu_memory_gb, "adapter": adapter, "model_licence": licence}
    return result.model_copy(update={key: value for key, value in optional.items() if value is not None})


def _require_not_there(context: StageContext) -> None:
    """Raise ``Paused`` if a checkpoint is of the step after which training is to stop: the job was killed after it."""
    step = max(context.work.checkpoints(), default=0)
    if context.pause and step >= context.pause.after_step:
        state = read_json(context.work.path(layout.checkpoint_name(step)) / "trainer_state.json")
        context.progress.update(at_once=True, step=step, steps=state["max_steps"], epoch=state["epoch"])
        raise paused(step, state["max_steps"])


def _require_same_model(adapter: StartingAdapter | None, commit: str | None) -> None:
    """The hub's model may have changed between submit and now."""
    before = adapter.model_revision if adapter else None
    if adapter and before and commit and before != commit:
        raise JobFailed(
            f"the adapter of {adapter.run} was trained on the model's commit {before}, but its newest is {commit}; submit "
            f"again with model.revision={before}"
        )


def library_versions() -> dict[str, str]:
    """The versions of the training libraries that are installed."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
