"""What a job says of itself while it runs."""

from __future__ import annotations

from pathlib import Path

from cefr_batch.job.status_writer import StatusWriter
from cefr_batch.records import layout
from cefr_batch.records.document import write_file
from cefr_batch.records.layout import WorkDir
from cefr_batch.records.status import Progress, Status
from cefr_batch.store.local import LocalStore


def test_the_losses_of_training_stay_in_sight_while_later_stages_count_their_own_steps(tmp_path: Path) -> None:
    store, work = LocalStore(tmp_path / "store"), WorkDir(tmp_path / "work")
    writer = StatusWriter(store, "b1-v1", 1, work, stage="train", done=list)
    trained = Progress(stage="train", step=40, steps=40, epoch=2.0, loss=1.25, eval_loss=1.5)
    for progress in (trained, Progress(stage="tuned", step=3, steps=10)):
        write_file(work.progress, progress)
        writer.write("RUNNING")
    found = store.get_record(layout.run_key("b1-v1", layout.STATUS), Status)
    assert (found.stage, found.step, found.steps) == ("tuned", 3, 10)
    assert (found.epoch, found.loss, found.eval_loss) == (2.0, 1.25, 1.5)
    work.progress.unlink()
    StatusWriter(store, "b1-v1", 2, work, stage="tuned", done=list, before=found).write("RUNNING")
    found = store.get_record(layout.run_key("b1-v1", layout.STATUS), Status)
    assert (found.attempt, found.loss, found.eval_loss) == (2, 1.25, 1.5), "a resumed run shows what it has learned"
