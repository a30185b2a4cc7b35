"""Runs as Kubernetes objects. Pure: what is rendered here is what ``--dry-run`` and ``render`` print and what is sent.

A Job has its run's name, so a run has at most one Job at a time. Whoever starts a run again (``resume``) deletes its
finished Job first. The annotation ``STORE`` tells Jobs of the same name, but of different stores, apart.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, takewhile
from typing import Any

import yaml

from cefr_batch.errors import EXIT_INTERRUPTED, SchedulerError, UsageError
from cefr_batch.schedulers.base import QUEUED_SECONDS, JobGroup, JobSpec
from cefr_batch.schedulers.k8s.site import VERSION, KubernetesSite
from cefr_batch.schedulers.sites import SCHEDULER, notify_environment, seconds_of
from cefr_batch.store import store_folder, unreachable_endpoint

CONTAINER = "cefr-batch"
STORE = "cefr-batch/store"  # an annotation
QUEUE = "kueue.x-k8s.io/queue-name"  # a label, for Kueue
LABELS = {
    "name": "app.kubernetes.io/name",
    "instance": "app.kubernetes.io/instance",  # the Job
    "component": "app.kubernetes.io/component",  # training or report
    "version": "app.kubernetes.io/version",
    "manager": "app.kubernetes.io/managed-by",
}
MANAGED = {LABELS["manager"]: "cefr-batch"}  # the label of every object here

_WORK = "/work"  # the image's working directory and home, where its caches are
_CACHE = f"{_WORK}/cache"
_TMP_SIZE = "10Gi"
# The report's pod waits beside the runs: what it asks for must not keep the last of them from a node.
_REPORT_REQUESTS = {"cpu": "100m", "memory": "512Mi"}
_REPORT_LIMITS = {"cpu": "1", "memory": "2Gi"}
_REPORT_GRACE_SECONDS = 30
_REPORT_SECONDS = 3600  # after all runs have had their time, and each its time to start
_STOPPED = [EXIT_INTERRUPTED, 128 + 15]  # stopped after a checkpoint; killed by SIGTERM before the job could handle it
_MAX_NAME = 63

Object = dict[str, Any]


@dataclass(frozen=True)
class JobName:
    """The name of a run's Job and, for an Indexed Job, the completion index of the run's pods."""

    name: str
    index: int | None = None


@dataclass(frozen=True)
class KubernetesRequest:
    """What ``submit`` sends. ``objects``: Jobs; the one that writes the report comes last, if there is one. ``jobs``: the
    name of each job of the group, in its order. ``context`` and ``namespace``: the site's; None for the kubeconfig's."""

    context: str | None
    namespace: str | None
    objects: tuple[Object, ...]
    jobs: tuple[JobName, ...]
    report: JobName | None = None

    def yaml(self) -> str:
        """The objects as YAML documents for ``kubectl apply -f``."""
        return to_yaml(self.objects)


def render(site: KubernetesSite, group: JobGroup) -> KubernetesRequest:
    """A Job for each run, and one that waits for the runs and writes the report. With ``job_mode: indexed``, the runs that
    have the same number of GPUs share an Indexed Job.

    Raises ``SchedulerError`` for a store that no pod can reach, or GPUs that the site does not have.
    """
    names: dict[JobSpec, JobName] = {}
    objects: list[Object] = []
    for specs in _sharing_a_job(site, group.jobs):
        objects.append(_training(site, specs))
        name = objects[-1]["metadata"]["name"]
        names |= {spec: JobName(name, index if len(specs) > 1 else None) for index, spec in enumerate(specs)}
    report = None
    if group.report_url:
        objects.append(_report(site, group))
        report = JobName(objects[-1]["metadata"]["name"])
    jobs = tuple(names[spec] for spec in group.jobs)
    return KubernetesRequest(site.context, site.namespace, tuple(objects), jobs, report)


def runs_of(job: Object) -> list[str]:
    """The runs that a Job of ``render`` carries out, in the order of its indexes; none for another kind of Job."""
    containers = job["spec"]["template"]["spec"].get("containers") or []
    words = next((one.get("args") or [] for one in containers if one.get("name") == CONTAINER), [])
    return list(takewhile(lambda word: not word.startswith("--"), words[1:])) if words[:1] == ["run-job"] else []


def _sharing_a_job(site: KubernetesSite, specs: Sequence[JobSpec]) -> list[list[JobSpec]]:
    """Which runs share a Job. Under a queue none do: Kueue admits a Job as a whole, and a Job's deadline starts then."""
    if site.job_mode == "jobs" or site.queue:
        return [[spec] for spec in specs]
    by_gpus = sorted(specs, key=lambda spec: spec.gpus)  # stable: the order of the group within
    return [list(share) for _, share in groupby(by_gpus, key=lambda spec: spec.gpus)]


