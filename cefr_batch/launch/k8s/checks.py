"""What can be known of a Kubernetes site before anything is submitted to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial

from cefr_batch.errors import LaunchError
from cefr_batch.launch.base import Check
from cefr_batch.launch.k8s.client import ApiError, Cluster, Object, connect, quantity
from cefr_batch.launch.k8s.site import KubernetesSite

# What submit, status, logs, cancel and resume ask for: group, resource, subresource, verbs.
NEEDED = (
    ("batch", "jobs", "", ("create", "get", "list", "delete")),
    ("", "pods", "", ("list",)),
    ("", "pods", "log", ("get",)),
    ("", "events", "", ("list",)),
)
# Of quotas: pods with a time limit (a Job's is not its pods'), without requests, with affinity to other namespaces.
_SCOPES_OF_OTHERS = ("Terminating", "BestEffort", "CrossNamespacePodAffinity")


def check(site: KubernetesSite, where: str, job: Object) -> list[Check]:
    """Everything about the site ``where`` (its file). ``job``: what a run would be; the API server looks at it last."""
    try:
        cluster = connect(site.context)
    except LaunchError as exc:
        return [Check("kubeconfig", f"{where}: {exc}")]
    try:
        reached = Check(f"context {cluster.context}", note=f"Kubernetes {cluster.version()}")
        return [reached, *_Checks(cluster, site.namespace or cluster.namespace, site, where, job).all()]
    except ApiError as exc:
        return [Check(f"context {cluster.context}", str(exc))]


@dataclass(frozen=True)
class _Checks:
    cluster: Cluster
    namespace: str
    site: KubernetesSite
    where: str
    job: Object

    @property
    def request(self) -> Mapping[str, str]:
        """What a pod asks for, by resource."""
        found: Mapping[str, str] = self.job["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]
        return found

    def all(self) -> list[Check]:
        found = [self.namespace_exists()]
        if found[0].problem:
            return found
        found += [self.permissions(), *self.secrets(), *self.named_objects()]
        found += [_allowed("quota", self.quota), _allowed("limit range", self.limit_range)]
        found.append(_allowed(f"nodes with {self.site.gpu_resource}", self.nodes))
        if not any(one.problem and not one.warning for one in found):
            found.append(self.accepted())
        return found

    def namespace_exists(self) -> Check:
        name = self.namespace
        make = f"there is no namespace {name!r} in {self.cluster.context}: kubectl create namespace {name}"
        found = _there(f"namespace {name}", partial(self.cluster.read, "namespace", name), make)
        return Check(found.what, note="you may not look at it") if found.warning else found

    def permissions(self) -> Check:
        granted: list[str] = []
        missing: list[str] = []
        for group, resource, subresource, verbs in NEEDED:
            for verb in verbs:
                may = self.cluster.may(self.namespace, verb, group, resource, subresource)
                name = f"{resource}/{subresource}" if subresource else resource
                (granted if may else missing).append(f"{verb} {name}")
        who = "ask who runs the cluster for the Role of k8s/base"
        problem = f"in the namespace {self.namespace} you may not {', '.join(missing)}; {who}"
        return Check("permissions", problem if missing else "", note=", ".join(granted))

    def secrets(self) -> Iterator[Check]:
        keys = self.site.secret_keys
        for name in dict.fromkeys(key.secret for key in keys):
            needed = [key.variable for key in keys if key.secret == name and not key.optional]
            yield _allowed(f"secret {name}", partial(self.secret, name, needed))
        for name in self.site.image_pull_secrets:
            yield self.exists("secret", name, "image_pull_secrets")
        if not self.site.storage_secret and not self.site.service_account:
            why = "neither storage_secret nor service_account is set: pods have no keys for the store, unless their nodes do"
            yield Check("keys for the store", f"{self.where}: {why}", warning=True)

    def secret(self, name: str, needed: Sequence[str]) -> Check:
        literals = " ".join(f'--from-literal={key}="${key}"' for key in needed)
        make = f"kubectl create secret generic {name} --namespace {self.namespace} {literals}"
        try:
            there = self.cluster.read("namespaced_secret", name, self.namespace).get("data") or {}
        except ApiError as exc:
            if exc.status != 404:
                raise
            lacks = f"the namespace {self.namespace} has no Secret {name}"
            return Check(f"secret {name}", f"{self.where}: {lacks}; with the keys in your shell: {make}")
        missing = [key for key in needed if not there.get(key)]
        again = f"kubectl delete secret {name} --namespace {self.namespace}; {make}"
        problem = f"{self.where}: the Secret {name} has no {', '.join(missing)}; with the keys in your shell: {again}"
        return Check(f"secret {name}", problem if missing else "", note=", ".join(needed))

    def named_objects(self) -> Iterator[Check]:
        """The other objects that a site names."""
        site = self.site
        if site.service_account:
            yield self.exists("service_account", site.service_account, "service_account")
        if site.cache_claim:
            yield self.exists("persistent_volume_claim", site.cache_claim, "cache_claim")
        if name := site.priority_class:
            read = partial(self.cluster.of_cluster, "scheduling.k8s.io", "v1", "priorityclasses", name)
            yield _there(f"priority class {name}", read, f"{self.where}: priority_class: the cluster has no {name!r}")
        if name := site.runtime_class:
            read = partial(self.cluster.of_cluster, "node.k8s.io", "v1", "runtimeclasses", name)
            yield _there(f"runtime class {name}", read, f"{self.where}: runtime_class: the cluster has no {name!r}")

    def exists(self, kind: str, name: str, setting: str) -> Check:
        words = kind.replace("_", " ")
        problem = f"{self.where}: {setting}: the namespace {self.namespace} has no {words} {name!r}"
        return _there(
            f"{words} {name}", partial(self.cluster.read, f"namespaced_{kind}", name, self.namespace), problem
        )

    def quota(self) -> Check:
        """More than a quota's whole can never run; what is used up now may be free later."""
        never: list[str] = []
        later: list[str] = []
        for one in self.cluster.listed("namespaced_resource_quota", self.namespace):
            if not _counts(one, self.site):
                continue
            status = one.get("status") or {}
            for key, hard in (status.get("hard") or {}).items():
                wanted, whole = _wanted(key, self.request), quantity(hard)
                free = whole - quantity((status.get("used") or {}).get(key, "0"))
                if wanted > free:
                    text = f"{one['metadata']['name']}: {key}: {wanted:f} wanted, {free:f} of {hard} free"
                    (never if wanted > whole else later).append(text)
        if never:
            return Check("quota", f"a pod is more than the quota of the namespace {self.namespace}: {'; '.join(never)}")
        waits = (
            f"the quota of the namespace {self.namespace} is used up, pods wait until others end: {'; '.join(later)}"
        )
        return Check("quota", waits if later else "", warning=bool(later))

    def limit_range(self) -> Check:
        over = []
        for one in self.cluster.listed("namespaced_limit_range", self.namespace):
            for limit in one["spec"]["limits"]:
                most = (limit.get("max") or {}) if limit["type"] in ("Container", "Pod") else {}
                over += [
                    f"{key}: {self.request[key]} wanted, at most {value}"
                    for key, value in most.items()
                    if key in self.request and quantity(self.request[key]) > quantity(value)
                ]
        problem = f"a pod is more than the namespace {self.namespace} allows: {'; '.join(over)}"
        return Check("limit range", problem if over else "")

    def nodes(self) -> Check:
        """Whether some node, if it had nothing else to do, has room for a pod. Else a warning: clusters may grow."""
        nodes = self.cluster.listed("node")
        fitting = [node for node in nodes if _selected(node, self.site)]
        lacking = {node["metadata"]["name"]: _lacking(node, self.request) for node in fitting}
        asked = ", ".join(f"{wanted} {key}" for key, wanted in self.request.items())
        if room := [name for name, lacks in lacking.items() if not lacks]:
            return Check(f"nodes with {asked}", note=", ".join(room[:5]))
        some = "".join(f"; {name} has {lacks}" for name, lacks in list(lacking.items())[:3])
        why = f"{len(fitting)} of {len(nodes)} fit node_selector, node_affinity and tolerations{some}"
        problem = f"{self.where}: no node has room for a pod: {why}; pods wait, unless the cluster adds one"
        return Check(f"nodes with {asked}", problem, warning=True)

    def accepted(self) -> Check:
        """What only the API server and its admission know."""
        try:
            self.cluster.create_job(self.namespace, self.job, dry_run=True)
        except ApiError as exc:
            return Check("dry run", f"{self.where}: Kubernetes would refuse the Job: {exc}")
        return Check("dry run")


