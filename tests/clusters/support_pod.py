"""An S3 server and a model hub inside a Kubernetes cluster that this machine cannot be reached from.

One pod of the image under test runs both: SeaweedFS, which is sent there, and the tests' stand-in of the hub. Other pods
reach them by the pod's address, so no DNS is needed. This machine reaches them by ``kubectl port-forward``, whose end it
uses as its HTTP proxy: so the store's address, which is part of each Job, is the same here and there. The API server is not
asked through it: kubernetes 37.0.1 takes http_proxy for ``http://`` alone.
"""

from __future__ import annotations

import io
import platform
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shlex import join
from threading import Event, Thread
from typing import Any

from support import hub
from support.pod_security import violations

from clusters import until
from clusters.kubectl import Namespace
from clusters.s3 import answers, free_ports, needed, weed_config, weed_words

NAME = "cefr-batch-e2e-servers"
MODEL = "org/tiny"  # as the hub calls it
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
NODES = {"kubernetes.io/os": "linux", "kubernetes.io/arch": ARCHITECTURE}  # that run this machine's programs

_S3, _HUB = 8333, 8000  # ports
_FOLDER = "/work/servers"
_PULL_SECONDS = 900.0  # images for CUDA are large
_NOT_PULLED = ("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName")
_UNPACK = "import sys, tarfile; tarfile.open(fileobj=sys.stdin.buffer, mode='r|gz').extractall(sys.argv[1])"


@dataclass(frozen=True)
class Servers:
    """``s3`` and ``hub``: the servers' addresses for pods. ``environment``: with which programs here reach them."""

    s3: str
    hub: str
    environment: Mapping[str, str]


@contextmanager
def servers(namespace: Namespace, image: str, model: Path, scratch: Path) -> Iterator[Servers]:
    """Both servers, with the model of this folder on the hub. The namespace's deletion ends them."""
    pod = _pod(image)
    assert violations(pod) == {}
    namespace.apply(pod)
    with _explained(namespace, "describe", "pod", NAME):
        until(lambda: _runs(namespace, image), _PULL_SECONDS)
    address = str(namespace.get("pod", NAME)["status"]["podIP"])
    archive = scratch / "servers.tar.gz"
    _pack(archive, address, model)
    unpack = join(["python3", "-c", _UNPACK, _FOLDER])
    namespace.send(archive, "exec", "-i", NAME, "--", "sh", "-c", f"{unpack} && touch {_FOLDER}/complete")
    archive.unlink()
    s3_port, hub_port = free_ports(2)
    environment = {"http_proxy": f"http://127.0.0.1:{s3_port}", "HF_ENDPOINT": f"http://127.0.0.1:{hub_port}"}
    with _forwarded(namespace, {s3_port: _S3, hub_port: _HUB}):
        yield Servers(f"http://{address}:{_S3}", f"http://{address}:{_HUB}", environment)


def wait_for(servers: Servers, namespace: Namespace) -> None:
    """Until the store answers, in this process's environment."""
    with _explained(namespace, "logs", NAME, "--tail=40"):
        until(lambda: answers(servers.s3), 120)


@contextmanager
def _explained(namespace: Namespace, *arguments: str) -> Iterator[None]:
    """What kubectl says of the pod, where something is waited for in vain."""
    try:
        yield
    except AssertionError:
        print(namespace.kubectl(*arguments, check=False))
        raise


def _pod(image: str) -> dict[str, Any]:
    """A pod within the restricted Pod Security Standard that waits for its programs."""
    wait = f"cd /work; until [ -e {_FOLDER}/complete ]; do sleep 0.2; done; cd {_FOLDER}; exec sh start"
    container = {
        "name": "servers",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", wait],
        "env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}],
        "resources": {"requests": {"memory": "512Mi"}, "limits": {"memory": "1Gi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": [{"name": "work", "mountPath": "/work"}, {"name": "tmp", "mountPath": "/tmp"}],
    }
    user = {"runAsNonRoot": True, "runAsUser": 10001, "runAsGroup": 10001, "fsGroup": 10001}
    spec = {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": 7200,  # should nobody delete it
        "terminationGracePeriodSeconds": 1,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "nodeSelector": NODES,
        "securityContext": {**user, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [{"name": "work", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": NAME}, "spec": spec}


def _runs(namespace: Namespace, image: str) -> bool:
    status = namespace.get("pod", NAME)["status"]
    for container in status.get("containerStatuses") or []:
        waiting = container["state"].get("waiting") or {}
        said = f"{waiting.get('reason')}: {waiting.get('message', '')}"
        assert waiting.get("reason") not in _NOT_PULLED, (
            f"the nodes do not have the image {image} and cannot pull it ({said}); push it to a registry that they reach, "
            "or load it there, and name it in CEFR_BATCH_TEST_IMAGE"
        )
    assert status["phase"] in ("Pending", "Running"), namespace.kubectl("logs", NAME, "--tail=40", check=False)
    return bool(status["phase"] == "Running" and status.get("podIP"))


def _pack(archive: Path, address: str, model: Path) -> None:
    """What the pod runs, and what starts it."""
    options = {"dir": "data", "ip": address, "ip.bind": "0.0.0.0", "s3.config": "s3.json", "s3.port": _S3}
    start = f"mkdir data\npython3 hub.py model {_HUB} &\nexec {join(['./weed', *weed_words(options)])}\n"
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        tar.add(needed("weed"), "weed")
        tar.add(hub.__file__, "hub.py")
        tar.add(model, "model")
        for name, text in (("s3.json", weed_config()), ("start", start)):
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))


@contextmanager
def _forwarded(namespace: Namespace, ports: Mapping[int, int]) -> Iterator[None]:
    """Ports of this machine that lead to the pod's. kubectl is started again when it ends, as after a broken connection."""
    command = namespace.command("port-forward", f"pod/{NAME}", *(f"{here}:{there}" for here, there in ports.items()))
    stopped, quiet = Event(), subprocess.DEVNULL

    def keep() -> None:
        while not stopped.is_set():
            process = subprocess.Popen(  # not ended by a Ctrl-C, which the tests clean up after
                command, env=namespace.environment, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True
            )
            while process.poll() is None and not stopped.wait(0.2):
                pass
            process.kill()
            process.wait()

    thread = Thread(target=keep, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
