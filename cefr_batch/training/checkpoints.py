"""Complete checkpoints. The trainer writes and rotates trainer/checkpoint-<n>; each complete one is linked to
checkpoints/step-<n> with its manifest last, which is what is stored and resumed from.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cefr_batch.files import read_json, sha256_file, write_json
from cefr_batch.records import layout
from cefr_batch.records.checkpoint import Checkpoint, CheckpointFile
from cefr_batch.records.document import read_file, write_file
from cefr_batch.records.layout import WorkDir
from cefr_batch.records.training import OomEvent

# What the trainer saves beside a checkpoint's state: it stands elsewhere, and nobody reads the pickle training_args.bin.
_NOT_STATE = {"training_args.bin", "README.md", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}


def publish(work: WorkDir, state: Any, elapsed: float, oom_events: Sequence[OomEvent]) -> None:
    """Make the trainer's newest checkpoint count. ``state``: the trainer's; ``elapsed``: seconds of training up to it.

    Idempotent: a checkpoint that is complete stays as it is.
    """
    source = work.trainer / f"checkpoint-{state.global_step}"
    target = work.path(layout.checkpoint_name(state.global_step))
    if (target / layout.CHECKPOINT_MANIFEST).is_file():
        return  # saved twice in one step
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    files = []
    for file in sorted(f for f in source.iterdir() if f.is_file() and f.name not in _NOT_STATE):
        os.link(file, target / file.name)
        files.append(CheckpointFile(name=file.name, size=file.stat().st_size, sha256=sha256_file(file)))
    checkpoint = Checkpoint(
        step=state.global_step,
        best_step=state.best_global_step,
        elapsed_seconds=round(elapsed, 3),
        out_of_memory=list(oom_events),
        files=files,
    )
    write_file(target / layout.CHECKPOINT_MANIFEST, checkpoint)


def restore(work: WorkDir) -> Path | None:
    """The newest complete checkpoint as the trainer wants it, with the best one beside it; None to start afresh."""
    shutil.rmtree(work.trainer, ignore_errors=True)
    steps = work.checkpoints()
    if not steps:
        return None
    newest = steps[-1]
    best = read_file(Checkpoint, work.path(layout.checkpoint_name(newest)) / layout.CHECKPOINT_MANIFEST).best_step
    for step in {newest, newest if best is None else best} & set(steps):
        source = work.path(layout.checkpoint_name(step))
        shutil.copytree(source, work.trainer / f"checkpoint-{step}", copy_function=os.link)
    resumed = work.trainer / f"checkpoint-{newest}"
    _relocate_best(resumed, work.trainer, best)
    return resumed


def _relocate_best(checkpoint: Path, trainer: Path, best: int | None) -> None:
    """The trainer's state names its best checkpoint by absolute path: make that a path of this machine."""
    state_file = checkpoint / "trainer_state.json"
    state = read_json(state_file)
    folder = trainer / f"checkpoint-{best}"
    state["best_model_checkpoint"] = str(folder) if folder.is_dir() else None
    write_json(state_file, state)  # replaces the link: the complete checkpoint stays as it is