def _training(site: KubernetesSite, specs: Sequence[JobSpec]) -> Object:
    """The Job of one run, or the Indexed Job of several that have the same number of GPUs."""
    first, many = specs[0], len(specs) > 1
    _require_reachable(first.store_url)
    gpus = max(spec.gpus_at(site.gpus, "gpus") for spec in specs)
    runs = [spec.run for spec in specs]
    name = _indexed_name(runs) if many else first.run
    arguments = JobSpec.shared_command(specs, _WORK, promised_gpus=gpus if site.check_gpu else 0)
    disk = {"ephemeral-storage": site.disk} if site.disk else {}
    limits = {"cpu": str(site.cpus), "memory": site.memory, **disk, **({site.gpu_resource: str(gpus)} if gpus else {})}
    placement = {
        "nodeSelector": dict(site.node_selector),
        "affinity": _affinity(site),
        "tolerations": [rule.model_dump(exclude_none=True) for rule in site.tolerations],
        "runtimeClassName": site.runtime_class if gpus else None,
    }
    volumes = _volumes(site, {"medium": "Memory", "sizeLimit": site.shared_memory})
    pod = _pod(site, arguments, limits, volumes, placement, site.grace_seconds)
    spec = {
        **({"completions": len(runs), "parallelism": len(runs), "completionMode": "Indexed"} if many else {}),
        **({"backoffLimitPerIndex": site.max_restarts} if many else {"backoffLimit": site.max_restarts}),
        "activeDeadlineSeconds": site.seconds,
        "podReplacementPolicy": "Failed",  # never two pods of a run; with a podFailurePolicy nothing else is allowed
        "podFailurePolicy": {"rules": _failure_rules(many)},
    }
    return _job(site, name, "training", first.store_url, spec, pod)


def _report(site: KubernetesSite, group: JobGroup) -> Object:
    """A small Job without a GPU, on any node. When the runs have ended, it learns from the cluster, if it has an account
    that may ask, and else in the store.

    Their Jobs' deadlines run from when they are created, so none that has not started by then ever will; under a queue,
    from when it admits them.
    """
    store = group.jobs[0].store_url
    _require_reachable(store)
    longest = site.seconds + site.grace_seconds
    queued = QUEUED_SECONDS if site.queue else longest
    arguments = [*group.report_command(), "--wait", str(site.seconds), "--queued", str(queued)]
    placement: Object = {"tolerations": [rule.model_dump(exclude_none=True) for rule in site.tolerations]}
    if site.report_account:
        placement |= {"serviceAccountName": site.report_account, "automountServiceAccountToken": True}
    pod = _pod(
        site, arguments, _REPORT_LIMITS, _volumes(site, None), placement, _REPORT_GRACE_SECONDS, _REPORT_REQUESTS
    )
    deadline = (len(group.jobs) if site.queue else 1) * (queued + longest) + _REPORT_SECONDS
    spec = {
        "backoffLimit": site.max_restarts,
        "activeDeadlineSeconds": deadline,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {"rules": _failure_rules(many=False)},
    }
    return _job(site, short_name(f"{group.jobs[0].run}-report"), "report", store, spec, pod)


