"""What is done at each step of training: progress, TensorBoard, complete checkpoints, stopping on request.

Imports transformers, so a backend that patches it comes first.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter
from transformers import TrainerCallback

from cefr_batch import layout
from cefr_batch.errors import Interrupted, JobFailed
from cefr_batch.files import read_json
from cefr_batch.layout import WorkDir
from cefr_batch.levels import RunSpec
from cefr_batch.run import checkpoints
from cefr_batch.run.batches import TooLarge

_TAGS = {
    "loss": "train/loss",
    "eval_loss": "eval/loss",
    "learning_rate": "train/learning_rate",
    "gradient_norm": "train/gradient_norm",
}


class Steps(TrainerCallback):  # type: ignore[misc]  # transformers is not typed here
    """Progress, TensorBoard, checkpoints; stops at a step's end after SIGTERM.

    In a process group all stop at the same step, and the first one tells and writes.
    """

    def __init__(
        self,
        spec: RunSpec,
        work: WorkDir,
        resume: Path | None,
        report: Callable[..., None],
        too_large: Sequence[TooLarge],
    ) -> None:
        manifest = read_json(resume / layout.CHECKPOINT_MANIFEST) if resume else {"step": 0, "elapsed_seconds": 0.0}
        self._spec, self._work, self._report, self._too_large = spec, work, report, too_large
        self._before = float(manifest["elapsed_seconds"])
        self._first_step = int(manifest["step"])
        self._started = time.monotonic()
        self._asked_to_stop = False
        self._stopping = False  # at the end of this step
        self._tensorboard: SummaryWriter | None = None
        signal.signal(signal.SIGTERM, self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._asked_to_stop = True

    def elapsed(self) -> float:
        """Seconds of training, those before the resumed checkpoint included."""
        return self._before + time.monotonic() - self._started

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._started = time.monotonic()
        if state.is_world_process_zero:
            folder = self._work.path(layout.TENSORBOARD)
            # An attempt before may have shown steps that this one repeats, here or on another machine.
            self._tensorboard = SummaryWriter(folder, purge_step=self._first_step + 1, flush_secs=5)
        self._progress(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if control.should_evaluate and state.global_step % args.eval_steps:
            # the trainer's extra evaluation at the end; the seed had none. Kept where it would be the only one.
            control.should_evaluate = state.global_step < args.eval_steps
        self._stopping = _any_process(self._asked_to_stop, args)
        if self._stopping:
            control.should_save = True

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        latest, every = state.log_history[-1], self._spec.training.logging_steps
        _require_finite(latest)
        at_entry = state.global_step % every == 0 or state.global_step == state.max_steps
        if "eval_loss" in latest or ("loss" in latest and at_entry):
            folded = fold_log(state.log_history, every, state.max_steps)
            newest = (e for e in folded[-2:] if e["step"] == state.global_step)
            self._write_entries(e for e in newest if ("eval_loss" in e) == ("eval_loss" in latest))
        self._progress(state)

    def _write_entries(self, entries: Iterable[Mapping[str, Any]]) -> None:
        if self._tensorboard is None:
            return
        for entry in entries:
            values = {key: entry[key] for key in _TAGS if key in entry}
            print(f"step {entry['step']} epoch {entry['epoch']:.2f}", *(f"{k} {v:.4g}" for k, v in values.items()))
            for key, value in values.items():
                self._tensorboard.add_scalar(_TAGS[key], value, entry["step"])

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        _wait_for_all(args)  # each process saves the state of its random numbers
        if state.is_world_process_zero:
            checkpoints.publish(self._work, state, self.elapsed(), self._too_large)
        _wait_for_all(args)
        self._progress(state, at_once=True)  # a stopped run's status names the step of its checkpoint
        if self._stopping and state.global_step < state.max_steps:
            raise Interrupted(f"stopped on request after step {state.global_step}; its checkpoint is written")

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._tensorboard is not None:
            self._tensorboard.close()

    def _progress(self, state: Any, *, at_once: bool = False) -> None:
        if not state.is_world_process_zero:
            return
        done = state.global_step - self._first_step
        left = state.max_steps - state.global_step
        rate = (time.monotonic() - self._started) / done if done else None
        history = state.log_history
        self._report(
            at_once=at_once,
            step=state.global_step,
            steps=state.max_steps,
            epoch=state.epoch,
            loss=next((row["loss"] for row in reversed(history) if "loss" in row), None),
            eval_loss=next((row["eval_loss"] for row in reversed(history) if "eval_loss" in row), None),
            eta_seconds=round(rate * left, 1) if rate is not None else None,
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
                f"training diverged at step {row['step']} ({key} is {float(row[key])}); lower training.learning_rate, and "
                "submit again"
            )


def fold_log(history: Sequence[Mapping[str, Any]], logging_steps: int, last_step: int) -> list[dict[str, Any]]:
    """The run's log from the trainer's per-step history: every ``logging_steps`` the mean loss since the last entry, with
    the step's learning rate and gradient norm; every evaluation; sorted by step.

    The trainer's own windows restart when it is resumed; these do not, so an interrupted run logs the same curve.
    """
    entries: list[dict[str, Any]] = []
    window: list[float] = []
    for row in history:
        at = {"step": row["step"], "epoch": row["epoch"]}
        if "eval_loss" in row:
            entries.append({**at, "eval_loss": row["eval_loss"]})
        if "loss" not in row:
            continue
        window.append(row["loss"])
        if row["step"] % logging_steps == 0 or row["step"] == last_step:
            entries.append(
                {
                    **at,
                    "loss": sum(window) / len(window),
                    "learning_rate": row["learning_rate"],
                    "gradient_norm": float(row["grad_norm"]),
                }
            )
            window = []
    return sorted(entries, key=lambda e: (e["step"], "eval_loss" in e))
