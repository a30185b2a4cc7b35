"""``python -m cefr_batch.job.child RUN_FOLDER PARENT_PID STAGE…``: the process of a job's heavy stages, or of evaluations.

Heavy stages run in processes of their own: the supervisor stays light, so its heartbeat and its uploads continue while a
stage computes, memory is given back after each process, and a stage that the kernel kills can still be reported.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from cefr_batch.job.context import StageContext
from cefr_batch.job.evaluations import EVALUATIONS, run_evaluations
from cefr_batch.job.rung import RUNG, evaluate_rung
from cefr_batch.job.stages import run_stage
from cefr_batch.records.layout import WorkDir
from cefr_batch.training.process import start_process, write_error


def main(argv: Sequence[str]) -> int:
    """Run the stages in order and return the exit code; why one failed is in the work folder's error.json."""
    folder, parent, *stages = argv
    start_process(int(parent))
    for number in (signal.SIGINT, signal.SIGUSR2, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the supervisor decides, and stops this process by SIGTERM
    context = StageContext(WorkDir(Path(folder)))
    try:
        for stage in stages:
            if stage == EVALUATIONS:
                run_evaluations(context)
            elif stage == RUNG:
                evaluate_rung(context)
            else:
                run_stage(context, stage)
    except Exception as exc:
        return write_error(context.work, exc)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