def _allowed(what: str, look: Callable[[], Check]) -> Check:
    """What ``look`` finds; a warning where this user may not look."""
    try:
        return look()
    except ApiError as exc:
        if exc.status != 403:
            raise
        return Check(what, f"{what}: not checked: {exc}", warning=True)


def _there(what: str, read: Callable[[], Object], problem: str) -> Check:
    """The problem, if there is no such thing."""

    def look() -> Check:
        try:
            read()
        except ApiError as exc:
            if exc.status != 404:
                raise
            return Check(what, problem)
        return Check(what)

    return _allowed(what, look)


def _counts(quota: Object, site: KubernetesSite) -> bool:
    """Whether a quota is for pods like ours: https://kubernetes.io/docs/concepts/policy/resource-quotas/#quota-scopes"""
    spec = quota.get("spec") or {}
    rules = [{"scopeName": scope, "operator": "Exists"} for scope in spec.get("scopes") or []]
    rules += (spec.get("scopeSelector") or {}).get("matchExpressions") or []
    return all(
        _fits(site.priority_class, rule["operator"], rule.get("values") or [])
        if rule["scopeName"] == "PriorityClass"
        else rule["scopeName"] not in _SCOPES_OF_OTHERS
        for rule in rules
    )


def _wanted(key: str, request: Mapping[str, str]) -> Decimal:
    """What one Job with one pod takes of a quota's item, as in requests.cpu, count/jobs.batch, pods."""
    if key in ("pods", "count/pods", "count/jobs.batch"):
        return Decimal(1)
    return quantity(request.get(key.removeprefix("requests.").removeprefix("limits."), "0"))


