"""Runs as jobs of a SLURM cluster."""

from __future__ import annotations

import logging
import re
import shlex
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote
from uuid import uuid4

from typing_extensions import override

from cefr_batch.config.layers import settings_files
from cefr_batch.errors import SchedulerError, SpecError
from cefr_batch.schedulers.base import Check, Job, JobGroup, JobSpec, Observation, State
from cefr_batch.schedulers.draft import DraftSetting
from cefr_batch.schedulers.secrets import as_json, is_job_secret, secrets
from cefr_batch.schedulers.sites import SiteFile, SiteScheduler, check_image
from cefr_batch.schedulers.slurm import client
from cefr_batch.schedulers.slurm.client import JobKey, QueueEntry, Slurm
from cefr_batch.schedulers.slurm.job import STOPPED, SlurmJob
from cefr_batch.schedulers.slurm.machine import ThisMachine
from cefr_batch.schedulers.slurm.observe import SlurmCluster, observation
from cefr_batch.schedulers.slurm.script import (
    GROUP,
    LOG,
    Script,
    SlurmRequest,
    folder_name,
    is_script,
    render,
    script_tag,
    store_tag,
)
from cefr_batch.schedulers.slurm.site import SlurmSite, load_site, read_site
from cefr_batch.schedulers.slurm.ssh import OverSsh
from cefr_batch.store import store_folder, unreachable_endpoint

if TYPE_CHECKING:
    from cefr_batch.schedulers.slurm.submit import Submitted

log = logging.getLogger(__name__)

_HANDLE = re.compile(
    r"slurm://(?:(?P<site>[^/@]+)@)?(?P<cluster>[^/@]+)/(?P<job>[0-9]{1,10})(?:_(?P<task>[0-9]{1,10}))?"
)

_OLD_MINUTES = 60

# sbatch's own variables override options of the script. These a site may leave to the user's environment.
_LEFT_TO_USER = {"SBATCH_ACCOUNT", "SBATCH_PARTITION", "SBATCH_QOS", "SBATCH_CONSTRAINT", "SBATCH_RESERVATION"}


