"""What a SLURM job does with Slurm's signals: real processes, submitit's real entry point; squeue and scontrol are
stand-ins (tests/e2e/test_slurm.py has the real ones)."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from submitit.core.utils import DelayedSubmission
from support.stand_in import until

from cefr_batch.schedulers.slurm.job import SlurmJob

# A job that ends on SIGTERM, as run-job does, and writes down what it received.
JOB = """
import os, signal, sys, time
def stop(number, frame):
    open("stopped", "a").write("x")
    time.sleep(0.3)
    sys.exit(int(os.environ.get("CODE", 75)))
signal.signal(signal.SIGTERM, stop)
open("key", "w").write(os.environ.get("AWS_SECRET_ACCESS_KEY", ""))
open("started", "w").close()
while True:
    time.sleep(0.05)
"""


class Submitted:
    """A pickled job and the process that submitit runs it in."""

    def __init__(self, folder: Path, job: SlurmJob, *, timeouts: int = 50, **environment: str) -> None:
        self.folder = folder
        delayed = DelayedSubmission(job)
        delayed.set_timeout(10, timeouts)
        delayed.dump(folder / "7_submitted.pkl")
        variables = {"SLURM_JOB_ID": "7", "SUBMITIT_EXECUTOR": "slurm", "PATH": f"{folder}:{os.environ['PATH']}"}
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-m", "submitit.core._submit", str(folder)],
            cwd=folder,
            env={**os.environ, **variables, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        until(lambda: (folder / "started").exists() or self.process.poll() is not None)

    def end(self, number: signal.Signals) -> tuple[int, str]:
        self.process.send_signal(number)
        output, _ = self.process.communicate(timeout=30)
        return self.process.returncode, output

    def asked(self, command: str) -> list[str]:
        file = self.folder / f"{command}.calls"
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("squeue", "scontrol"):
        path = tmp_path / name
        path.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/{name}.calls\ncat {tmp_path}/{name}.says 2>/dev/null\n')
        path.chmod(0o755)
    (tmp_path / "squeue.says").write_text("RUNNING\n")
    return tmp_path


def job(credentials: str | None = None) -> SlurmJob:
    return SlurmJob((sys.executable, "-c", JOB), credentials)


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM], ids=["time limit", "preemption"])
def test_a_job_that_is_preempted_or_at_its_limit_stores_a_checkpoint_and_is_requeued(
    folder: Path, number: signal.Signals
) -> None:
    code, output = Submitted(folder, job()).end(number)
    assert (folder / "stopped").read_text() == "x", output
    assert (folder / "scontrol.calls").read_text() == "requeue 7\n"
    assert code != 0
    with (folder / "7_submitted.pkl").open("rb") as file:  # what the requeued job loads
        assert pickle.load(file).function == job()


def test_a_job_that_is_being_cancelled_is_not_requeued(folder: Path) -> None:
    (folder / "squeue.says").write_text("COMPLETING\n")
    submitted = Submitted(folder, job())
    code, _ = submitted.end(signal.SIGTERM)
    assert code == 75
    assert (folder / "stopped").read_text() == "x"
    assert submitted.asked("scontrol") == []


def test_cefr_batch_cancel_stores_a_checkpoint_and_does_not_requeue(folder: Path) -> None:
    submitted = Submitted(folder, job())
    code, _ = submitted.end(signal.SIGINT)
    assert code == 75
    assert (folder / "stopped").read_text() == "x"
    assert submitted.asked("scontrol") == submitted.asked("squeue") == []


@pytest.mark.parametrize(("own", "code"), [("0", 0), ("1", 1), ("2", 2)], ids=["finished", "failed", "unusable"])
def test_a_job_that_ends_by_itself_as_the_signal_comes_is_not_requeued(folder: Path, own: str, code: int) -> None:
    submitted = Submitted(folder, job(), CODE=own)
    assert submitted.end(signal.SIGUSR2)[0] == code
    assert submitted.asked("scontrol") == []


def test_a_signal_to_all_processes_at_once_as_slurm_sends_it(folder: Path) -> None:
    """The job gets the scheduler's SIGTERM and the one of its parent."""
    submitted = Submitted(folder, job())
    children = subprocess.run(
        ["pgrep", "-P", str(submitted.process.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    for child in children:
        os.kill(int(child), signal.SIGTERM)
    submitted.end(signal.SIGTERM)
    assert submitted.asked("scontrol") == ["requeue 7"]


def test_a_job_that_came_to_its_time_limit_too_often_says_so(folder: Path) -> None:
    submitted = Submitted(folder, job(), timeouts=0)
    code, output = submitted.end(signal.SIGUSR2)
    assert (folder / "stopped").read_text() == "x"  # its checkpoint is stored all the same
    assert submitted.asked("scontrol") == []
    assert code == 75
    assert "cefr-batch: stopped: not requeued: it reached its time limit more often than max_restarts" in output
    assert "Traceback" not in output


def test_a_job_that_slurm_does_not_requeue_says_so(folder: Path) -> None:
    (folder / "scontrol").write_text("#!/bin/sh\necho 'Job is not requeueable' >&2; exit 1\n")
    code, output = Submitted(folder, job()).end(signal.SIGTERM)
    assert (folder / "stopped").read_text() == "x"
    assert code == 75
    assert "cefr-batch: stopped: not requeued: Slurm refused it (scontrol requeue 7 failed" in output
    assert "Job is not requeueable" in output
    assert "Traceback" not in output


@pytest.mark.slow
def test_a_child_that_has_ended_before_slurm_answers_is_requeued_too(folder: Path) -> None:
    """All processes get the signal at once; this one's answer comes late, and the child is gone by then."""
    (folder / "squeue").write_text("#!/bin/sh\nsleep 1\necho RUNNING\n")
    submitted = Submitted(folder, SlurmJob((sys.executable, "-c", JOB.replace("0.3", "0")), None))
    (child,) = subprocess.run(
        ["pgrep", "-P", str(submitted.process.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    submitted.process.send_signal(signal.SIGTERM)
    os.kill(int(child), signal.SIGTERM)
    submitted.process.wait(30)
    assert submitted.asked("scontrol") == ["requeue 7"]


@pytest.mark.parametrize("code", [128 + signal.SIGTERM, 128 + signal.SIGUSR2])
def test_a_runtime_that_says_in_its_exit_code_which_signal_ended_the_job(folder: Path, code: int) -> None:
    submitted = Submitted(folder, job(), CODE=str(code))
    submitted.end(signal.SIGUSR2)
    assert submitted.asked("scontrol") == ["requeue 7"]


def test_a_job_in_srun_is_stopped_with_a_signal_that_srun_passes_on(folder: Path) -> None:
    pyxis = SlurmJob((sys.executable, "-c", JOB.replace("SIGTERM", "SIGUSR2")), None, signal.SIGUSR2)
    submitted = Submitted(folder, pyxis)
    submitted.end(signal.SIGTERM)
    assert (folder / "stopped").read_text() == "x"
    assert submitted.asked("scontrol") == ["requeue 7"]


def test_a_program_that_is_not_on_the_node_is_an_error_without_a_traceback(folder: Path) -> None:
    submitted = Submitted(folder, SlurmJob(("/no/such/apptainer", "exec"), None))
    output, _ = submitted.process.communicate(timeout=30)
    assert submitted.process.returncode == 1
    assert "cefr-batch: stopped: the job cannot be started on this node: " in output
    assert "Traceback" not in output


def test_the_exit_code_of_the_job_is_slurm_s(folder: Path) -> None:
    failing = SlurmJob((sys.executable, "-c", "import sys; sys.exit(3)"), None)
    submitted = Submitted(folder, failing)
    output, _ = submitted.process.communicate(timeout=30)
    assert submitted.process.returncode == 3, output
    assert "the job ended with exit code 3" in output


def test_secrets_come_from_their_file_and_are_not_in_the_pickle(folder: Path) -> None:
    keys = folder / "keys.json"
    keys.write_text(json.dumps({"AWS_SECRET_ACCESS_KEY": "planted-secret"}))
    submitted = Submitted(folder, job(str(keys)))
    until(lambda: (folder / "key").exists() and (folder / "key").read_text() == "planted-secret")
    assert b"planted-secret" not in (folder / "7_submitted.pkl").read_bytes()
    _, output = submitted.end(signal.SIGINT)
    assert "planted-secret" not in output


@pytest.mark.parametrize(
    ("number", "code", "kept"),
    [
        (signal.SIGINT, "75", False),  # cefr-batch cancel
        (signal.SIGTERM, "75", True),  # requeued
        (signal.SIGTERM, "1", False),  # it failed as the signal came
    ],
)
def test_credentials_are_kept_as_long_as_the_job_may_start_again(
    folder: Path, number: signal.Signals, code: str, kept: bool
) -> None:
    keys = folder / "keys.json"
    keys.write_text("{}")
    Submitted(folder, job(str(keys)), CODE=code).end(number)
    assert keys.exists() == kept


@pytest.mark.parametrize("code", [0, 3])
def test_credentials_are_removed_when_the_job_ends_by_itself(folder: Path, code: int) -> None:
    keys = folder / "keys.json"
    keys.write_text("{}")
    ending = SlurmJob((sys.executable, "-c", f"import sys; sys.exit({code})"), str(keys))
    submitted = Submitted(folder, ending)
    output, _ = submitted.process.communicate(timeout=60)
    assert submitted.process.returncode == code, output
    assert not keys.exists()


def test_a_signal_before_the_job_can_catch_it_loses_nothing(folder: Path) -> None:
    """Python is still starting: the job dies of the signal, and is requeued."""
    slow = SlurmJob(("sh", "-c", "touch started; exec sleep 60"), None)
    submitted = Submitted(folder, slow)
    submitted.end(signal.SIGUSR2)
    assert submitted.asked("scontrol") == ["requeue 7"]