def _indexed_name(runs: Sequence[str]) -> str:
    """A name of its own for each list of runs: the same first run may be started again together with others."""
    others = hashlib.sha256(" ".join(runs).encode()).hexdigest()[:8]
    return short_name(f"{runs[0]}-and-{len(runs) - 1}-{others}", len(str(len(runs))))


def _require_reachable(store_url: str) -> None:
    if store_folder(store_url) is not None:
        raise SchedulerError(
            f"the store {store_url} is a folder of this machine, which pods cannot reach; give an address in object "
            "storage, as in --store 's3://bucket/prefix'"
        )
    if why := unreachable_endpoint(store_url, inside="pod", there="pod"):
        raise SchedulerError(why)


def _failure_rules(many: bool) -> list[Object]:
    """Which failures of a pod count. The first rule that matches decides."""
    return [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "Ignore", "onExitCodes": _exit_codes(_STOPPED)},
        {"action": "FailIndex" if many else "FailJob", "onExitCodes": _exit_codes([UsageError.exit_code])},
    ]


def _exit_codes(values: Sequence[int]) -> Object:
    return {"containerName": CONTAINER, "operator": "In", "values": list(values)}


def _affinity(site: KubernetesSite) -> Object | None:
    if not site.node_affinity:
        return None
    rules = [rule.model_dump(exclude_defaults=True) for rule in site.node_affinity]
    terms = {"nodeSelectorTerms": [{"matchExpressions": rules}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}


def _volumes(site: KubernetesSite, shared_memory: Object | None) -> dict[str, Object]:
    """What is mounted where a pod may write, by path: the root file system is read-only."""
    cache = {"persistentVolumeClaim": {"claimName": site.cache_claim}} if site.cache_claim else None
    folders = {
        _WORK: {"emptyDir": {"sizeLimit": site.work}},
        _CACHE: cache,
        "/tmp": {"emptyDir": {"sizeLimit": _TMP_SIZE}},  # noqa: S108 (a mount, not a file of this machine)
        "/dev/shm": {"emptyDir": shared_memory} if shared_memory else None,  # noqa: S108
    }
    return {path: volume for path, volume in folders.items() if volume}


def _pod(
    site: KubernetesSite,
    arguments: Sequence[str],
    limits: Mapping[str, Any],
    volumes: Mapping[str, Object],
    placement: Mapping[str, Any],
    grace_seconds: int,
    requests: Mapping[str, Any] | None = None,
) -> Object:
    """A pod's spec, within the "restricted" Pod Security Standard:
    https://kubernetes.io/docs/concepts/security/pod-security-standards
    ``requests``: where they are not its limits."""
    return _without_empty(
        {
            "restartPolicy": "Never",  # OnFailure would delete the last pod, and its log
            "terminationGracePeriodSeconds": grace_seconds,
            "serviceAccountName": site.service_account,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "imagePullSecrets": [{"name": name} for name in site.image_pull_secrets],
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": site.run_as,
                "runAsGroup": site.run_as,
                "fsGroup": site.run_as,
                "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "priorityClassName": site.priority_class,
            **placement,
            "containers": [_container(site, arguments, limits, requests or limits, tuple(volumes))],
            "volumes": [{"name": _volume_name(path), **volume} for path, volume in volumes.items()],
        }
    )


def _container(
    site: KubernetesSite,
    arguments: Sequence[str],
    limits: Mapping[str, Any],
    requests: Mapping[str, Any],
    paths: Sequence[str],
) -> Object:
    """The pod's container. ``paths``: where its volumes are mounted."""
    return _without_empty(
        {
            "name": CONTAINER,
            "image": site.image,
            "imagePullPolicy": site.image_pull_policy,
            "args": [literal(argument) for argument in arguments],
            "env": _environment(site, with_gpu=site.gpu_resource in limits),
            "resources": {"requests": dict(requests), "limits": dict(limits)},
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": True,
            },
            "terminationMessagePolicy": "FallbackToLogsOnError",  # the end of its output stays in the pod's status
            "volumeMounts": [{"name": _volume_name(path), "mountPath": path} for path in paths],
        }
    )


