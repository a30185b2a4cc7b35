"""What a kubeconfig and its cluster show of the settings of a site file: context, namespace, and the nodes with GPUs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cefr_batch.errors import SchedulerError
from cefr_batch.planning.gpus import recognized_gpu
from cefr_batch.schedulers.background import within
from cefr_batch.schedulers.draft import DraftSetting, unknown
from cefr_batch.schedulers.k8s.client import IN_CLUSTER, ApiError, Cluster, Object, connect
from cefr_batch.schedulers.k8s.quantity import quantity

_SECONDS = 20.0  # for the nodes, a plug-in that logs in included
_GPUS = ("nvidia.com/gpu", "amd.com/gpu")  # as device plugins name them
# The labels that say which GPU a node has: NVIDIA's GPU feature discovery, GKE, EKS's AMIs.
_PRODUCTS = ("nvidia.com/gpu.product", "cloud.google.com/gke-accelerator", "k8s.amazonaws.com/accelerator")
_CPUS, _MEMORY_GB = 4, 24  # the defaults of k8s/default.yaml
_SHARE = 0.9  # of a node: the cluster's own pods need some of it
_MOST = "Most of what such a node offers to pods."


def draft() -> list[DraftSetting]:
    """The settings in the order of a site file. Blocks for at most half a minute; never raises."""
    try:
        cluster = connect(None)
    except ApiError as exc:
        return [
            *unknown(str(exc), context="my-cluster", namespace="my-namespace"),
            *_image(),
            *_unknown_nodes(f"{exc}; `kubectl describe nodes` shows GPUs, labels and taints"),
        ]
    nodes = _of_nodes(cluster)
    no_gpus = any(one.known and one.key == "gpus" and one.value == 0 for one in nodes)
    return [*_of_context(cluster), *_image("cpu" if no_gpus else "cuda"), *nodes]


def _of_context(cluster: Cluster) -> Iterator[DraftSetting]:
    if cluster.context != IN_CLUSTER:
        yield DraftSetting(
            "context", cluster.context, "The kubeconfig's current context (`kubectl config get-contexts`)."
        )
    yield DraftSetting("namespace", cluster.namespace, "Its namespace.")


def _image(target: str = "cuda") -> list[DraftSetting]:
    make = "make image" if target == "cuda" else f"make image-{target}"
    where = f"which registry your nodes pull from. Push the image there (`{make}`), and name it."
    return unknown(where, image=f"registry.example.org/cefr-batch:{{version}}-{target}")


def _of_nodes(cluster: Cluster) -> list[DraftSetting]:
    try:
        nodes = within(_SECONDS, f"the API server of the context {cluster.context}", cluster.nodes)
    except SchedulerError as exc:
        if isinstance(exc, ApiError) and exc.status == 403:
            return _unknown_nodes(
                f"{exc}; ask your cluster's administrators which GPUs its nodes have, and their labels"
            )
        return _unknown_nodes(f"{exc}; `kubectl describe nodes` shows GPUs, labels and taints")
    return list(of_nodes(nodes))


def _unknown_nodes(why: str) -> list[DraftSetting]:
    without = "Where no node has a GPU, write `gpus: 0`, `node_affinity: []` and `backend: peft`"
    return unknown(f"{why}. {without}.", gpus=1, gpu="l4", node_selector={_PRODUCTS[0]: "NVIDIA-L4"})


def of_nodes(nodes: Sequence[Object]) -> Iterator[DraftSetting]:
    """The settings that follow from a cluster's nodes, as the API gives them."""
    with_gpus = [node for node in nodes if _resource(node)]
    if not with_gpus:
        yield DraftSetting("gpus", 0, f"None of the {len(nodes)} nodes offers a GPU, so jobs train on the CPU.")
        yield DraftSetting("node_affinity", [], "")
        yield DraftSetting("backend", "peft", "The image for CPUs (`make image-cpu`) has no Unsloth.")
        return
    kinds = Counter(_kind(node) for node in with_gpus)
    (chosen, _), *others = kinds.most_common()
    same = [node for node in with_gpus if _kind(node) == chosen]
    resource, label, product = chosen
    more = f" Others: {', '.join(f'{p or r} ({n})' for (r, _, p), n in others)}." if others else ""
    nodes_have = f"{len(same)} of the {len(nodes)} nodes offer {resource}{f', {product}' if product else ''}."
    yield DraftSetting("gpu_resource", resource, f"{nodes_have}{more}")
    if label:
        yield DraftSetting("node_selector", {label: product}, "These nodes, by their label.")
    yield DraftSetting(
        "node_affinity", [], "" if label else "No label says which GPU a node has; any with one will do."
    )
    yield from _gpu(product)
    if taints := _taints(same):
        yield DraftSetting("tolerations", taints, "Their taints.")
    yield from _limits(same)


def _gpu(product: str) -> Iterator[DraftSetting]:
    if known := recognized_gpu(product):
        yield DraftSetting("gpu", known.key, "So that submit checks whether a run fits in its memory.")
        return
    named = f"{product} is not a GPU that cefr-batch knows" if product else "which GPU the nodes have"
    yield from unknown(f"{named}; `cefr-batch config gpus` lists those known.", gpu="l4")


def _resource(node: Object) -> str:
    """The GPU resource that a node offers; empty if it offers none."""
    offered = _part(node, "status", "allocatable")
    return next((name for name in _GPUS if quantity(offered.get(name)) >= 1), "")


def _kind(node: Object) -> tuple[str, str, str]:
    """A node's GPU resource, the label that says which GPU it is, and the label's value; empty without one."""
    labels = _part(node, "metadata", "labels")
    label = next((name for name in _PRODUCTS if labels.get(name)), "")
    return _resource(node), label, str(labels.get(label, ""))


def _taints(nodes: Sequence[Object]) -> list[Mapping[str, str]]:
    """Tolerations of what keeps other pods off these nodes; not of what Kubernetes itself says of a node's health."""
    found = [taint for node in nodes for taint in _part(node, "spec").get("taints") or []]
    own = [t for t in found if t.get("effect") != "PreferNoSchedule" and "node.kubernetes.io/" not in str(t.get("key"))]
    distinct = dict.fromkeys((str(taint.get("key")), str(taint.get("effect"))) for taint in own)
    return [{"key": key, "operator": "Exists", "effect": effect} for key, effect in distinct]


def _limits(nodes: Sequence[Object]) -> Iterator[DraftSetting]:
    """What of the defaults none of these nodes has."""
    offered = [_part(node, "status", "allocatable") for node in nodes]
    cpus = int(max(quantity(one.get("cpu")) for one in offered) * _SHARE)
    memory = int(max(quantity(one.get("memory")) for one in offered) * _SHARE / 2**30)
    if 0 < cpus < _CPUS:
        yield DraftSetting("cpus", cpus, _MOST)
    if 0 < memory < _MEMORY_GB:
        yield DraftSetting("memory", f"{memory}Gi", _MOST)


def _part(node: Object, *path: str) -> Mapping[str, Any]:
    found: Any = node
    for name in path:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}
