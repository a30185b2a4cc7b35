"""Scripts to Slurm through submitit, which pickles the jobs, names their files and has them requeued."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from submitit import SlurmExecutor
from submitit.core.utils import DelayedSubmission, JobPaths
from submitit.slurm.slurm import SlurmJob as SubmittedJob

from cefr_batch.errors import LaunchError
from cefr_batch.launch.slurm.job import SlurmJob
from cefr_batch.launch.slurm.script import Script
from cefr_batch.launch.slurm.site import SlurmSite


def send(site: SlurmSite, script: Script, jobs: Sequence[SlurmJob], before: Sequence[str]) -> list[str]:
    """Submit the script's jobs with one ``sbatch``. Returns their ids, ``7`` or ``7_0`` …. Raises ``LaunchError``."""
    try:
        site.jobs.mkdir(parents=True, exist_ok=True)
        executor = _Executor(site, script, before)
        with executor.batch():
            submitted = [executor.submit(job) for job in jobs]
    except (RuntimeError, OSError) as exc:  # submitit's own errors are RuntimeErrors
        raise LaunchError(f"Slurm did not take the job: {' '.join(str(exc).split())}") from exc
    return [job.job_id for job in submitted]


class _Executor(SlurmExecutor):
    """submitit's, with our script instead of its own, for arrays too (there it makes a plain executor)."""

    def __init__(self, site: SlurmSite, script: Script, before: Sequence[str]) -> None:
        super().__init__(site.jobs, max_num_timeout=site.max_restarts)
        self.update_parameters(time=site.seconds // 60)
        self._script, self._before = script, before

    def _make_submission_file_text(self, command: str, uid: str) -> str:
        return self._script.text

    def _make_submission_command(self, submission_file_path: Path) -> list[str]:
        return self._script.sbatch(str(submission_file_path), self._before)

    def _internal_process_submissions(self, delayed_submissions: list[DelayedSubmission]) -> list[Any]:
        if len(delayed_submissions) == 1:
            submitted: list[Any] = super()._internal_process_submissions(delayed_submissions)
            return submitted
        folder = JobPaths.get_first_id_independent_folder(self.folder)
        pickles = [folder / f"{uuid4().hex}.pkl" for _ in delayed_submissions]
        for delayed, path in zip(delayed_submissions, pickles, strict=True):
            delayed.set_timeout(self.parameters["time"], self.max_num_timeout)
            delayed.dump(path)
        array = self._submit_command(self._submitit_command_str)
        jobs: list[Any] = [SubmittedJob(self.folder, f"{array.job_id}_{n}", tasks=[0]) for n in range(len(pickles))]
        try:
            for job, path in zip(jobs, pickles, strict=True):
                job.paths.move_temporary_file(path, "submitted_pickle")
        except OSError:
            array.cancel(check=False)
            raise
        return jobs
