"""A namespace of a Kubernetes cluster, through kubectl."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Namespace:
    """A namespace, which need not exist. ``environment``: kubectl's, with KUBECONFIG and whatever a credential plug-in that
    is named there reads. ``context``: of the kubeconfig; by default its current one."""

    name: str
    environment: Mapping[str, str] = field(repr=False)
    context: str = ""

    def command(self, *arguments: str) -> list[str]:
        context = [f"--context={self.context}"] if self.context else []
        return ["kubectl", *context, f"--namespace={self.name}", *arguments]

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """The standard output of ``kubectl``."""
        done = self.done(*arguments, stdin=stdin)
        assert done.returncode == 0 or not check, done.stdout + done.stderr
        return done.stdout

    def done(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """``kubectl`` as it ended."""
        command = self.command(*arguments)
        return subprocess.run(command, env=self.environment, input=stdin, capture_output=True, text=True)

    def send(self, file: Path, *arguments: str) -> None:
        """Run ``kubectl`` with a file as its standard input."""
        with file.open("rb") as stdin:
            done = subprocess.run(self.command(*arguments), env=self.environment, stdin=stdin, capture_output=True)
        assert done.returncode == 0, (done.stdout + done.stderr).decode(errors="replace")

    def apply(self, *objects: dict[str, Any]) -> None:
        self.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))

    def get(self, kind: str, name: str = "", *options: str) -> Any:
        return json.loads(self.kubectl("get", kind, *([name] if name else []), *options, "--output=json"))

    def create_raw(self, path: str, value: dict[str, Any]) -> Any:
        """What the server answers to an object that is sent to a path of this namespace."""
        path = f"/api/v1/namespaces/{self.name}/{path}"
        return json.loads(self.kubectl("create", "--raw", path, "--filename", "-", stdin=json.dumps(value)))

    def pods(self, job: str) -> list[dict[str, Any]]:
        """A Job's pods, the oldest first."""
        found = self.get("pods", "", f"--selector=job-name={job}")["items"]
        return sorted(found, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))

    def running_pod(self, job: str) -> str:
        """The name of a Job's pod that runs and is not being stopped; empty if there is none."""
        names = [
            str(pod["metadata"]["name"])
            for pod in self.pods(job)
            if pod["status"].get("phase") == "Running" and not pod["metadata"].get("deletionTimestamp")
        ]
        return names[0] if names else ""

    def evict(self, pod: str) -> str:
        """Through the eviction API, as a node that is drained does. Returns the version of that API."""
        version = (
            "policy/v1" if "policy/v1" in self.kubectl("api-versions").split() else "policy/v1beta1"
        )  # before 1.22
        metadata = {"name": pod, "namespace": self.name}
        self.create_raw(f"pods/{pod}/eviction", {"apiVersion": version, "kind": "Eviction", "metadata": metadata})
        return version
