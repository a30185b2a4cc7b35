"""What a job brings back from the store when it begins on a machine that has nothing."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from support.report_stores import B1, metrics

from cefr_batch.errors import StoreError
from cefr_batch.job.lease import Lease
from cefr_batch.job.publish import manifest
from cefr_batch.job.stages import BY_NAME
from cefr_batch.job.sync import Mirror
from cefr_batch.records import layout
from cefr_batch.records.checkpoint import Checkpoint, CheckpointFile
from cefr_batch.records.document import read_file, write_file
from cefr_batch.records.layout import WorkDir
from cefr_batch.records.stages import PlotsResult, StageRecord, StoredObject, TrainResult
from cefr_batch.runner.logs import log_attempts
from cefr_batch.store.local import LocalStore

RUN = "tiny-b1-peft-v1"
PLOTS = PlotsResult(plots=["training_loss.png"])
TRAINED = TrainResult.model_validate({"model_revision": None, **metrics(RUN, "B1", B1)})
ADAPTER = "adapter_model.safetensors"
WEIGHTS = f"{layout.CHECKPOINTS}/step-20/weights"


def mirror(store: LocalStore, work: Path) -> Mirror:
    return Mirror(store, RUN, WorkDir(work), keep_checkpoints=2)


def write_checkpoint(work: Path, step: int) -> None:
    folder = WorkDir(work).path(layout.checkpoint_name(step))
    folder.mkdir(parents=True)
    data = f"weights of step {step}".encode()
    (folder / "weights").write_bytes(data)
    file = CheckpointFile(name="weights", size=len(data), sha256=hashlib.sha256(data).hexdigest())
    written = Checkpoint(step=step, best_step=step, elapsed_seconds=1.5, files=[file])
    write_file(folder / layout.CHECKPOINT_MANIFEST, written)


@pytest.fixture
def stored(store: LocalStore, tmp_path: Path) -> LocalStore:
    """A store with two finished stages and the checkpoints of steps 10 and 20."""
    job = mirror(store, tmp_path / "first")
    for name, content, folder, file in (
        ("train", TRAINED, layout.ADAPTER, ADAPTER),
        ("plots", PLOTS, layout.PLOTS, "training_loss.png"),
    ):
        record = BY_NAME[name].record(stage=name, seconds=0.1, result=content)
        write_file(job.work.path(layout.stage_name(name)), record)
        job.work.path(folder).mkdir()
        (job.work.path(folder) / file).write_bytes(b"of " + name.encode())
    for step in (10, 20):
        write_checkpoint(tmp_path / "first", step)
    job.push()
    return store


def test_what_is_stored_comes_back_as_it_was(stored: LocalStore, tmp_path: Path) -> None:
    job = mirror(stored, tmp_path / "second")
    assert job.pull_stages() == {"train", "plots"}
    job.pull_checkpoints()
    assert job.work.checkpoints() == [20], "the newest, which is the best, and no other"
    for path in (p for p in job.work.root.rglob("*") if p.is_file()):
        assert path.read_bytes() == stored.get(job.key(path.relative_to(job.work.root).as_posix())), path
    assert read_file(StageRecord[PlotsResult], job.work.path(layout.stage_name("plots"))).result == PLOTS


class CountingStore(LocalStore):
    """A folder that counts the bytes of the files written to it."""

    sent = 0

    def put_file(self, key: str, path: Path) -> str:
        self.sent += path.stat().st_size
        return super().put_file(key, path)


def test_a_long_log_is_not_sent_whole_each_time_it_grows_and_is_whole_in_the_end(tmp_path: Path) -> None:
    store = CountingStore(tmp_path / "store")
    job = mirror(store, tmp_path / "work")
    log = job.work.path(layout.log_name(1))
    log.parent.mkdir(parents=True)
    log.write_bytes(b"x" * 20_000_000)
    for _ in range(5):
        job.push()
        with log.open("ab") as file:
            file.write(b"one line more\n")
    assert store.sent == 20_000_000
    job.push(last=True)
    assert store.get(job.key(layout.log_name(1))) == log.read_bytes()
    before = store.sent
    job.push(last=True)
    assert store.sent == before, "nothing is new"


@pytest.mark.parametrize("harm", ["changed", "cut", "missing"])
def test_a_checkpoint_that_is_not_whole_is_passed_over_and_stored_anew(
    harm: str, stored: LocalStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = mirror(stored, tmp_path / "second")
    if harm == "missing":
        stored.delete(job.key(WEIGHTS))
    else:
        stored.put(job.key(WEIGHTS), b"weights of step XX" if harm == "changed" else b"weights")
    job.pull_checkpoints()
    assert job.work.checkpoints() == [10]
    assert "the checkpoint of step 20 is skipped, so training resumes from an earlier one" in caplog.text
    assert "restore it" not in caplog.text.lower(), "the job mends it"
    write_checkpoint(job.work.root, 20)
    job.push()
    assert stored.get(job.key(WEIGHTS)) == b"weights of step 20"


@pytest.mark.parametrize("harm", ["changed", "cut", "missing", "record"])
@pytest.mark.parametrize(("stage", "left"), [("plots", {"train"}), ("train", set())])
def test_a_finished_stage_that_is_not_whole_is_repeated_and_stored_anew(
    stage: str, left: set[str], harm: str, stored: LocalStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """After training only the adapter may be damaged: the checkpoints are there. What used it is repeated with it."""
    job = mirror(stored, tmp_path / "second")
    file = f"{layout.PLOTS}/training_loss.png" if stage == "plots" else f"{layout.ADAPTER}/{ADAPTER}"
    before = stored.get(job.key(file))
    if harm == "missing":
        stored.delete(job.key(file))
    elif harm == "record":
        stored.put(job.key(layout.stage_name(stage)), b"{}")
    else:
        stored.put(job.key(file), before[::-1] if harm == "changed" else before[:-1])
    assert job.pull_stages() == left
    ignored = f"stages/{stage}.json is" if harm == "record" else f"the stored results of stage {stage} are"
    assert f"{ignored} damaged and" in caplog.text
    assert "so the stage runs again" in caplog.text
    assert "restore it" not in caplog.text.lower(), "the job mends it"
    assert not job.work.path(layout.stage_name(stage)).exists()
    job.pull_checkpoints()
    assert job.work.checkpoints() == [20]
    again = tmp_path / "first"
    for name in (layout.stage_name(stage), file):
        (job.work.root / name).parent.mkdir(parents=True, exist_ok=True)
        (job.work.root / name).write_bytes((again / name).read_bytes())
    job.push()
    assert stored.get(job.key(file)) == before


FOREIGN = {
    "attempts/.DS_Store": b"\0",
    "attempts/9.json.bak": b"{}",
    "attempts/sub/7.json": b"{}",
    "stages/.nfs00000000012c0001": b"\0",
    "stages/._train.json": b"{}",
    "stages/notes.json": b"{}",
    "checkpoints/step-30-good/checkpoint.json": b"{}",
    "checkpoints/step-x/checkpoint.json": b"{}",
    "checkpoints/.DS_Store": b"\0",
    "logs/.attempt-8.log": b"x",
    "logs/old/attempt-6.log": b"x",
    "plots/.DS_Store": b"\0",
}


def test_what_others_left_in_a_run_s_folders_is_left_alone(stored: LocalStore, tmp_path: Path) -> None:
    """What file systems, desktops and people put there: .DS_Store, .nfs…, ._x, copies made by hand."""
    for name, data in FOREIGN.items():
        stored.put(layout.run_key(RUN, name), data)
    lease = Lease.take(stored, RUN)
    assert lease.attempt == 1
    job = mirror(stored, tmp_path / "second")
    assert [one.attempt for one in job.attempts()] == [1]
    assert job.pull_stages() == {"train", "plots"}
    assert job.stored_checkpoints() == [10, 20]
    job.pull_checkpoints()
    (job.work.path(layout.CHECKPOINTS) / "step-20-good").mkdir()
    (job.work.path(layout.CHECKPOINTS) / "step-20-good" / layout.CHECKPOINT_MANIFEST).write_bytes(b"{}")
    write_checkpoint(job.work.root, 30)
    assert job.work.checkpoints() == [20, 30]
    job.push()
    assert job.stored_checkpoints() == [20, 30], "step 10 is pruned"
    assert log_attempts(stored, RUN) == []
    assert all(stored.get(layout.run_key(RUN, name)) == data for name, data in FOREIGN.items())
    stored.put_json(job.key(layout.METRICS), metrics(RUN, "B1", B1))
    listed = {entry.key for entry in manifest(job).objects}
    assert not [name for name in listed if any(part.startswith(".") for part in name.split("/"))]


def test_records_that_are_none_do_not_count(stored: LocalStore, tmp_path: Path) -> None:
    job = mirror(stored, tmp_path / "second")
    for name in (layout.attempt_name(3), layout.stage_name("data"), "checkpoints/step-40/checkpoint.json"):
        stored.put(job.key(name), b"[" * 100_000)
    assert Lease.take(stored, RUN).attempt == 4, "a number is never used again"
    assert [one.attempt for one in job.attempts()] == [4]
    assert job.pull_stages() == {"train", "plots"}
    job.pull_checkpoints()
    assert job.work.checkpoints() == [20]
    assert sorted(job.checkpoint_records()) == [10, 20]


@pytest.mark.parametrize("name", ["../outside/x", "/outside/x", "link/x"])
def test_what_is_recorded_of_another_folder_is_refused_before_anything_is_made(
    name: str, stored: LocalStore, tmp_path: Path
) -> None:
    """Whoever may write to the store says what a record lists."""
    job = mirror(stored, tmp_path / "second")
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    job.work.root.mkdir()
    (job.work.root / "link").symlink_to(outside)
    listed = [StoredObject(key=name, size=1, sha256=hashlib.sha256(b"x").hexdigest())]
    record = StageRecord[TrainResult](stage="train", seconds=0.1, result=TRAINED, objects=listed)
    stored.put_record(job.key(layout.stage_name("train")), record)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StoreError, match="refused"):
        job.pull_stages()
    assert sorted(tmp_path.rglob("*")) == before


def test_the_manifest_has_the_hash_of_every_object(stored: LocalStore, tmp_path: Path) -> None:
    job = mirror(stored, tmp_path / "second")
    stored.put(job.key(layout.log_name(1)), b"a line\n")
    stored.put_json(job.key(layout.METRICS), metrics(RUN, "B1", B1))
    stored.put(job.key(layout.STATUS), b"changes later")
    listed = {entry.key: entry for entry in manifest(job).objects}
    names = {found.key.removeprefix(job.key("")) for found in stored.objects(job.key(""))}
    assert set(listed) == names - {layout.STATUS}
    for name, entry in listed.items():
        data = stored.get(job.key(name))
        assert (entry.size, entry.sha256) == (len(data), hashlib.sha256(data).hexdigest()), name
