"""Runs as Jobs of a Kubernetes cluster."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from urllib.parse import quote, unquote

from cefr_batch.errors import LaunchError
from cefr_batch.launch.base import Batch, Check, Job, JobOrder, Observation, State
from cefr_batch.launch.k8s.client import ApiError, Cluster, Object, connect
from cefr_batch.launch.k8s.manifest import CONTAINER, MANAGED, STORE, JobName, KubernetesRequest, render
from cefr_batch.launch.k8s.site import KubernetesSite, load_site
from cefr_batch.launch.k8s.status import ended_indexes, finished, index_of, needs_events, observe
from cefr_batch.launch.sites import SiteLauncher

_HANDLE = re.compile(r"k8s://(?P<context>[^/]+)/(?P<namespace>[^/]+)/(?P<name>[^/]+)(?:/(?P<index>[0-9]+))?")
_ASK_SECONDS = 3.0  # between two questions about the same namespace: whoever watches must not load the API server
_JOB_LABELS = ("batch.kubernetes.io/job-name", "job-name")  # that the Job controller gives a pod; the older one last
_GONE_SECONDS = 60.0  # that a deleted Job may take to be gone besides its pods' grace period
_LOG_BYTES = 2000


@dataclass(frozen=True)
class Place:
    """A namespace of a cluster, and a job in it."""

    context: str
    namespace: str
    job: JobName

    @property
    def handle(self) -> str:
        """A context may have any name, such as an ARN with slashes."""
        index = "" if self.job.index is None else f"/{self.job.index}"
        return f"k8s://{quote(self.context, safe='')}/{self.namespace}/{self.job.name}{index}"

    @classmethod
    def of(cls, handle: str) -> Place:
        match = _HANDLE.fullmatch(handle)
        if not match:
            raise LaunchError(f"{handle!r} is not a handle of a Kubernetes job")
        index = int(match["index"]) if match["index"] else None
        return cls(unquote(match["context"]), match["namespace"], JobName(match["name"], index))


class KubernetesLauncher(SiteLauncher[KubernetesRequest, KubernetesSite]):
    scheme = "k8s"
    reports = requeues = retries = True

    def load(self) -> KubernetesSite:
        return load_site(self.site_name)

    def render(self, batch: Batch) -> KubernetesRequest:
        return render(self.site, batch)

    def describe(self, request: KubernetesRequest) -> str:
        return request.yaml().rstrip("\n")

    def check(self, backends: Iterable[str], store_url: str) -> list[Check]:
        from cefr_batch.launch.k8s.checks import check

        test = self.render(Batch((JobOrder("cefr-batch-check", store_url),))).objects[0]
        return check(self.site, self.site_file, test)

    def submit(self, request: KubernetesRequest) -> list[str]:
        """Idempotent: a Job of the same run that is not finished is left as it is, a finished one makes room."""
        cluster = connect(request.context)
        namespace = request.namespace or cluster.namespace
        _seen.pop((cluster.context, namespace), None)  # what was seen of a Job is not what becomes of its successor
        made: list[str] = []
        jobs = list(request.jobs)
        for item in request.objects:
            name = item["metadata"]["name"]
            try:
                if _create(cluster, namespace, item):
                    made.append(name)
            except LaunchError as exc:
                if request.report and name == request.report.name:  # the runs are what counts
                    print(f"warning: no report will be made after the runs: {exc}", file=sys.stderr)
                    continue
                for one in made:
                    with suppress(LaunchError):
                        cluster.delete_job(namespace, one)
                raise
            if request.report and name == request.report.name:
                jobs.append(request.report)
        return [Place(cluster.context, namespace, job).handle for job in jobs]

    def observe(self, jobs: Sequence[Job]) -> dict[Job, Observation]:
        places: dict[Job, Place] = {}
        found: dict[Job, Observation] = {}
        for job in jobs:
            try:
                places[job] = Place.of(job.handle)
            except LaunchError as exc:
                found[job] = Observation(State.UNKNOWN, str(exc))
        for where in dict.fromkeys((place.context, place.namespace) for place in places.values()):
            here = {job: place.job for job, place in places.items() if (place.context, place.namespace) == where}
            try:
                seen = _look(*where)
                found |= {job: seen.observation(name) for job, name in here.items()}
            except LaunchError as exc:
                found |= {job: Observation(State.UNKNOWN, str(exc)) for job in here}
        return found

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Deletes the Jobs; their pods get SIGTERM, and have their grace period to store a checkpoint."""
        places = [Place.of(job.handle) for job in jobs]
        for context, namespace in dict.fromkeys((place.context, place.namespace) for place in places):
            cluster = connect(context)
            here = [place.job for place in places if (place.context, place.namespace) == (context, namespace)]
            _seen.pop((context, namespace), None)
            there = {job["metadata"]["name"]: job for job in cluster.jobs(namespace, _MANAGED)}
            alive = [name for name in dict.fromkeys(one.name for one in here) if name in there]
            for name in alive:
                _refuse_part(there[name], [one for one in here if one.name == name])
            for name in alive:
                if not finished(there[name]):
                    cluster.delete_job(namespace, name)

    def last_output(self, job: Job, store_url: str) -> str:
        place = Place.of(job.handle)
        cluster = connect(place.context)
        pods = _of_job(cluster.pods(place.namespace, f"{_JOB_LABELS[-1]}={place.job.name}"), place.job)
        for pod in sorted(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]), reverse=True)[:1]:
            with suppress(ApiError):  # its container was never started
                return cluster.log(place.namespace, pod["metadata"]["name"], CONTAINER, _LOG_BYTES)
        return ""


