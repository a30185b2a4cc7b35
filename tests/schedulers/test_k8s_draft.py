"""A Kubernetes site file from a kubeconfig and the nodes that a stand-in of the API server shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from support.api_stand_in import running_api

from cefr_batch.schedulers.draft import draft_text
from cefr_batch.schedulers.k8s import draft as k8s_draft
from cefr_batch.schedulers.k8s.draft import draft, of_nodes
from cefr_batch.schedulers.k8s.site import load_site


def node(name: str, gpus: int = 0, labels: dict[str, str] | None = None, **allocatable: str) -> dict[str, Any]:
    offered = {"cpu": "32", "memory": "131072000Ki", **({"nvidia.com/gpu": str(gpus)} if gpus else {}), **allocatable}
    taints = [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}] if gpus else []
    ill = [{"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}]
    return {
        "metadata": {"name": name, "labels": labels or {}},
        "spec": {"taints": [*taints, *ill]},
        "status": {"allocatable": offered},
    }


def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, dict[str, Any]]:
    text = draft_text("A site.", draft())
    (tmp_path / "k8s").mkdir()
    (tmp_path / "k8s" / "drafted.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    load_site("drafted")
    return text, yaml.safe_load(text)


@pytest.mark.slow
def test_context_namespace_and_the_most_frequent_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    label = "nvidia.com/gpu.product"
    with api(tmp_path, monkeypatch) as server:
        server.add("/api/v1/nodes", node("a"), node("b", 1, {label: "NVIDIA-L4"}), node("c", 1, {label: "NVIDIA-L4"}))
        server.add("/api/v1/nodes", node("d", 8, {label: "NVIDIA-A100-SXM4-80GB"}))
        text, settings = site(tmp_path, monkeypatch)
    assert settings == {
        "extends": "default",
        "context": "here",
        "namespace": "team",
        "gpu_resource": "nvidia.com/gpu",
        "node_selector": {label: "NVIDIA-L4"},
        "node_affinity": [],
        "gpu": "l4",
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    }
    assert "2 of the 4 nodes offer nvidia.com/gpu, NVIDIA-L4. Others: NVIDIA-A100-SXM4-80GB (1)." in text
    assert "# image: " in text


def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    from kubernetes.config import kube_config

    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))
    return running_api(tmp_path / "kubeconfig")


def test_nodes_that_may_not_be_read_leave_context_and_namespace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with api(tmp_path, monkeypatch) as server:
        server.refused["GET /api/v1/nodes"] = (403, "nodes is forbidden: User cannot list nodes")
        text, settings = site(tmp_path, monkeypatch)
    assert settings == {"extends": "default", "context": "here", "namespace": "team"}
    one_line = " ".join(text.replace("\n#", " ").split())
    assert (
        "Not known: nodes is forbidden: User cannot list nodes; ask your cluster's administrators which GPUs"
        in one_line
    )
    assert "Where no node has a GPU, write `gpus: 0`, `node_affinity: []` and `backend: peft`." in one_line
    assert "kubectl describe nodes" not in text, "who may not list nodes may not describe them either"
    assert "# gpu: l4\n" in text


def test_a_server_that_does_not_answer_costs_no_more_than_the_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a VPN that is down, or with a plug-in that waits for a browser."""
    monkeypatch.setattr(k8s_draft, "_SECONDS", 0.3)
    with api(tmp_path, monkeypatch) as server:
        server.write_kubeconfig()
        text = server.kubeconfig.read_text().replace(
            '{"token": "t"}',
            '{"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "sleep", "args": ["5"]}}',
        )
        server.kubeconfig.write_text(text)
        text, settings = site(tmp_path, monkeypatch)
    assert settings.keys() == {"extends", "context", "namespace"}
    assert "the API server of the context here gave no answer in 0.3 s" in text


def test_without_a_kubeconfig_everything_is_a_comment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kubernetes.config import kube_config

    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "nowhere"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    text, settings = site(tmp_path, monkeypatch)
    assert settings == {"extends": "default"}
    assert "Not known: no kubeconfig was found" in text


def test_a_cluster_without_gpus_gets_the_image_for_cpus_and_the_backend_that_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with api(tmp_path, monkeypatch) as server:
        server.add("/api/v1/nodes", node("a"))
        text, settings = site(tmp_path, monkeypatch)
    assert (settings["gpus"], settings["node_affinity"], settings["backend"]) == (0, [], "peft")
    assert "cefr-batch:{version}-cpu" in text
    assert "`make image-cpu`" in text


def test_a_cluster_without_gpus_and_one_of_small_nodes_without_labels() -> None:
    found = {one.key: one.value for one in of_nodes([node("a"), node("b")])}
    assert found == {"gpus": 0, "node_affinity": [], "backend": "peft"}
    found = {one.key: one.value for one in of_nodes([node("a", 1, cpu="3920m", memory="15Gi")]) if one.known}
    assert (found["cpus"], found["memory"], found["node_affinity"]) == (3, "13Gi", [])
    assert "gpu" not in found


@given(st.lists(st.recursive(st.none() | st.text(max_size=8), lambda one: st.dictionaries(
    st.sampled_from(["metadata", "labels", "spec", "status", "allocatable", "cpu", "memory", "nvidia.com/gpu"]), one
), max_leaves=8).filter(lambda one: isinstance(one, dict)), max_size=4))  # fmt: skip
def test_no_node_crashes_a_draft(nodes: list[dict[str, Any]]) -> None:
    draft_text("", of_nodes(nodes))