class SlurmScheduler(SiteScheduler[SlurmRequest, SlurmSite]):
    """A SLURM cluster, through the commands of a login node: this machine, or over SSH the ``host`` of the site file.

    Handles: ``slurm://CLUSTER/JOB`` or ``…/JOB_TASK``; with a host ``slurm://SITE@CLUSTER/JOB``: the site file of this
    machine says the host, never a store.
    """

    scheme = "slurm"
    by_hand = "`squeue --me`, `scancel ID`"
    reports = requeues = True

    def __init__(self, site: str = "default") -> None:
        super().__init__(site)
        self._here = SlurmCluster(ThisMachine())
        self._by_host: dict[str, SlurmCluster] = {}

    @override
    def load(self) -> SiteFile[SlurmSite]:
        return read_site(self.site_name)

    def _at(self, host: str | None) -> SlurmCluster:
        return self._by_host.setdefault(host, SlurmCluster(OverSsh(host))) if host else self._here

    def _of_site(self, name: str) -> SlurmCluster:
        """The cluster with the jobs of this site; empty: of one without a host. A login node needs no site file for jobs
        that were submitted from elsewhere. Raises ``SpecError`` for a file that cannot be used."""
        if not name or name not in settings_files("slurm"):
            return self._here
        return self._at((self.site if name == self.site_name else load_site(name)).host)

    @override
    def draft(self, host: str | None = None) -> list[DraftSetting]:
        from cefr_batch.schedulers.slurm.draft import draft

        return draft(host)

    @override
    def render(self, group: JobGroup) -> SlurmRequest:
        why = unreachable_endpoint(group.jobs[0].store_url, inside="job", there="node")
        if self.site.host and why:
            raise SchedulerError(why)
        return render(self.site, group)

    @override
    def describe(self, request: SlurmRequest) -> str:
        return "\n".join(_lines(request, self.site.jobs))

    @override
    def check_settings(self, backends: Iterable[str]) -> list[Check]:
        site = self.readable_site
        if site is None or site.container.runtime == "none":  # the Python that jobs use is asked
            return []
        where, image = f"{self.site_file}: container.image", site.container.image
        return list(check_image(where, image, backends, has_gpu=site.gpus != 0)) if image else []

    @override
    def check(self, backends: Iterable[str], store_url: str) -> list[Check]:
        from cefr_batch.schedulers.slurm.checks import check

        if (site := self.readable_site) is None:
            return self.not_asked()
        script = render(site, JobGroup((JobSpec("check", store_url),))).scripts[0].text
        host, wanted = site.host, tuple(backends)
        try:
            found = check(self._at(host).slurm, site, self.site_file, store_url, wanted, script)
        except SchedulerError as exc:
            if host and client.is_silent(exc):
                return [Check(f"host {host}", str(exc))]
            raise
        return [*([Check(f"host {host}")] if host else []), *found, *self.check_settings(wanted)]

    @override
    def submit(self, request: SlurmRequest) -> list[str]:
        there = self._at(self.site.host)
        cluster = there.controller.cluster(patiently=True)
        done: list[Submitted] = []
        self._forget_old_credentials(there.slurm, cluster)
        try:
            for script in request.scripts:
                done.append(self._submit(there.slurm, script, cluster, [str(one.number) for one in done]))
        except SchedulerError as exc:
            if not (done and script.after_all):
                _take_back(there.slurm, done)
                raise
            log.warning("no report will be written after the runs: %s; write it with `cefr-batch report`", exc)
        site = f"{quote(self.site_name, safe='')}@" if self.site.host else ""
        handles = [f"slurm://{site}{one.cluster or cluster}/{job}" for one in done for job in one.ids]
        in_order = sorted(zip((*request.positions, len(request.positions)), handles, strict=False))
        return [handle for _, handle in in_order]

    def _submit(self, slurm: Slurm, script: Script, cluster: str, before: Sequence[str]) -> Submitted:
        """Submit one script."""
        from cefr_batch.schedulers.slurm.submit import submit

        tag = uuid4().hex
        credentials = self._credentials(slurm, script, cluster, tag)
        stop = signal.SIGUSR2 if self.site.container.runtime == "pyxis" else signal.SIGTERM
        given = map(str, credentials) if credentials else repeat(None)
        jobs = [SlurmJob(command, path, stop) for command, path in zip(script.commands, given, strict=False)]
        env = _job_environment(script, slurm.environment, keep_secrets=self.site.credentials == "environment")
        folder = self.site.jobs / cluster / script.folder
        try:
            return submit(slurm, self.site, script, jobs, folder, tag, before, env)
        except SchedulerError:
            slurm.machine.remove(credentials)
            raise

    def _credentials(self, slurm: Slurm, script: Script, cluster: str, tag: str) -> list[Path]:
        """The files that the jobs read their secrets from, written now: one for each, which it removes when it ends. None if
        they inherit them or there are none. Submitting again with new secrets renews those of the store's other jobs."""
        from cefr_batch.schedulers.slurm.submit import writing

        found = as_json(store=store_folder(script.store_url) is None)
        if self.site.credentials == "environment" or not found:
            return []
        folder, store = self.site.credentials_folder / cluster, store_tag(script.store_url)
        own = [folder / f"{store}-{tag}_{index}.json" for index in range(len(script.commands))]
        with writing(folder):
            others = slurm.machine.find(folder, f"{store}-*.json")
            slurm.machine.write(folder, {path.name: found for path in (*others, *own)}, private=True)
        return own

    def _forget_old_credentials(self, slurm: Slurm, cluster: str) -> None:
        """Remove those of jobs that ended without doing so: cancelled before they started, or killed and not requeued. Those
        of the last hour may be of a submission beside this one."""
        with suppress(SchedulerError, OSError):
            old = slurm.machine.find(self.site.credentials_folder / cluster, "*_*.json", minutes=_OLD_MINUTES)
            alive = {script_tag(path) for path in slurm.own_scripts()} if old else set()
            slurm.machine.remove(path for path in old if path.stem.partition("-")[2].partition("_")[0] not in alive)

    @override
    def observe(self, jobs: Sequence[Job]) -> dict[Job, Observation]:
        found: dict[Job, Observation] = {}
        by_cluster: dict[SlurmCluster, dict[Job, tuple[str, JobKey]]] = {}
        for job in jobs:
            try:
                site, cluster, key = _parse(job.handle)
                there = self._of_site(site)
            except (SchedulerError, SpecError) as exc:
                found[job] = Observation(State.UNKNOWN, str(exc))
            else:
                by_cluster.setdefault(there, {})[job] = cluster, key
        for there, references in by_cluster.items():
            try:
                found |= _observe(there, references)
            except SchedulerError as exc:
                if len(by_cluster) == 1:
                    raise
                found |= dict.fromkeys(references, Observation(State.UNKNOWN, str(exc)))
        return found

    @override
    def cancel(self, jobs: Sequence[Job], store_url: str) -> None:
        by_cluster: dict[SlurmCluster, dict[Job, JobKey]] = {}
        for job in jobs:
            site, cluster, key = _parse(job.handle)
            there = self._of_site(site)
            if cluster != there.controller.cluster():
                raise SchedulerError(f"{job.run} is on the cluster {cluster}; cancel it from a machine of that cluster")
            by_cluster.setdefault(there, {})[job] = key
        known = {there: _own(there.slurm, keys) for there, keys in by_cluster.items()}
        for there, numbers in known.items():
            if numbers:
                there.slurm.cancel(numbers)

    @override
    def last_words(self, job: Job, store_url: str) -> str:
        lines = self.tail_log(job, store_url).splitlines()
        return next((line.removeprefix(STOPPED) for line in reversed(lines) if line.startswith(STOPPED)), "")

    @override
    def tail_log(self, job: Job, store_url: str) -> str:
        site, cluster, key = _parse(job.handle)
        machine = self._of_site(site).machine
        name, jobs = f"{_id(*key)}{LOG}", self.site.jobs
        if printed := machine.tail(jobs / cluster / folder_name(job.run, store_url) / name):
            return printed
        of_array = machine.find(jobs / cluster, f"*-{store_tag(store_url)}/{name}")  # in the folder of its first run
        return machine.tail(of_array[0] if of_array else jobs / name)  # as 0.1.0 named it


