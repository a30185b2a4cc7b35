"""Runs as jobs of a SLURM cluster, submitted through submitit."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from cefr_batch.errors import LaunchError
from cefr_batch.files import tail
from cefr_batch.launch.base import Batch, Check, Job, JobOrder, Observation, State
from cefr_batch.launch.secrets import SECRETS, write_secrets
from cefr_batch.launch.sites import SiteLauncher
from cefr_batch.launch.slurm import client
from cefr_batch.launch.slurm.client import Record
from cefr_batch.launch.slurm.script import Script, SlurmRequest, render
from cefr_batch.launch.slurm.site import SlurmSite, load_site
from cefr_batch.store import store_folder

_HANDLE = re.compile(r"slurm://(?P<cluster>[^/]+)/(?P<job>[0-9]+)(?:_(?P<task>[0-9]+))?")
_ASK_SECONDS = 10.0  # between two questions about the same jobs: whoever watches must not load the controller

# What a site may leave to the user's environment.
_LEFT_OPEN = {"SBATCH_ACCOUNT", "SBATCH_PARTITION", "SBATCH_QOS", "SBATCH_CONSTRAINT", "SBATCH_RESERVATION"}

# What ended a job, where Slurm's word for it needs one of ours.
_MEANINGS = {
    "OUT_OF_MEMORY": "its memory ran out; raise `memory` in the site file",
    "TIMEOUT": "it came to its time limit before it had stored a checkpoint; raise `signal_seconds` in the site file",
    "NODE_FAIL": "its node failed, and Slurm did not requeue it",
    "PREEMPTED": "it was preempted, and Slurm did not requeue it",
    "DEADLINE": "it came to its deadline",
}


class SlurmLauncher(SiteLauncher[SlurmRequest, SlurmSite]):
    scheme = "slurm"
    reports = requeues = True

    def load(self) -> SlurmSite:
        return load_site(self.site_name)

    def render(self, batch: Batch) -> SlurmRequest:
        return render(self.site, batch)

    def describe(self, request: SlurmRequest) -> str:
        return "\n".join(self._describe(request))

    def _describe(self, request: SlurmRequest) -> Iterator[str]:
        before: list[str] = []
        for number, script in enumerate(request.scripts, 1):
            yield f"$ {shlex.join(script.sbatch(f'script-{number}.sh', before))}"
            yield f"--- script-{number}.sh"
            yield script.text.rstrip("\n")
            yield "--- on the node"
            many = len(script.commands) > 1
            yield from (f"{f'{n}: ' if many else ''}{shlex.join(c)}" for n, c in enumerate(script.commands))
            before.append(f"JOB_{number}")

    def check(self, backends: Iterable[str], store_url: str) -> list[Check]:
        from cefr_batch.launch.slurm.checks import check

        store = store_folder(store_url)
        folders = [Path(self.site.shared), *([store] if store else [])]
        order = JobOrder("check", store_url)
        return check(self.site, self.site_file, folders, backends, lambda: self.render(Batch((order,))).scripts[0].text)

    def submit(self, request: SlurmRequest) -> list[str]:
        cluster = client.cluster_name()
        numbers: list[str] = []  # of the scripts, for what comes after all
        jobs: list[str] = []
        try:
            for script in request.scripts:
                ids = self._send(script, numbers)
                numbers.append(ids[0].partition("_")[0])
                jobs += ids
        except LaunchError as exc:
            if jobs and script.after_all:  # the runs are what counts
                print(f"warning: no report will be made after the runs: {exc}", file=sys.stderr)
            else:
                with suppress(LaunchError):
                    client.slurm("scancel", *numbers)
                raise
        ordered = sorted(zip((*request.order, len(request.order)), jobs, strict=False))
        return [f"slurm://{cluster}/{job}" for _, job in ordered]

    def _send(self, script: Script, before: Sequence[str]) -> list[str]:
        """Submit one script through submitit. Returns the ids of its jobs."""
        from cefr_batch.launch.slurm.job import SlurmJob
        from cefr_batch.launch.slurm.sender import send

        credentials = self._credentials(script)
        stop = signal.SIGUSR2 if self.site.container.runtime == "pyxis" else signal.SIGTERM
        jobs = [SlurmJob(command, credentials, stop) for command in script.commands]
        with _clean_environment(keep_secrets=self.site.credentials == "environment", script=script.text):
            return send(self.site, script, jobs, before)

    def _credentials(self, script: Script) -> str | None:
        """The file that the jobs read their keys from, written now; None where they inherit them or there are none.

        One for each store: whoever submits with new keys renews them for the jobs that still wait.
        """
        if self.site.credentials == "environment":
            return None
        tag = hashlib.sha256(script.store_url.encode()).hexdigest()[:8]
        path = Path(self.site.shared) / "credentials" / f"{tag}.json"
        return str(path) if write_secrets(path) else None

    def observe(self, jobs: Sequence[Job]) -> dict[Job, Observation]:
        ids, observations = {}, {}
        for job in jobs:
            try:
                ids[job] = _parse(job.handle)
            except LaunchError as exc:
                observations[job] = Observation(State.UNKNOWN, str(exc))
        records = _records(frozenset((number, task) for _, number, task in ids.values()))
        here = _this_cluster()
        return observations | {job: _observation(records, here, *where) for job, where in ids.items()}

    def cancel(self, jobs: Sequence[Job]) -> None:
        ids = [_parse(job.handle) for job in jobs]
        here = client.cluster_name()
        for job, (cluster, _, _) in zip(jobs, ids, strict=True):
            if cluster != here:
                raise LaunchError(f"{job.run} is on the cluster {cluster}; cancel it from a machine of that cluster")
        names = [str(number) if task is None else f"{number}_{task}" for _, number, task in ids]
        client.cancel(names)

    def last_output(self, job: Job, store_url: str) -> str:
        _, number, task = _parse(job.handle)
        name = f"{number}{'' if task is None else f'_{task}'}_0_log.out"
        return tail(self.site.jobs / name)


def _parse(handle: str) -> tuple[str, int, int | None]:
    match = _HANDLE.fullmatch(handle)
    if not match:
        raise LaunchError(f"{handle!r} is not a handle of a SLURM job")
    return match["cluster"], int(match["job"]), int(match["task"]) if match["task"] else None


Key = tuple[int, int | None]
_last: tuple[float, frozenset[Key], dict[Key, Record]] | None = None


def _records(asked: frozenset[Key]) -> dict[Key, Record]:
    """The newest record of each job: accounting's, and the queue's for what accounting does not know to have ended.

    The queue has the last word: a job that was preempted is PREEMPTED in accounting until it has been requeued.
    """
    global _last
    if _last and _last[1] == asked and time.monotonic() - _last[0] < _ASK_SECONDS:
        return _last[2]
    accounted, failure = _try_account({job for job, _ in asked})
    known = {(record.job, record.task): record for record in accounted}
    unsettled = {key for key in asked if key not in known or _may_go_on(known[key])}
    if unsettled:
        try:
            queued = {(record.job, record.task): record for record in client.queue({job for job, _ in unsettled})}
        except LaunchError as exc:
            if failure:
                raise LaunchError(f"{exc}; and {failure}") from exc
            doubtful = {key for key in unsettled if key in known and known[key].our_state.finished}  # or requeued
        else:
            alive = {
                key for key in unsettled if key in known and known[key].our_state in (State.PENDING, State.RUNNING)
            }
            doubtful = alive - set(queued)  # lost by the controller
            known |= queued
        known = {key: record for key, record in known.items() if key not in doubtful}
    _last = (time.monotonic(), asked, known)
    return known


def _try_account(jobs: Iterable[int]) -> tuple[list[Record], LaunchError | None]:
    """Accounting may be missing or broken: then the queue, and what the runs say of themselves, have to do."""
    try:
        return client.account(jobs), None
    except LaunchError as exc:
        return [], exc


def _may_go_on(record: Record) -> bool:
    return not record.our_state.finished or record.state in ("PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "REVOKED")


def _this_cluster() -> str | None:
    try:
        return client.cluster_name()
    except LaunchError:
        return None


def _observation(
    records: dict[Key, Record], here: str | None, cluster: str, number: int, task: int | None
) -> Observation:
    if here and here != cluster:
        return Observation(State.UNKNOWN, f"its job is on the cluster {cluster}, and this machine belongs to {here}")
    record = records.get((number, task))
    if record is None:
        name = number if task is None else f"{number}_{task}"
        return Observation(State.UNKNOWN, f"Slurm does not know its job {name} any more")
    words = _in_words(record)
    return Observation(record.our_state, words, detail=words)


def _in_words(record: Record) -> str:
    """Slurm's own words, and what they mean."""
    where = f" on {record.nodes}" if record.nodes else ""
    if not record.our_state.finished:
        why = f" ({record.reason})" if record.reason else ""
        since = f" for {record.elapsed}" if record.our_state is State.RUNNING and record.elapsed else ""
        return f"{record.state} in Slurm{why}{where}{since}"
    after = f" after {record.elapsed}" if record.elapsed else ""
    code = f" with exit code {record.exit_code}" if record.state == "FAILED" and record.exit_code else ""
    meaning = f": {_MEANINGS[record.state]}" if record.state in _MEANINGS else ""
    return f"{record.state} in Slurm{code}{where}{after}{meaning}"


@contextmanager
def _clean_environment(*, keep_secrets: bool, script: str) -> Iterator[None]:
    """What sbatch hands on to the job is this process's environment: without an allocation's variables, without
    secrets, and without sbatch's own variables, which override a script: what the site leaves open may stand there."""
    before = dict(os.environ)
    said = {f"SBATCH_{option.upper()}" for option in re.findall(r"^#SBATCH --([a-z]+)", script, re.MULTILINE)}
    drop = said | set(() if keep_secrets else SECRETS)
    drop |= {key for key in before if key.startswith("SBATCH_") and key not in _LEFT_OPEN}
    kept = {key: value for key, value in client.environment().items() if key not in drop}
    os.environ.clear()
    os.environ.update(kept)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
