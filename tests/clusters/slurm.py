"""The Slurm that ``slurm.sh`` brings up, for tests."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from unittest import mock

from clusters import until

SCRIPT = Path(__file__).with_name("slurm.sh")
OLDEST, NEWEST = "22.05", "26.05"
_VERSION = "SLURM_VERSION"  # that the script brings up


def run(*command: str) -> str:
    """The standard output of one of Slurm's commands; it must succeed."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def script(*arguments: str) -> str:
    """Run ``slurm.sh``; returns its output. It prints to a file: the daemons that it starts would keep a pipe open."""
    with TemporaryFile("w+") as out, TemporaryFile("w+") as err:
        done = subprocess.run([SCRIPT, *arguments], stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        for file in (out, err):
            file.seek(0)
        assert done.returncode == 0, err.read()
        return out.read().strip()


def why_not() -> str:
    """Why a Slurm cannot be started here; empty if it can."""
    if os.geteuid() != 0:
        return "needs root, to bring up a Slurm (tests/clusters/slurm.sh)"
    if not shutil.which("apt-get"):
        return "needs apt-get, to fetch Slurm (tests/clusters/slurm.sh)"
    return ""


@contextmanager
def cluster(version: str = OLDEST) -> Iterator[None]:
    """A running Slurm, whose commands are in PATH; one that was running before is left running."""
    with mock.patch.dict(os.environ, {_VERSION: version}):
        before = subprocess.run([SCRIPT, "running"]).returncode == 0
        paths = script("up").removeprefix("export PATH=").partition(":")[0]
        os.environ["PATH"] = f"{paths}:{os.environ['PATH']}"
        try:
            yield
        finally:
            if not before:
                script("down")


def state(job: str) -> str:
    """What squeue says of a job, as in ``RUNNING``; empty once it does not list it any more."""
    done = subprocess.run(
        ["squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T"], capture_output=True, text=True
    )
    return done.stdout.strip()


def node(job: str) -> str:
    return run("squeue", "--noheader", f"--jobs={job}", "--format=%N")


def printed(jobs: Path, job: str) -> str:
    """What a job printed, below the site's folder of jobs."""
    (file,) = jobs.glob(f"e2e/*/{job}_0_log.out")
    return file.read_text(errors="replace")


def start_now(job: str) -> None:
    """A requeued job waits two minutes before it starts again; here three seconds. Slurm takes a credential that is not
    older than the requeue for the revoked one (seen with 22.05: "Job credential revoked")."""
    until(lambda: state(job) == "PENDING")
    run("scontrol", "update", f"jobid={job}", "StartTime=now+3")
    until(lambda: state(job) != "PENDING")


def end_soon(job: str) -> None:
    """A time limit of which a running job is warned within 75 seconds, and 30 seconds later ended."""
    *hours, minutes, seconds = map(int, run("squeue", "--noheader", f"--jobs={job}", "--format=%M").split(":"))
    running = 3600 * sum(hours) + 60 * minutes + seconds
    run("scontrol", "update", f"jobid={job}", f"TimeLimit={(running + 45) // 60 + 1}")


def preempt(job: str) -> None:
    """Have a running job preempted by one of the urgent partition, and requeued."""
    urgent = run(
        "sbatch", "--parsable", "--partition=urgent", "--gres=gpu:1", f"--nodelist={node(job)}", "--output=/dev/null",
        "--wrap=sleep 600",
    )  # fmt: skip
    until(lambda: state(job) == "PENDING")
    run("scancel", urgent)
    until(lambda: state(urgent) in ("", "CANCELLED"))