def _selected(node: Object, site: KubernetesSite) -> bool:
    """Whether a pod may run there."""
    labels = node["metadata"].get("labels") or {}
    spec = node.get("spec") or {}
    return (
        not spec.get("unschedulable")
        and all(labels.get(key) == value for key, value in site.node_selector.items())
        and all(_fits(labels.get(rule.key), rule.operator, rule.values) for rule in site.node_affinity)
        and all(_tolerated(taint, site) for taint in spec.get("taints") or [] if taint["effect"] != "PreferNoSchedule")
    )


def _fits(value: str | None, operator: str, values: Sequence[str]) -> bool:
    if operator in ("Exists", "DoesNotExist"):
        return (value is not None) == (operator == "Exists")
    if operator in ("In", "NotIn"):
        return (value in values) == (operator == "In")
    if value is None or not value.isdigit():
        return False
    return int(value) > int(values[0]) if operator == "Gt" else int(value) < int(values[0])


def _tolerated(taint: Mapping[str, str], site: KubernetesSite) -> bool:
    return any(
        rule.effect in (None, taint["effect"])
        and rule.key in (None, taint["key"])
        and (rule.operator == "Exists" or (rule.value or "") == taint.get("value", ""))
        for rule in site.tolerations
    )


def _lacking(node: Object, request: Mapping[str, str]) -> str:
    """What a node has too little of, as in ``1 nvidia.com/gpu``; empty if it has room."""
    there = (node.get("status") or {}).get("allocatable") or {}
    too_little = [key for key, wanted in request.items() if quantity(wanted) > quantity(there.get(key, "0"))]
    return ", ".join(f"{there.get(key, '0')} {key}" for key in too_little)