def _observe(there: SlurmCluster, references: Mapping[Job, tuple[str, JobKey]]) -> dict[Job, Observation]:
    """What one machine sees of these jobs; each with the name of its cluster."""
    found: dict[Job, Observation] = {}
    keys: dict[Job, JobKey] = {}
    known, silent = _name_if_known(there)
    for job, (cluster, key) in references.items():
        if known and known != cluster:
            reason = f"its job is on the cluster {cluster}, and this machine belongs to {known}; ask from there"
            found[job] = Observation(State.UNKNOWN, reason)
        else:
            keys[job] = key
    records = there.records.get(frozenset(keys.values()), silent) if keys else {}
    shows_all = there.controller.shows_all
    return found | {
        job: observation(key, records.get(key), there.records.turn(key), shows_all=shows_all)
        for job, key in keys.items()
    }


def _name_if_known(there: SlurmCluster) -> tuple[str, SchedulerError | None]:
    """The name of the cluster; empty if it is not known, and why if the controller is silent."""
    try:
        return there.controller.cluster(), None
    except SchedulerError as exc:
        return "", exc if client.is_silent(exc) else None


def _own(slurm: Slurm, keys: Mapping[Job, JobKey]) -> list[str]:
    """The ids of these jobs, without those that have ended. Raises ``SchedulerError`` unless each is what ``submit`` sent
    for the run: Slurm gives a number again after a while, and submission.json may have been edited."""
    entries = slurm.entries({number for number, _ in keys.values()})
    known = {job: key for job, key in keys.items() if key in entries}
    for job, key in known.items():
        _require_own(job, _id(*key), entries[key], slurm.machine.uid)
    return [_id(*key) for key in known.values()]


def _require_own(job: Job, number: str, entry: QueueEntry, uid: int) -> None:
    mine = uid in (entry.user, 0)
    if not mine or entry.name not in (job.run, GROUP) or not is_script(entry.script):
        raise SchedulerError(
            f"Slurm's job {number} ({entry.name}, of the user {entry.user}) is not the job of {job.run}, so it was not "
            "cancelled: its number was reused, submission.json was edited, or another user submitted it, who can "
            f"cancel it. If it is yours: scancel {number}"
        )


def _take_back(slurm: Slurm, done: Sequence[Submitted]) -> None:
    """Cancel what was submitted of a request that failed, by scripts (a number may be a wrapper's invention), and remove its
    files."""
    if done:
        slurm.take_back([one.script for one in done])
        slurm.machine.remove(path for one in done for path in one.files)


def _lines(request: SlurmRequest, jobs: Path) -> Iterator[str]:
    """The request as lines of text."""
    before: list[str] = []
    for number, script in enumerate(request.scripts, 1):
        folder = str(jobs / "CLUSTER" / script.folder)
        yield f"$ {shlex.join(script.sbatch(f'script-{number}.sh', folder, before))}"
        yield f"--- script-{number}.sh"
        yield script.text.rstrip("\n")
        yield "--- on the node"
        many = len(script.commands) > 1
        yield from (f"{f'{index}: ' if many else ''}{shlex.join(c)}" for index, c in enumerate(script.commands))
        before.append(f"JOB_{number}")


def _parse(handle: str) -> tuple[str, str, JobKey]:
    """A handle's site (empty: of this machine), cluster and job. Raises ``SchedulerError``."""
    match = _HANDLE.fullmatch(handle)
    if not match:
        raise SchedulerError(
            f"{handle!r} is not the id of a Slurm job (slurm://CLUSTER/JOB); was the run's submission.json edited? "
            "Restore it from a copy"
        )
    task = int(match["task"]) if match["task"] else None
    return unquote(match["site"] or ""), match["cluster"], (int(match["job"]), task)


def _id(number: int, task: int | None) -> str:
    """A job as Slurm's commands name it."""
    return f"{number}" if task is None else f"{number}_{task}"


def _job_environment(script: Script, variables: Mapping[str, str], *, keep_secrets: bool) -> dict[str, str]:
    """The environment for sbatch, which it hands on to the job: these variables, without secrets and sbatch's own ones,
    except those for options that the script leaves open and a site may leave to the user. ``keep_secrets``: with this
    process's."""
    in_script = {f"SBATCH_{option.upper()}" for option in re.findall(r"^#SBATCH --([a-z]+)", script.text, re.MULTILINE)}
    allowed = _LEFT_TO_USER - in_script
    return {
        key: value
        for key, value in variables.items()
        if not is_job_secret(key) and (key in allowed or not key.startswith("SBATCH_"))
    } | (secrets() if keep_secrets else {})
