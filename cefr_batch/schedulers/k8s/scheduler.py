"""Runs as Jobs of a Kubernetes cluster."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from threading import RLock
from urllib.parse import quote, unquote

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed
from typing_extensions import override

from cefr_batch.errors import SchedulerError
from cefr_batch.schedulers.base import Check, Job, JobGroup, JobSpec, Observation, State
from cefr_batch.schedulers.draft import DraftSetting
from cefr_batch.schedulers.k8s.client import IN_CLUSTER, ApiError, Cluster, Object, connect, in_pod_alone
from cefr_batch.schedulers.k8s.manifest import CONTAINER, MANAGED, STORE, JobName, KubernetesRequest, render, runs_of
from cefr_batch.schedulers.k8s.site import KubernetesSite, read_site
from cefr_batch.schedulers.k8s.status import ended_indexes, explained_by, finished, in_queue, index_of, is_lost, observe
from cefr_batch.schedulers.sites import SiteFile, SiteScheduler, check_image
from cefr_batch.store import below

log = logging.getLogger(__name__)

_HANDLE = re.compile(
    r"k8s://(?P<context>[^/]+)/(?P<namespace>[^/]+)/(?P<name>[^/#]+)(?:/(?P<index>[0-9]{1,10}))?(?:#(?P<uid>[0-9a-f]{8}))?"
)
_POLL_SECONDS = 3.0  # how long a snapshot of a namespace counts: whoever watches must not load the API server
_JOB_LABELS = ("batch.kubernetes.io/job-name", "job-name")  # that the Job controller gives a pod; the older one last
_DELETION_SECONDS = 60.0  # that a deleted Job may take to be gone, besides its pods' grace period
_LOG_BYTES = 2000
_ASKED_ONE_BY_ONE = 8  # objects whose events are asked for; of more, all events of the namespace are
_MANAGED = ",".join(f"{key}={value}" for key, value in MANAGED.items())  # a label selector


@dataclass(frozen=True)
class JobReference:
    """A job, and the cluster and the namespace that it is in: what its handle says. ``uid``: the first 8 characters of its
    Job's UID, since other stores may use the same names; empty in handles of 0.1.0."""

    context: str
    namespace: str
    job: JobName
    uid: str = ""

    @property
    def handle(self) -> str:
        """``k8s://CONTEXT/NAMESPACE/JOB[/INDEX][#UID]``, with the context quoted: it may be an ARN with slashes."""
        index = "" if self.job.index is None else f"/{self.job.index}"
        uid = f"#{self.uid}" if self.uid else ""
        return f"k8s://{quote(self.context, safe='')}/{self.namespace}/{self.job.name}{index}{uid}"

    @classmethod
    def parse(cls, handle: str) -> JobReference:
        """The reference that has this handle. Raises ``SchedulerError`` for a handle of another scheduler."""
        match = _HANDLE.fullmatch(handle)
        if not match:
            raise SchedulerError(
                f"{handle!r} is not the id of a Kubernetes job (k8s://CONTEXT/NAMESPACE/JOB); was the run's "
                "submission.json edited? Restore it from a copy"
            )
        name = JobName(match["name"], int(match["index"]) if match["index"] else None)
        return cls(unquote(match["context"]), match["namespace"], name, match["uid"] or "")

    def is_of(self, uid: str) -> bool:
        """Whether the job's Job has this UID, as far as the handle tells."""
        return not (self.uid and uid) or _short(uid) == self.uid


