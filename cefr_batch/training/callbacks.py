"""What is done at each step of training: progress, TensorBoard, complete checkpoints, stopping on request.

Imports transformers, so a backend that patches it comes first.
"""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter
from transformers import TrainerCallback
from typing_extensions import override

from cefr_batch.config.schema import RunSpec
from cefr_batch.errors import Interrupted, JobFailed
from cefr_batch.records import layout
from cefr_batch.records.checkpoint import Checkpoint
from cefr_batch.records.document import read_file
from cefr_batch.records.layout import WorkDir
from cefr_batch.records.training import LogEntry, OomEvent
from cefr_batch.training import checkpoints
from cefr_batch.training.early_stopping import stops_early
from cefr_batch.training.process import paused
from cefr_batch.training.progress import ProgressFile

log = logging.getLogger(__name__)

_TAGS = {
    "loss": "train/loss",
    "eval_loss": "eval/loss",
    "learning_rate": "train/learning_rate",
    "gradient_norm": "train/gradient_norm",
}


class Steps(TrainerCallback):  # type: ignore[misc]  # transformers is not typed here
    """Progress, TensorBoard, checkpoints; stops at the end of a step after SIGTERM.

    In a process group all stop at the same step, and only the first one reports and writes. ``resume``: the checkpoint
    that training starts from; ``pause_after``: the step after which it stops with ``Paused``.
    """

    def __init__(
        self,
        spec: RunSpec,
        work: WorkDir,
        resume: Path | None,
        progress: ProgressFile,
        oom_events: Sequence[OomEvent],
        pause_after: int | None = None,
    ) -> None:
        checkpoint = read_file(Checkpoint, resume / layout.CHECKPOINT_MANIFEST) if resume else None
        self._spec, self._work, self._progress, self._oom_events = spec, work, progress, oom_events
        self._before = checkpoint.elapsed_seconds if checkpoint else 0.0
        self._first_step = checkpoint.step if checkpoint else 0
        self._started = time.monotonic()
        self._pause_after = pause_after
        self._asked_to_stop = False
        self._stopping = False  # at the end of this step
        self._stops_early = False  # likewise, for want of a lower loss
        self._tensorboard: SummaryWriter | None = None
        signal.signal(signal.SIGTERM, self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._asked_to_stop = True

    def elapsed(self) -> float:
        """Seconds of training, those before the resumed checkpoint included."""
        return self._before + time.monotonic() - self._started

    @override
    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._started = time.monotonic()
        if state.is_world_process_zero:
            folder = self._work.path(layout.TENSORBOARD)
            # An attempt before may have shown steps that this one repeats, here or on another machine.
            self._tensorboard = SummaryWriter(folder, purge_step=self._first_step + 1, flush_secs=5)
        self._report(state)

    @override
    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if control.should_evaluate and state.global_step % args.eval_steps:
            # the trainer's extra evaluation at the end: the first report had none. Kept where it would be the only one.
            control.should_evaluate = state.global_step < args.eval_steps
        self._stopping = _any_process(self._asked_to_stop, args)
        if self._stopping or state.global_step == self._pause_after:
            control.should_save = True

    @override
    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        latest, every = state.log_history[-1], self._spec.training.logging_steps
        _require_finite(latest)
        at_entry = state.global_step % every == 0 or state.global_step == state.max_steps
        if "eval_loss" in latest or ("loss" in latest and at_entry):
            folded = fold_log(state.log_history, every, state.max_steps)
            newest = (e for e in folded[-2:] if e.step == state.global_step)
            self._write_entries(e for e in newest if (e.eval_loss is not None) == ("eval_loss" in latest))
        self._report(state)

    def _write_entries(self, entries: Iterable[LogEntry]) -> None:
        if self._tensorboard is None:
            return
        for entry in entries:
            log.info("%s", entry.line())
            for key, value in entry.values.items():
                self._tensorboard.add_scalar(_TAGS[key], value, entry.step)

    @override
    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        training, step = self._spec.training, state.global_step
        if step == state.max_steps or not stops_early(state, training.early_stopping):
            return
        control.should_training_stop = self._stops_early = True
        if state.is_world_process_zero:
            text = "training stops early after step %d: no lower loss in %s evaluations"
            log.info(text, step, training.early_stopping)
        if step % training.logging_steps:  # the log ends here, which nobody knew when this step's loss came
            last = fold_log(state.log_history, training.logging_steps, step)[-2:]
            self._write_entries(entry for entry in last if entry.loss is not None)

    @override
    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        _wait_for_all(args)  # each process saves the state of its random numbers
        if state.is_world_process_zero:
            checkpoints.publish(self._work, state, self.elapsed(), self._oom_events)
        _wait_for_all(args)
        self._report(state, at_once=True)  # a stopped run's status names the step of its checkpoint
        if state.global_step == self._pause_after and state.global_step < state.max_steps:
            raise paused(state.global_step, state.max_steps)
        if self._stopping and state.global_step < state.max_steps:
            raise Interrupted(f"stopped on request after step {state.global_step}; its checkpoint is written")

    @override
    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._tensorboard is not None:
            self._tensorboard.close()

    def _report(self, state: Any, *, at_once: bool = False) -> None:
        if not state.is_world_process_zero:
            return
        done = state.global_step - self._first_step
        left = 0 if self._stops_early else state.max_steps - state.global_step
        rate = (time.monotonic() - self._started) / done if done else None
        history = state.log_history
        self._progress.update(
            at_once=at_once,
            step=state.global_step,
            steps=state.max_steps,
            epoch=state.epoch,
            loss=latest_loss(history, self._spec.training.logging_steps),
            eval_loss=next((row["eval_loss"] for row in reversed(history) if "eval_loss" in row), None),
            eta_seconds=round(rate * left, 1) if left and rate is not None else None,
        )


def _any_process(value: bool, args: Any) -> bool:
    """Whether it is so in any process of the group; all get the same answer."""
    if args.world_size == 1:
        return value
    flag = torch.tensor(int(value), device=args.device)
    torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
    return bool(flag.item())


def _wait_for_all(args: Any) -> None:
    if args.world_size > 1:
        torch.distributed.barrier()


def _require_finite(row: Mapping[str, Any]) -> None:
    for key in ("loss", "eval_loss", "grad_norm"):
        if not math.isfinite(row.get(key, 0.0)):
            raise JobFailed(
                f"training diverged at step {row['step']} ({key} is {float(row[key])}); lower training.learning_rate and "
                "submit again"
            )


def latest_loss(history: Sequence[Mapping[str, Any]], logging_steps: int) -> float | None:
    """The mean loss of the steps since the log's last entry before the newest step, as ``fold_log`` will have it: the last
    one is the run's final loss. None before the first step."""
    window: list[float] = []
    for row in reversed(history):
        if "loss" in row and window and row["step"] % logging_steps == 0:
            break
        if "loss" in row:
            window.append(row["loss"])
    return sum(window) / len(window) if window else None


def fold_log(history: Sequence[Mapping[str, Any]], logging_steps: int, last_step: int) -> list[LogEntry]:
    """The run's log from the trainer's per-step history: every ``logging_steps`` the mean loss since the last entry, with
    the step's learning rate and gradient norm; every evaluation; sorted by step.

    The trainer's own windows restart when it is resumed; these do not, so an interrupted run logs the same curve.
    """
    entries: list[LogEntry] = []
    window: list[float] = []
    for row in history:
        step, epoch = row["step"], row["epoch"]
        if "eval_loss" in row:
            entries.append(LogEntry(step=step, epoch=epoch, eval_loss=row["eval_loss"]))
        if "loss" not in row:
            continue
        window.append(row["loss"])
        if step % logging_steps == 0 or step == last_step:
            loss, norm = sum(window) / len(window), float(row["grad_norm"])
            rate = row["learning_rate"]
            entries.append(LogEntry(step=step, epoch=epoch, loss=loss, learning_rate=rate, gradient_norm=norm))
            window = []
    return sorted(entries, key=lambda e: (e.step, e.eval_loss is not None))
