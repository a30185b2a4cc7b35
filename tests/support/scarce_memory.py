"""A fake: a GPU whose memory is too small for some batches. No memory is short; training raises what torch would raise.

``scarce(sizes)`` patches TRL's trainer in this process. For a job's processes, ``sitecustomize`` puts this module into the
process that trains, with ``CEFR_BATCH_TEST_SCARCE='{"7": 8}'``: from step 7 on no more than 8 examples at once.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

VARIABLE = "CEFR_BATCH_TEST_SCARCE"
Seen = list[tuple[int, int]]  # (step, examples at once) of every batch that was tried


def limited(whole: Any, sizes: Mapping[int, int], seen: Seen) -> Any:
    """``training_step``, with at most ``sizes[step]`` examples from that step on."""
    import torch

    def training_step(trainer: Any, model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
        step, rows = trainer.state.global_step + 1, len(inputs["input_ids"])
        seen.append((step, rows))
        if any(step >= start and rows > most for start, most in sizes.items()):
            raise torch.OutOfMemoryError(f"CUDA out of memory. (A test's fake: {rows} examples at step {step}.)")
        return whole(trainer, model, inputs, *rest, **named)

    return training_step


def environment(sizes: Mapping[int, int], folder: Path) -> dict[str, str]:
    """What makes a job's training find its memory scarce. ``folder``: an empty one."""
    (folder / "sitecustomize.py").write_text("import scarce_memory\nscarce_memory.in_training()\n")
    path = os.pathsep.join([str(folder), str(Path(__file__).parent)])
    return {**os.environ, VARIABLE: json.dumps(sizes), "PYTHONPATH": path}


def in_training() -> None:
    """Patch this process if it is a job's training."""
    if sys.orig_argv[2:3] == ["cefr_batch.job.child"] and sys.orig_argv[-1] == "train":
        from trl import SFTTrainer

        sizes = {int(step): most for step, most in json.loads(os.environ[VARIABLE]).items()}
        SFTTrainer.training_step = limited(SFTTrainer.training_step, sizes, [])