@dataclass
class _NamespaceSnapshot:
    """All Jobs and pods of cefr-batch in a namespace: two requests, however many runs there are."""

    cluster: Cluster
    namespace: str
    jobs: dict[str, Object]  # by name
    pods: list[Object]
    taken_at: float  # by the monotonic clock: what was created later is not in it
    _warnings: dict[str, list[Object]] = field(default_factory=dict)  # by the UID of what they are about

    @classmethod
    def take(cls, cluster: Cluster, namespace: str) -> _NamespaceSnapshot:
        now = time.monotonic()
        jobs = {job["metadata"]["name"]: job for job in cluster.jobs(namespace, _MANAGED)}
        return cls(cluster, namespace, jobs, cluster.pods(namespace, _MANAGED), now)

    @property
    def outdated(self) -> bool:
        return time.monotonic() - self.taken_at > _POLL_SECONDS

    @cached_property
    def _workloads(self) -> dict[str, Object]:
        """Kueue's objects by the UIDs of the Jobs that own them, requested when a job needs them."""
        found = _if_allowed(self.cluster.workloads, self.namespace)
        return {owner["uid"]: one for one in found for owner in one["metadata"].get("ownerReferences") or []}

    def job_of(self, reference: JobReference) -> Object | None:
        """The Job; None if there is none, or only one of the same name that was created later."""
        job = self.jobs.get(reference.job.name)
        return job if job and reference.is_of(str(job["metadata"].get("uid", ""))) else None

    def pods_of(self, reference: JobReference) -> list[Object]:
        """The pods of a job; of its index alone, if it has one. A pod without an index may be any index's: a server that
        knows no Indexed Jobs starts such."""
        name = reference.job
        mine = [pod for pod in self.pods if _owner(pod)[0] == name.name and reference.is_of(_owner(pod)[1])]
        return [pod for pod in mine if name.index is None or index_of(pod) in (None, name.index)]

    def observations(self, references: Iterable[JobReference]) -> dict[JobReference, Observation]:
        """What is known of these jobs."""
        known = {one: (self.job_of(one), self.pods_of(one)) for one in references}
        self._ask_about({uid for job, pods in known.values() for uid in explained_by(job, pods)})
        return {one: self._observation(one.job, *found) for one, found in known.items()}

    def _observation(self, name: JobName, job: Object | None, pods: list[Object]) -> Observation:
        warnings = [event for uid in explained_by(job, pods) for event in self._warnings.get(uid, [])]
        workload = self._workloads.get(job["metadata"]["uid"]) if job and in_queue(job) else None
        return observe(name, job, pods, warnings, workload=workload)

    def _ask_about(self, uids: set[str]) -> None:
        """Read the warning events about these objects; none for a user who may not list events."""
        new = uids - self._warnings.keys()
        if len(new) <= _ASKED_ONE_BY_ONE:
            self._warnings |= {uid: _if_allowed(self.cluster.warnings, self.namespace, uid) for uid in new}
            return
        self._warnings |= {uid: [] for uid in new}
        for event in _if_allowed(self.cluster.warnings, self.namespace):
            self._warnings.get(str((event.get("involvedObject") or {}).get("uid")), []).append(event)