_MANAGED = ",".join(f"{key}={value}" for key, value in MANAGED.items())


@dataclass
class _Seen:
    """What one question about a namespace found. Events are asked for once, where somebody needs them."""

    cluster: Cluster
    namespace: str
    jobs: dict[str, Object]
    pods: list[Object]
    at: float = field(default_factory=time.monotonic)

    @cached_property
    def warnings(self) -> list[Object]:
        try:
            return self.cluster.warnings(self.namespace)
        except ApiError as exc:
            if exc.status != 403:
                raise
            return []  # less is known without them, and nothing is wrong

    def observation(self, name: JobName) -> Observation:
        job, pods = self.jobs.get(name.name), _of_job(self.pods, name)
        return observe(name, job, pods, self.warnings if needs_events(job, pods) else [])


_seen: dict[tuple[str, str], _Seen] = {}


def _look(context: str, namespace: str) -> _Seen:
    """All Jobs and pods of ours: two calls, however many runs there are."""
    where = (context, namespace)
    if where not in _seen or time.monotonic() - _seen[where].at > _ASK_SECONDS:
        cluster = connect(context)
        jobs = {job["metadata"]["name"]: job for job in cluster.jobs(namespace, _MANAGED)}
        _seen[where] = _Seen(cluster, namespace, jobs, cluster.pods(namespace, _MANAGED))
    return _seen[where]


def _of_job(pods: Iterable[Object], name: JobName) -> list[Object]:
    """Its pods; those of its index, if it has one."""
    return [pod for pod in pods if _job_of(pod) == name.name and name.index in (None, index_of(pod))]


def _job_of(pod: Object) -> str | None:
    labels = pod["metadata"].get("labels") or {}
    return next((str(labels[key]) for key in _JOB_LABELS if key in labels), None)


def _create(cluster: Cluster, namespace: str, job: Object) -> bool:
    """Whether it was made; False if it was there already and is not finished. Waits for a finished one to be gone."""
    name = job["metadata"]["name"]
    grace = float(job["spec"]["template"]["spec"].get("terminationGracePeriodSeconds", 30))
    deadline = time.monotonic() + grace + _GONE_SECONDS
    while True:
        try:
            cluster.create_job(namespace, job)
            return True
        except ApiError as exc:
            if exc.status != 409:
                raise LaunchError(f"Kubernetes did not take the Job {name}: {exc}") from exc
        if old := cluster.job(namespace, name):
            _require_same_store(old, job, namespace)
            if not old["metadata"].get("deletionTimestamp"):
                if not finished(old):
                    return False
                cluster.delete_job(namespace, name)
        if time.monotonic() > deadline:
            raise LaunchError(f"the Job {name} is being deleted and does not go; see kubectl describe job {name}")
        time.sleep(0.5)


def _require_same_store(old: Object, new: Object, namespace: str) -> None:
    name, stores = (
        new["metadata"]["name"],
        [(job["metadata"].get("annotations") or {}).get(STORE) for job in (old, new)],
    )
    if stores[0] != stores[1]:
        whose = f"of the run of this name in {stores[0]}" if stores[0] else "that is not of cefr-batch"
        raise LaunchError(
            f"the namespace {namespace} has a Job {name} already, {whose}; delete it once it is not needed any more "
            f"(kubectl delete job {name} --namespace {namespace}), or use another namespace"
        )


def _refuse_part(job: Object, chosen: Sequence[JobName]) -> None:
    """An Indexed Job can be deleted as a whole only: with all of its runs that have not ended."""
    left = set(range(job["spec"].get("completions", 1))) - ended_indexes(job)
    if job["spec"].get("completionMode") == "Indexed" and left - {one.index for one in chosen}:
        raise LaunchError(
            f"the {len(left)} runs of the Indexed Job {job['metadata']['name']} that have not ended can be cancelled "
            "together only: name them all"
        )
