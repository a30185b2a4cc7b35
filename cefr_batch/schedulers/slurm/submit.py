"""Submission of scripts.

Taken from submitit, all of it public: ``DelayedSubmission`` pickles a job, ``JobPaths`` names its files, and ``python -m
submitit.core._submit`` on the node loads the pickle, handles Slurm's signal and requeues the job.

Not taken is its ``SlurmExecutor``. It writes the sbatch script itself, from a fixed set of options and with a shell's
quoting instead of sbatch's, so ``--dry-run`` could not print what is submitted; and it takes the first ``job NUMBER`` in
sbatch's output for the job's id, even if a wrapper of sbatch printed that about another job.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from submitit.core.utils import DelayedSubmission, JobPaths

from cefr_batch.errors import SchedulerError
from cefr_batch.schedulers.slurm.client import Slurm, is_silent
from cefr_batch.schedulers.slurm.job import SlurmJob
from cefr_batch.schedulers.slurm.script import Script, script_path
from cefr_batch.schedulers.slurm.site import SlurmSite

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Submitted:
    """What one ``sbatch`` submitted: the number of its job or array, its jobs' ids (``7``, or ``7_0``, ``7_1``, …), its
    cluster where sbatch names one, the path of its script, by which Slurm knows it, and the files that its jobs need."""

    number: int
    ids: list[str]
    cluster: str | None
    script: str
    files: list[Path]


def submit(
    slurm: Slurm,
    site: SlurmSite,
    script: Script,
    jobs: Sequence[SlurmJob],
    folder: Path,
    tag: str,
    before: Sequence[str],
    env: Mapping[str, str],
) -> Submitted:
    """Submit the script's jobs with one ``sbatch``.

    ``jobs``: what the script's jobs run, in their order; ``folder``: for their files, which is made; ``tag``: 32
    hexadecimal digits, never used before; ``before``: ids of what was submitted before; ``env``: the environment that
    Slurm hands on. Raises ``SchedulerError``; then no job and no file of this script is left or, where a connection was
    lost too, none that finds its pickle and so does anything.
    """
    file, pickles = script_path(folder, tag), [f"{tag}_{index}.pkl" for index in range(len(jobs))]
    written = [file, *(folder / name for name in pickles)]
    try:
        with writing(folder):
            contents = {name: _pickled(job, site) for job, name in zip(jobs, pickles, strict=True)}
            slurm.machine.write(folder, {file.name: script.text.encode(), **contents})
        try:
            accepted = slurm.sbatch(script.sbatch(str(file), str(folder), before), str(file), env)
        except SchedulerError as exc:
            raise SchedulerError(f"Slurm did not accept the job: {exc}") from exc
        number = accepted.job
        ids = [f"{number}_{index}" for index in range(len(jobs))] if len(jobs) > 1 else [str(number)]
        files = _files(folder, ids)
        _name_after_jobs(slurm, written, files)
    except BaseException:
        slurm.machine.remove(written)
        raise
    credentials = [Path(job.credentials) for job in jobs if job.credentials]
    return Submitted(number, ids, accepted.cluster, str(file), [*files, *credentials])


def _name_after_jobs(slurm: Slurm, written: Sequence[Path], files: Sequence[Path]) -> None:
    """Give the files, the script first, the names under which the jobs look for them. A job that starts before waits a
    minute for its pickle, and then fails. So where no answer comes the jobs count as submitted: they run or fail."""
    folder, names = files[0].parent, {old.name: new.name for old, new in zip(written, files, strict=True)}
    for again in (True, False):
        try:
            with writing(folder):
                slurm.machine.rename(folder, names)
            return
        except SchedulerError as exc:
            if not is_silent(exc):
                done = slurm.take_back([str(written[0])])
                slurm.machine.remove(files)
                raise SchedulerError(f"{exc}; {done}") from exc
            if not again:
                log.warning(
                    "the job was submitted, but may fail in a minute: %s; `cefr-batch status` shows whether it did", exc
                )


def _pickled(job: SlurmJob, site: SlurmSite) -> bytes:
    delayed = DelayedSubmission(job)
    delayed.set_timeout(site.seconds // 60, site.max_restarts)
    with tempfile.TemporaryDirectory() as folder:
        delayed.dump(path := Path(folder, "job.pkl"))
        return path.read_bytes()


def _files(folder: Path, ids: Sequence[str]) -> list[Path]:
    """The script and the jobs' pickles, by the names under which the jobs look for them."""
    return [JobPaths(folder, ids[0]).submission_file, *(JobPaths(folder, job).submitted_pickle for job in ids)]


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """A block that writes files of a folder. ``OSError`` becomes a ``SchedulerError`` that says what to do."""
    try:
        yield
    except OSError as exc:
        raise SchedulerError(
            f"cannot write to {folder}: {exc.strerror or exc}; free some space, give access, or set `shared` in the site "
            "file to another folder"
        ) from exc