class KubernetesScheduler(SiteScheduler[KubernetesRequest, KubernetesSite]):
    """Jobs of a cluster of the kubeconfig, as ``k8s/NAME.yaml`` describes them.

    Keeps its connections, and what it saw of a namespace for three seconds: whoever polls keeps the object.
    """

    scheme = "k8s"
    by_hand = "`kubectl get jobs`, `kubectl delete job NAME`"
    reports = requeues = retries = True
    sees_files = False

    def __init__(self, site: str = "default") -> None:
        super().__init__(site)
        self._clusters: dict[str | None, Cluster] = {}
        self._snapshots: dict[tuple[str, str], _NamespaceSnapshot] = {}  # by context and namespace
        self._lock = RLock()  # whoever shows many runs asks for their logs at the same time

    @property
    @override
    def adds_packages(self) -> bool:
        site = self.readable_site
        return site is None or "PYTHONPATH" in site.environment

    @override
    def load(self) -> SiteFile[KubernetesSite]:
        return read_site(self.site_name)

    @override
    def lacks_variable(self, name: str) -> str:
        if any(key.variable == name for key in self.site.secret_keys):
            return ""
        return f"pods get no {name}; set notify_secret in {self.site_file} to a Secret that has it as a key"

    @override
    def draft(self, host: str | None = None) -> list[DraftSetting]:
        from cefr_batch.schedulers.k8s.draft import draft

        return draft()

    @override
    def render(self, group: JobGroup) -> KubernetesRequest:
        return render(self.site, group)

    @override
    def describe(self, request: KubernetesRequest) -> str:
        return request.yaml().rstrip("\n")

    @override
    def check_settings(self, backends: Iterable[str]) -> list[Check]:
        if (site := self.readable_site) is None:
            return []
        return list(check_image(f"{self.site_file}: image", site.image, backends, has_gpu=site.gpus > 0))

    @override
    def check(self, backends: Iterable[str], store_url: str) -> list[Check]:
        from cefr_batch.schedulers.k8s.checks import check

        if (site := self.readable_site) is None:
            return self.not_asked()
        specs = tuple(JobSpec(run, store_url) for run in ("cefr-batch-check", "cefr-batch-check-2"))
        try:
            jobs = render(site, JobGroup(specs, below(store_url, "reports/cefr-batch-check"))).objects
        except SchedulerError as exc:
            return [Check(f"store {store_url}", str(exc)), *self.check_settings(backends)]
        return [*check(site, self.site_file, store_url, jobs), *self.check_settings(backends)]

    @override
    def submit(self, request: KubernetesRequest) -> list[str]:
        """Idempotent: a run's Job that is not finished is kept as it is; a finished one is deleted and created again."""
        cluster = self._connect(request.context)
        namespace = request.namespace or cluster.namespace
        self._forget(cluster.context, namespace)
        found: dict[str, Object] = {}
        created: list[Object] = []
        for item in request.objects:
            name = item["metadata"]["name"]
            try:
                found[name], new = _create(cluster, namespace, item)
                created += [found[name]] if new else []
            except SchedulerError as exc:
                if request.report and name == request.report.name:  # the runs are worth more than their report
                    log.warning("no report will be written after the runs: %s", exc)
                    continue
                for one in created:
                    with suppress(SchedulerError):
                        cluster.delete_job(namespace, one)
                raise
        jobs = [job for job in (*request.jobs, request.report) if job and job.name in found]
        uids = {name: _short(str(job["metadata"].get("uid", ""))) for name, job in found.items()}
        return [JobReference(cluster.context, namespace, job, uids[job.name]).handle for job in jobs]

    @override
    def observe(self, jobs: Sequence[Job]) -> dict[Job, Observation]:
        observed: dict[Job, Observation] = {}
        by_namespace: dict[tuple[str, str], dict[Job, JobReference]] = {}
        for job in jobs:
            try:
                reference = JobReference.parse(job.handle)
            except SchedulerError as exc:
                observed[job] = Observation(State.UNKNOWN, str(exc))
            else:
                by_namespace.setdefault((reference.context, reference.namespace), {})[job] = reference
        for (context, namespace), references in by_namespace.items():
            observed |= self._observe(context, namespace, references)
        return observed

    @override
    def cancel(self, jobs: Sequence[Job], store_url: str) -> None:
        """Deletes the Jobs; their pods get SIGTERM, and have their grace period to store a checkpoint."""
        references = {job.run: JobReference.parse(job.handle) for job in jobs}
        found: list[tuple[Cluster, str, Object]] = []
        for context, namespace in dict.fromkeys((one.context, one.namespace) for one in references.values()):
            chosen = {
                run: one.job for run, one in references.items() if (one.context, one.namespace) == (context, namespace)
            }
            cluster = self._connect(context)
            found += [(cluster, namespace, job) for job in self._to_cancel(cluster, namespace, chosen, store_url)]
        for cluster, namespace, job in found:
            cluster.delete_job(namespace, job)

    @override
    def release(self, jobs: Sequence[Job], store_url: str) -> None:
        """Deletes those pods of which their nodes no longer say how they are: Kubernetes does so only when a node is back or
        removed, and starts no other pod until then."""
        for job in jobs:
            reference = JobReference.parse(job.handle)
            self._forget(reference.context, reference.namespace)
            snapshot = self._snapshot(reference.context, reference.namespace)
            if found := snapshot.job_of(reference):
                _require_own(found, reference.job, job.run, store_url, reference.namespace, "its pod was not deleted")
            for pod in filter(is_lost, snapshot.pods_of(reference)):
                _delete_pod(snapshot.cluster, reference.namespace, pod)
            self._forget(reference.context, reference.namespace)

    @override
    def tail_log(self, job: Job, store_url: str) -> str:
        reference = JobReference.parse(job.handle)
        snapshot = self._snapshot(reference.context, reference.namespace)
        pods = snapshot.pods_of(reference)
        newest = max(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]), default=None)
        with suppress(ApiError):  # its container was never started
            name = newest["metadata"]["name"] if newest else ""
            return snapshot.cluster.log(reference.namespace, name, CONTAINER, _LOG_BYTES) if newest else ""
        return ""

    def _connect(self, context: str | None) -> Cluster:
        with self._lock:
            if context not in self._clusters:
                self._clusters[context] = connect(context)
            return self._clusters[context]

    def _observe(self, context: str, namespace: str, references: Mapping[Job, JobReference]) -> dict[Job, Observation]:
        asked_at = time.monotonic()
        try:
            here = IN_CLUSTER if in_pod_alone() else context  # the report's own pod: these are jobs of its cluster
            snapshot = self._snapshot(here, namespace)
            if snapshot.taken_at < asked_at and not all(map(snapshot.job_of, references.values())):
                self._forget(here, namespace)  # one of these Jobs may have been created since, by another process
                snapshot = self._snapshot(here, namespace)
            found = snapshot.observations(references.values())
        except SchedulerError as exc:
            return {job: Observation(State.UNKNOWN, str(exc)) for job in references}
        if here != context:
            found = {one: _or_elsewhere(seen, context) for one, seen in found.items()}
        return {job: found[reference] for job, reference in references.items()}

    def _snapshot(self, context: str, namespace: str) -> _NamespaceSnapshot:
        """The newest snapshot, or a new one when it is outdated."""
        key = (context, namespace)
        with self._lock:
            if key not in self._snapshots or self._snapshots[key].outdated:
                self._snapshots[key] = _NamespaceSnapshot.take(self._connect(context), namespace)
            return self._snapshots[key]

    def _forget(self, context: str, namespace: str) -> None:
        """What was seen of a Job is not true of its successor."""
        self._snapshots.pop((context, namespace), None)

    def _to_cancel(
        self, cluster: Cluster, namespace: str, chosen: Mapping[str, JobName], store_url: str
    ) -> list[Object]:
        """The Jobs of these runs that have not ended. Raises ``SchedulerError`` unless all may be deleted."""
        self._forget(cluster.context, namespace)
        jobs = {job["metadata"]["name"]: job for job in cluster.jobs(namespace, _MANAGED)}
        names = [name for name in dict.fromkeys(one.name for one in chosen.values()) if name in jobs]
        for name in names:
            mine = {run: one for run, one in chosen.items() if one.name == name}
            for run, one in mine.items():
                _require_own(jobs[name], one, run, store_url, namespace, "it was not cancelled")
            _refuse_part(jobs[name], list(mine.values()))
        return [jobs[name] for name in names if not finished(jobs[name])]


