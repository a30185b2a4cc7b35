"""The Kubernetes cluster that ``k8s.sh`` starts, for the end-to-end tests."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

from clusters import until
from clusters.kubectl import Namespace

SCRIPT = Path(__file__).with_name("k8s.sh")
HOST = "10.124.0.1"  # this machine, as pods reach it
KUBECONFIG = "/run/k8s-e2e/admin.conf"
NAMESPACE = "cefr-batch-e2e"
USER = "user"  # a context, and its user, who has no rights from the start
SUBJECT = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": USER}


def script(*arguments: str | Path) -> None:
    """Run ``k8s.sh``. It prints to a file: the daemons that it starts would keep a pipe open."""
    with TemporaryFile("w+") as printed:
        done = subprocess.run([SCRIPT, *arguments], stdin=subprocess.DEVNULL, stdout=printed, stderr=printed)
        printed.seek(0)
        assert done.returncode == 0, printed.read()


def why_not() -> str:
    """Why a Kubernetes cluster cannot be started on this machine; empty if it can."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return "bringing up a Kubernetes needs root on Debian (tests/clusters/k8s.sh)"
    return ""


@contextmanager
def cluster() -> Iterator[None]:
    """A running Kubernetes. One that was running before is left running."""
    before = subprocess.run([SCRIPT, "running"]).returncode == 0
    script("up")
    try:
        yield
    finally:
        if not before:
            script("down")


_NAMESPACE = Namespace(NAMESPACE, {**os.environ, "KUBECONFIG": KUBECONFIG})  # for the cluster's administrator
kubectl, apply, get = _NAMESPACE.kubectl, _NAMESPACE.apply, _NAMESPACE.get
pods, running_pod, evict = _NAMESPACE.pods, _NAMESPACE.running_pod, _NAMESPACE.evict


@contextmanager
def namespace() -> Iterator[None]:
    """The tests' own, empty."""
    _remove_namespace()
    apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    until(lambda: bool(kubectl("get", "serviceaccount", "default", "--ignore-not-found")))
    try:
        yield
    finally:
        _remove_namespace()


def _remove_namespace() -> None:
    kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait")
    kubectl("delete", "persistentvolume", NAMESPACE, "--ignore-not-found")


def volume(folder: Path, claim: str) -> None:
    """A volume on a folder of this machine, and a claim to it."""
    capacity, modes = {"storage": "10Gi"}, ["ReadWriteMany"]
    spec = {"accessModes": modes, "storageClassName": ""}
    reference = {"namespace": NAMESPACE, "name": claim}
    apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": NAMESPACE},
            "spec": {**spec, "capacity": capacity, "hostPath": {"path": str(folder)}, "claimRef": reference},
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": claim},
            "spec": {**spec, "volumeName": NAMESPACE, "resources": {"requests": capacity}},
        },
    )


def kill_container(pod: str) -> None:
    """Have containerd kill a pod's container without telling Kubernetes."""
    (status,) = get("pod", pod)["status"]["containerStatuses"]
    script("ctr", "tasks", "kill", "--signal", "KILL", status["containerID"].removeprefix("containerd://"))
