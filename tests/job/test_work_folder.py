"""The folder of a job: held by one attempt on a machine, and free of what another run of this name left."""

from __future__ import annotations

import errno
import logging
from pathlib import Path

import pytest

from cefr_batch.job.work_folder import work_folder
from cefr_batch.records import layout
from cefr_batch.records.layout import WorkDir
from cefr_batch.records.spec import SpecRecord

RUN = "tiny-b1-peft-v1"


def record(submitted_at: str) -> SpecRecord:
    return SpecRecord(run=RUN, dataset="0" * 64, spec={}, submitted_at=submitted_at)


def test_what_the_same_run_left_stays_and_what_another_of_this_name_left_goes(tmp_path: Path) -> None:
    work = WorkDir(tmp_path / RUN)
    left = work.path(layout.stage_name("train"))
    for at, stays in (("2026-01-01", False), ("2026-01-01", True), ("2026-02-02", False)):
        with work_folder(work, RUN, record(at)):
            assert left.exists() == stays
            left.parent.mkdir(exist_ok=True)
            left.touch()


def test_what_the_job_prints_before_it_has_its_folder_is_kept(tmp_path: Path) -> None:
    """launch.log is open already: it is all there is to see of a job that cannot write its log."""
    work = WorkDir(tmp_path / RUN)
    work.root.mkdir()
    (work.root / "of another run").mkdir()
    (work.root / "link").symlink_to(tmp_path)
    with work.launch_log.open("w") as output, work_folder(work, RUN, record("2026-01-01")):
        output.write("said at first")
        output.flush()
        assert work.launch_log.read_text() == "said at first"
        assert not (work.root / "of another run").exists()
        assert not (work.root / "link").is_symlink()
    assert tmp_path.is_dir()


def test_where_the_file_system_has_no_locks_a_warning_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A stand-in for such a file system: taking the lock fails as it does on NFS without a lock server."""

    def no_locks(*_: object, **__: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("filelock.FileLock.acquire", no_locks)
    with caplog.at_level(logging.WARNING), work_folder(WorkDir(tmp_path / RUN), RUN, record("2026-01-01")):
        assert (tmp_path / RUN).is_dir()
    assert "has no locks" in caplog.text
    assert "No locks available" in caplog.text