def _or_elsewhere(seen: Observation, context: str) -> Observation:
    """As seen; but a Job that this pod's cluster does not have may be in another one of the context's name."""
    why = f"this pod's cluster has no such Job, and the pod has no kubeconfig to look in the context {context}"
    return Observation(State.UNKNOWN, why) if seen.not_found else seen


def _owner(pod: Object) -> tuple[str | None, str]:
    """The name of the Job that a pod is of, by its owner or by its labels, and the Job's UID, if the owner tells it."""
    for one in pod["metadata"].get("ownerReferences") or []:
        if one.get("kind") == "Job":
            return one.get("name"), str(one.get("uid", ""))
    labels = pod["metadata"].get("labels") or {}
    return next((str(labels[key]) for key in _JOB_LABELS if key in labels), None), ""


def _short(uid: str) -> str:
    return uid[:8] if re.fullmatch(r"[0-9a-f]{8}.*", uid) else ""


def _if_allowed(function: Callable[..., list[Object]], *arguments: str) -> list[Object]:
    """What the function lists; nothing for a user who may not."""
    try:
        return function(*arguments)
    except ApiError as exc:
        if exc.status != 403:
            raise
        return []


def _delete_pod(cluster: Cluster, namespace: str, pod: Object) -> None:
    name = pod["metadata"]["name"]
    try:
        cluster.delete_pod(namespace, pod)
    except ApiError as exc:
        by_hand = f"kubectl delete pod {name} --namespace {namespace} --grace-period=0 --force"
        raise SchedulerError(f"the pod {name} cannot be deleted: {exc}; somebody who may do it can: {by_hand}") from exc
    log.warning("the pod %s was deleted, although its node does not say whether it still runs", name)


