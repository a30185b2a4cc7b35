"""A batch as Kubernetes objects. Pure: what is rendered here is what ``--dry-run`` and ``render`` print and what is sent.

A Job has its run's name, so a run has at most one Job at a time. Whoever starts a run again (``resume``) deletes its
finished Job first. The annotation ``STORE`` tells Jobs of equal names, but of different stores, apart.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import yaml

from cefr_batch import __version__
from cefr_batch.errors import EXIT_INTERRUPTED, LaunchError, UsageError
from cefr_batch.launch.base import Batch, JobOrder
from cefr_batch.launch.k8s.site import KubernetesSite
from cefr_batch.launch.sites import seconds_of
from cefr_batch.store import store_folder

CONTAINER = "cefr-batch"
STORE = "cefr-batch/store"  # an annotation
LABELS = {
    "name": "app.kubernetes.io/name",
    "instance": "app.kubernetes.io/instance",  # the Job
    "component": "app.kubernetes.io/component",  # training or report
    "version": "app.kubernetes.io/version",
    "manager": "app.kubernetes.io/managed-by",
}
MANAGED = {LABELS["manager"]: "cefr-batch"}  # what every object here has

_WORK = "/work"  # the image's folder, its home, where its caches are
_CACHE = f"{_WORK}/cache"
_TMP_SIZE = "10Gi"
_REPORT_LIMITS = {"cpu": "1", "memory": "2Gi"}
_REPORT_GRACE_SECONDS = 30
_REPORT_SECONDS = 3600  # after the runs' time limit
_STOPPED = [EXIT_INTERRUPTED, 128 + 15]  # after a checkpoint; by a SIGTERM that came before the job could catch it
_MAX_NAME = 63

Object = dict[str, Any]


@dataclass(frozen=True)
class JobName:
    """A run's job: the name of its Job and, where that is an Indexed Job, which of its pods."""

    name: str
    index: int | None = None


@dataclass(frozen=True)
class KubernetesRequest:
    """``objects``: Jobs, the one that writes the report last, if there is one. ``jobs``: of the batch's orders, in their
    order. ``context`` and ``namespace`` as the site has them: None for the kubeconfig's own."""

    context: str | None
    namespace: str | None
    objects: tuple[Object, ...]
    jobs: tuple[JobName, ...]
    report: JobName | None = None

    def yaml(self) -> str:
        """The objects as ``kubectl apply -f`` takes them: what the launcher's ``describe`` says, and nothing else."""
        return to_yaml(self.objects)


def render(site: KubernetesSite, batch: Batch) -> KubernetesRequest:
    """A Job for each run (or an Indexed Job for all whose GPUs agree), and one that waits for them and writes the report.

    Raises ``LaunchError`` for a store that no pod can reach, or GPUs that the site does not have.
    """
    groups = [[(n, order)] for n, order in enumerate(batch.orders)]
    if site.several_levels == "indexed":
        numbered = sorted(enumerate(batch.orders), key=lambda item: (item[1].gpus, item[0]))
        groups = [list(group) for _, group in groupby(numbered, key=lambda item: item[1].gpus)]
    objects: list[Object] = []
    jobs: dict[int, JobName] = {}
    for group in groups:
        orders = [order for _, order in group]
        job = _training(site, orders)
        objects.append(job)
        name = job["metadata"]["name"]
        jobs |= {n: JobName(name, index if len(group) > 1 else None) for index, (n, _) in enumerate(group)}
    report = None
    if batch.report_url:
        objects.append(_report(site, batch))
        report = JobName(objects[-1]["metadata"]["name"])
    ordered = tuple(jobs[n] for n in range(len(batch.orders)))
    return KubernetesRequest(site.context, site.namespace, tuple(objects), ordered, report)


def _training(site: KubernetesSite, orders: Sequence[JobOrder]) -> Object:
    """The Job of one run, or the Indexed Job of several that have the same number of GPUs."""
    first, many = orders[0], len(orders) > 1
    _require_reachable(first.store_url)
    gpus = max(order.gpus_at(site.gpus, "gpus") for order in orders)
    runs = [order.run for order in orders]
    name = _indexed_name(runs) if many else first.run
    command = first.command(_WORK, promised_gpus=gpus if site.check_gpu else 0)
    arguments = [command[0], *runs, *command[2:]]
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
        "podFailurePolicy": {"rules": _failure_rules(many)},
    }
    return _job(site, name, "training", first.store_url, spec, pod)


def _report(site: KubernetesSite, batch: Batch) -> Object:
    """A small Job without a GPU, on any node. It learns from the store alone when the runs have ended."""
    store = batch.orders[0].store_url
    _require_reachable(store)
    arguments = [*batch.report_command(), "--wait", str(site.seconds)]
    placement = {"tolerations": [rule.model_dump(exclude_none=True) for rule in site.tolerations]}
    pod = _pod(site, arguments, _REPORT_LIMITS, _volumes(site, None), placement, _REPORT_GRACE_SECONDS)
    deadline = site.seconds + site.grace_seconds + _REPORT_SECONDS
    spec = {
        "backoffLimit": site.max_restarts,
        "activeDeadlineSeconds": deadline,
        "podFailurePolicy": {"rules": _failure_rules(many=False)},
    }
    return _job(site, short_name(f"{batch.orders[0].run}-report"), "report", store, spec, pod)


