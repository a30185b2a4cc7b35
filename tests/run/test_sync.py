"""What a job brings back from the store when it begins on a machine that has nothing."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from cefr_batch import layout
from cefr_batch.errors import Damaged, StoreError
from cefr_batch.files import read_json, write_json
from cefr_batch.layout import WorkDir
from cefr_batch.run.publish import manifest
from cefr_batch.run.sync import Mirror
from cefr_batch.store.local import LocalStore

RUN = "tiny-b1-peft-v1"
WEIGHTS = f"{layout.CHECKPOINTS}/step-20/weights"


def mirror(store: LocalStore, work: Path) -> Mirror:
    return Mirror(store, RUN, WorkDir(work), keep_checkpoints=2)


def write_checkpoint(work: Path, step: int) -> None:
    folder = WorkDir(work).path(layout.checkpoint_name(step))
    folder.mkdir(parents=True)
    data = f"weights of step {step}".encode()
    (folder / "weights").write_bytes(data)
    file = {"name": "weights", "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    write_json(folder / layout.CHECKPOINT_MANIFEST, {"step": step, "best_step": step, "files": [file]})


@pytest.fixture
def stored(store: LocalStore, tmp_path: Path) -> LocalStore:
    """A store with a finished stage and the checkpoints of steps 10 and 20."""
    job = mirror(store, tmp_path / "first")
    write_json(job.work.path(layout.stage_name("plots")), {"stage": "plots", "result": {"x": 0.1}})
    job.work.path(layout.PLOTS).mkdir()
    (job.work.path(layout.PLOTS) / "training_loss.png").write_bytes(b"png")
    for step in (10, 20):
        write_checkpoint(tmp_path / "first", step)
    job.push()
    return store


def test_what_is_stored_comes_back_as_it_was(stored: LocalStore, tmp_path: Path) -> None:
    job = mirror(stored, tmp_path / "second")
    assert job.pull_stages() == {"plots"}
    job.pull_checkpoints()
    assert job.work.checkpoints() == [20], "the newest, which is the best, and no other"
    for path in (p for p in job.work.root.rglob("*") if p.is_file()):
        assert path.read_bytes() == stored.get(job.key(path.relative_to(job.work.root).as_posix())), path
    assert read_json(job.work.path(layout.stage_name("plots")))["result"] == {"x": 0.1}


@pytest.mark.parametrize("harm", ["changed", "cut", "missing"])
def test_a_checkpoint_that_is_not_whole_is_passed_over_and_stored_anew(
    harm: str, stored: LocalStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = mirror(stored, tmp_path / "second")
    if harm == "missing":
        stored.delete(job.key(WEIGHTS))
    else:
        stored.put(job.key(WEIGHTS), b"weights of step XX" if harm == "changed" else b"weights")
    job.pull_checkpoints()
    assert job.work.checkpoints() == [10]
    assert "the checkpoint of step 20 is passed over" in capsys.readouterr().out
    write_checkpoint(job.work.root, 20)
    job.push()
    assert stored.get(job.key(WEIGHTS)) == b"weights of step 20"


def test_a_finished_stage_that_is_damaged_is_not_taken(stored: LocalStore, tmp_path: Path) -> None:
    job = mirror(stored, tmp_path / "second")
    stored.put(job.key(f"{layout.PLOTS}/training_loss.png"), b"gnp")
    with pytest.raises(Damaged, match=r"plots/training_loss.png is damaged"):
        job.pull_stages()
    assert not job.work.path(layout.stage_name("plots")).exists()


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
    entry = {"key": name, "size": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
    stored.put_json(job.key(layout.stage_name("plots")), {"stage": "plots", "objects": [entry]})
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StoreError, match="refused"):
        job.pull_stages()
    assert sorted(tmp_path.rglob("*")) == before


def test_the_manifest_has_the_hash_of_every_object(stored: LocalStore, tmp_path: Path) -> None:
    job = mirror(stored, tmp_path / "second")
    stored.put(job.key(layout.log_name(1)), b"a line\n")
    stored.put(job.key(layout.STATUS), b"changes later")
    listed = {entry["key"]: entry for entry in manifest(job)["objects"]}
    names = {found.key.removeprefix(job.key("")) for found in stored.objects(job.key(""))}
    assert set(listed) == names - {layout.STATUS}
    for name, entry in listed.items():
        data = stored.get(job.key(name))
        assert (entry["size"], entry["sha256"]) == (len(data), hashlib.sha256(data).hexdigest()), name