class _BeingDeleted(SchedulerError):
    """A finished Job of the same name is not gone yet."""


def _create(cluster: Cluster, namespace: str, job: Object) -> tuple[Object, bool]:
    """The Job in the cluster, and whether it was created; else there is one already that is not finished.

    Blocks while a finished one is deleted: as long as its pods' grace period, and a minute, at most.
    """
    grace = float(job["spec"]["template"]["spec"].get("terminationGracePeriodSeconds", 30))
    attempts = Retrying(
        retry=retry_if_exception_type(_BeingDeleted),
        wait=wait_fixed(0.5),
        stop=stop_after_delay(grace + _DELETION_SECONDS),
        reraise=True,
    )
    return attempts(_create_once, cluster, namespace, job)


def _create_once(cluster: Cluster, namespace: str, job: Object) -> tuple[Object, bool]:
    name = job["metadata"]["name"]
    try:
        return cluster.create_job(namespace, job), True
    except ApiError as exc:
        if exc.status != 409:
            raise SchedulerError(f"Kubernetes did not accept the Job {name}: {exc}") from exc
    if old := cluster.job(namespace, name):
        _require_same_store(old, job, namespace)
        if not old["metadata"].get("deletionTimestamp"):
            if not finished(old):
                return old, False
            cluster.delete_job(namespace, old)
    raise _BeingDeleted(
        f"the earlier Job {name} is being deleted, and the deletion has not finished; see what it waits for: "
        f"kubectl describe job {name} --namespace {namespace}"
    )


def _require_same_store(old: Object, new: Object, namespace: str) -> None:
    old_store, new_store = ((job["metadata"].get("annotations") or {}).get(STORE) for job in (old, new))
    if old_store != new_store:
        name = new["metadata"]["name"]
        whose = f"of the run of this name in the store {old_store}" if old_store else "not created by cefr-batch"
        raise SchedulerError(
            f"Job {name} already exists in namespace {namespace} ({whose}). If nobody needs it, delete it: kubectl delete "
            f"job {name} --namespace {namespace}; otherwise set another `namespace` in the site file"
        )


def _require_own(job: Object, name: JobName, run: str, store_url: str, namespace: str, so: str) -> None:
    """Raise ``SchedulerError`` unless this Job carries out the run of this store: a handle may have been edited. ``so``:
    what was not done then."""
    store = (job["metadata"].get("annotations") or {}).get(STORE)
    if store != store_url or runs_of(job)[name.index or 0 :][:1] != [run]:
        raise SchedulerError(
            f"the Job {name.name} in namespace {namespace} is not the one of {run} in the store {store_url}, so {so}; was "
            f"the run's submission.json edited? If nobody needs the Job: kubectl delete job {name.name} --namespace "
            f"{namespace}"
        )


def _refuse_part(job: Object, chosen: Sequence[JobName]) -> None:
    """An Indexed Job can only be deleted as a whole: ``SchedulerError`` unless all its unfinished runs are chosen."""
    unfinished = set(range(job["spec"].get("completions", 1))) - ended_indexes(job)
    if job["spec"].get("completionMode") == "Indexed" and unfinished - {one.index for one in chosen}:
        raise SchedulerError(
            f"the {len(unfinished)} unfinished runs of the Indexed Job {job['metadata']['name']} can only be cancelled "
            "together; name all of them"
        )