def _volume_name(path: str) -> str:
    return path.rpartition("/")[2]


def _environment(site: KubernetesSite, *, with_gpu: bool) -> list[Object]:
    # where NVIDIA's runtime is the nodes' default, the image's NVIDIA_VISIBLE_DEVICES=all would show a pod every GPU
    own = {SCHEDULER: "k8s", **({} if with_gpu else {"NVIDIA_VISIBLE_DEVICES": "void"})}
    plain = [
        {"name": name, "value": literal(value)}
        for name, value in {**own, **notify_environment(site.notify), **site.environment}.items()
    ]
    return [*plain, *(_from_secret(key.variable, key.secret, key.optional) for key in site.secret_keys)]


def _from_secret(variable: str, secret: str, optional: bool) -> Object:
    reference = {"name": secret, "key": variable, **({"optional": True} if optional else {})}
    return {"name": variable, "valueFrom": {"secretKeyRef": reference}}


def _job(site: KubernetesSite, name: str, component: str, store: str, spec: Object, pod: Object) -> Object:
    labels = {
        LABELS["name"]: "cefr-batch",
        LABELS["instance"]: name,
        LABELS["component"]: component,
        LABELS["version"]: VERSION,
        **MANAGED,
    }
    queue = {QUEUE: site.queue} if site.queue else {}
    namespace = {"namespace": site.namespace} if site.namespace else {}
    ttl = {"ttlSecondsAfterFinished": seconds_of(site.ttl_after_finished)} if site.ttl_after_finished else {}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, **namespace, "labels": {**labels, **queue}, "annotations": {STORE: store}},
        "spec": {**spec, **ttl, "template": {"metadata": {"labels": labels}, "spec": pod}},
    }


def short_name(name: str, index_digits: int = 0) -> str:
    """The name or, if it is too long for a Job, its beginning and a hash. ``index_digits``: of the largest index of an
    Indexed Job, whose pods add a dash and their index to its name."""
    limit = _MAX_NAME - (index_digits + 1 if index_digits else 0)
    if len(name) <= limit:
        return name
    return f"{name[: limit - 9].rstrip('-')}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def literal(text: str) -> str:
    """The text escaped for an argument or an environment value, where Kubernetes would expand ``$(NAME)``."""
    return text.replace("$", "$$")


def _without_empty(mapping: Mapping[str, Any]) -> Object:
    return {key: value for key, value in mapping.items() if value not in (None, [], {})}


# As text.

# Texts that every YAML parser reads as text without quotes. PyYAML does not quote 1e3, which others read as a number.
_PLAIN = re.compile(
    r"(?!(yes|no|on|off|true|false|null)$)(--)?[a-z/][a-z0-9_.:/@=-]*[a-z0-9/]", re.IGNORECASE | re.ASCII
)
# A run's settings, so that changes of them can be read in a repository.
_LINES = re.compile(r"[!-~][ -~]*(\n[ -~]*[!-~])+")


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_text(self, text: str) -> yaml.Node:
        style = None if _PLAIN.fullmatch(text) else "|" if _LINES.fullmatch(text) else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _Dumper.represent_text)


def to_yaml(objects: Sequence[Object]) -> str:
    """The objects as YAML documents, keys in the order given. Every YAML parser reads the same values from them."""
    return yaml.dump_all(
        objects, Dumper=_Dumper, sort_keys=False, allow_unicode=True, explicit_start=len(objects) > 1, width=10**6
    )