def _indexed_name(runs: Sequence[str]) -> str:
    """Another one for each list of runs: a run that is started again with others must not take their old Job's name."""
    others = hashlib.sha256(" ".join(runs).encode()).hexdigest()[:8]
    return short_name(f"{runs[0]}-and-{len(runs) - 1}-{others}", len(str(len(runs))))


def _require_reachable(store_url: str) -> None:
    if store_folder(store_url) is not None:
        raise LaunchError(
            f"the store {store_url} is a folder of this machine, which no pod sees; give an address in object storage, "
            "as in --store 's3://bucket/prefix'"
        )


def _failure_rules(many: bool) -> list[Object]:
    """Which failures of a pod count. The first rule that fits does."""
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
    """The folders that a pod may write to, and what is mounted there: the root file system is read-only."""
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
) -> Object:
    """A pod of the "restricted" Pod Security Standard: https://kubernetes.io/docs/concepts/security/pod-security-standards"""
    named = {path: path.rpartition("/")[2] for path in volumes}
    container = {
        "name": CONTAINER,
        "image": site.image,
        "imagePullPolicy": site.image_pull_policy,
        "args": [literal(argument) for argument in arguments],
        "env": _environment(site, with_gpu=site.gpu_resource in limits),
        "resources": {"requests": dict(limits), "limits": dict(limits)},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",  # the end of its output stays with the pod's status
        "volumeMounts": [{"name": name, "mountPath": path} for path, name in named.items()],
    }
    return _without_empty(
        {
            "restartPolicy": "Never",  # OnFailure would remove the last pod, and its log
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
            "containers": [_without_empty(container)],
            "volumes": [{"name": named[path], **volume} for path, volume in volumes.items()],
        }
    )


def _environment(site: KubernetesSite, *, with_gpu: bool) -> list[Object]:
    # where NVIDIA's runtime is the nodes' default, the image's NVIDIA_VISIBLE_DEVICES=all gives a pod the GPUs of others
    own = {} if with_gpu else {"NVIDIA_VISIBLE_DEVICES": "void"}
    plain = [{"name": name, "value": literal(value)} for name, value in {**own, **site.environment}.items()]
    return [*plain, *(_from_secret(key.variable, key.secret, key.optional) for key in site.secret_keys)]


def _from_secret(variable: str, secret: str, optional: bool) -> Object:
    reference = {"name": secret, "key": variable, **({"optional": True} if optional else {})}
    return {"name": variable, "valueFrom": {"secretKeyRef": reference}}


def _job(site: KubernetesSite, name: str, component: str, store: str, spec: Object, pod: Object) -> Object:
    labels = {
        LABELS["name"]: "cefr-batch",
        LABELS["instance"]: name,
        LABELS["component"]: component,
        LABELS["version"]: re.sub(r"[^A-Za-z0-9_.-]", "-", __version__),
        **MANAGED,
    }
    queue = {"kueue.x-k8s.io/queue-name": site.queue} if site.queue else {}
    namespace = {"namespace": site.namespace} if site.namespace else {}
    keep = {"ttlSecondsAfterFinished": seconds_of(site.keep_finished)} if site.keep_finished else {}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, **namespace, "labels": {**labels, **queue}, "annotations": {STORE: store}},
        "spec": {**spec, **keep, "template": {"metadata": {"labels": labels}, "spec": pod}},
    }


def short_name(name: str, room: int = 0) -> str:
    """The name, or where that is too long for a Job, its start and a hash. ``room``: how many characters the pods of an
    Indexed Job need for a dash and their numbers."""
    limit = _MAX_NAME - (room + 1 if room else 0)
    if len(name) <= limit:
        return name
    return f"{name[: limit - 9].rstrip('-')}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def literal(text: str) -> str:
    """As Kubernetes must read an argument or a value so that it stays what it is: ``$(NAME)`` would be a variable."""
    return text.replace("$", "$$")


def _without_empty(mapping: Mapping[str, Any]) -> Object:
    return {key: value for key, value in mapping.items() if value not in (None, [], {})}


# As text.

# What is text for every reader of YAML without quotes. PyYAML leaves 1e3 bare, which others take for a number.
_PLAIN = re.compile(
    r"(?!(yes|no|on|off|true|false|null)$)(--)?[a-z/][a-z0-9_.:/@=-]*[a-z0-9/]", re.IGNORECASE | re.ASCII
)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_text(self, text: str) -> yaml.Node:
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=None if _PLAIN.fullmatch(text) else '"')


_Dumper.add_representer(str, _Dumper.represent_text)


def to_yaml(objects: Sequence[Object]) -> str:
    """YAML documents, keys in the order given; whatever reads them finds the same texts."""
    return yaml.dump_all(
        objects, Dumper=_Dumper, sort_keys=False, allow_unicode=True, explicit_start=len(objects) > 1, width=10**6
    )
