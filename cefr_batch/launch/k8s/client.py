"""The Kubernetes API; nothing else imports its client.

Objects are plain JSON, as ``kubectl get -o json`` prints them, so that a server may be older or newer than the client.
Every failure is an ``ApiError``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml

from cefr_batch.errors import LaunchError

IN_CLUSTER = "in-cluster"  # the context of a pod that has no kubeconfig
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_NOBODY = "system:anonymous"  # the user without credentials, as where the program that gets them is missing
_SECONDS = (5.0, 30.0)  # to connect, to answer

Object = dict[str, Any]


class ApiError(LaunchError):
    """What the API server refused (``status``: of HTTP), or why it could not be asked (0)."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Cluster:
    """The API server of one context. ``namespace``: the context's own."""

    context: str
    namespace: str
    core: Any
    custom: Any  # takes and gives any object as it is
    version_api: Any

    def version(self) -> str:
        return str(self._json(self.version_api.get_code)["gitVersion"])

    def jobs(self, namespace: str, selector: str) -> list[Object]:
        """In one call, however many."""
        return self._items(
            self.custom.list_namespaced_custom_object, "batch", "v1", namespace, "jobs", label_selector=selector
        )

    def job(self, namespace: str, name: str) -> Object | None:
        """None if there is none."""
        found: list[Object] = []
        with _if_there():
            get = self.custom.get_namespaced_custom_object
            found.append(self._json(get, "batch", "v1", namespace, "jobs", name))
        return found[0] if found else None

    def create_job(self, namespace: str, job: Object, *, dry_run: bool = False) -> None:
        options = {"dry_run": "All"} if dry_run else {}
        self._json(self.custom.create_namespaced_custom_object, "batch", "v1", namespace, "jobs", job, **options)

    def delete_job(self, namespace: str, name: str) -> None:
        """Ask for its end and return: the Job is gone when its pods have stopped. No error if it is gone already."""
        with _if_there():
            delete = self.custom.delete_namespaced_custom_object
            self._json(delete, "batch", "v1", namespace, "jobs", name, propagation_policy="Foreground")

    def pods(self, namespace: str, selector: str) -> list[Object]:
        """In one call, however many."""
        return self._items(self.core.list_namespaced_pod, namespace, label_selector=selector)

    def warnings(self, namespace: str) -> list[Object]:
        """The namespace's events that tell of something wrong, the oldest first."""
        found = self._items(self.core.list_namespaced_event, namespace, field_selector="type=Warning")
        return sorted(found, key=event_time)

    def log(self, namespace: str, pod: str, container: str, size: int) -> str:
        """The last ``size`` bytes, or nearly so, of what the pod's container printed."""
        data = self._call(self.core.read_namespaced_pod_log, pod, namespace, container=container, tail_lines=200)
        return data[-size:].decode(errors="replace").strip()

    def read(self, kind: str, *where: str) -> Object:
        """One object of the core API: ``read("namespaced_secret", name, namespace)``."""
        found: Object = self._json(getattr(self.core, f"read_{kind}"), *where)
        return found

    def listed(self, kind: str, *where: str, **options: Any) -> list[Object]:
        """Objects of the core API: ``listed("namespaced_resource_quota", namespace)``."""
        return self._items(getattr(self.core, f"list_{kind}"), *where, **options)

    def of_cluster(self, group: str, version: str, plural: str, name: str) -> Object:
        """One object that is in no namespace, such as a priority class."""
        found: Object = self._json(self.custom.get_cluster_custom_object, group, version, plural, name)
        return found

    def may(self, namespace: str, verb: str, group: str, resource: str, subresource: str = "") -> bool:
        """Whether this user may do so, as the API server sees it (SelfSubjectAccessReview)."""
        attributes = {"namespace": namespace, "verb": verb, "group": group, "resource": resource}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {**attributes, "subresource": subresource}},
        }
        create = self.custom.create_cluster_custom_object
        answer = self._json(create, "authorization.k8s.io", "v1", "selfsubjectaccessreviews", review)
        return bool(answer.get("status", {}).get("allowed"))

    def _items(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> list[Object]:
        return list(self._json(function, *arguments, **options).get("items") or [])

    def _json(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        answer = self._call(function, *arguments, **options)
        try:
            return json.loads(answer)
        except ValueError as exc:  # a proxy's page
            raise ApiError(f"what answers for the context {self.context} is no Kubernetes API server") from exc

    def _call(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> bytes:
        """Foreign exceptions become ours here."""
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        try:
            answer = function(*arguments, **options, _preload_content=False, _request_timeout=_SECONDS)
            return bytes(answer.data)
        except ApiException as exc:
            if exc.status == 401:
                _clusters.pop(self.context, None)  # the next call reads the kubeconfig again
            raise ApiError(_refusal(self.context, exc), exc.status or 0) from exc
        except (HTTPError, OSError) as exc:
            reason = str(getattr(exc, "reason", None) or exc).rpartition(": ")[2]
            raise ApiError(f"the API server of the context {self.context} does not answer: {reason}") from exc


@contextmanager
def _if_there() -> Iterator[None]:
    try:
        yield
    except ApiError as exc:
        if exc.status != 404:
            raise


def connect(context: str | None) -> Cluster:
    """The API server of a context of the kubeconfig; None: of the current one, or the cluster whose pod this is.

    Asks nothing of it yet. Raises ``ApiError``.
    """
    try:
        from kubernetes import client, config
    except ImportError as exc:
        raise ApiError("Kubernetes needs the package kubernetes: pip install 'cefr-batch[k8s]'") from exc
    namespaces, current = _contexts()
    name = context or current or _own_context(namespaces)
    if name not in _clusters:
        settings = client.Configuration()
        try:
            if name == IN_CLUSTER:
                config.load_incluster_config(client_configuration=settings)
            else:
                config.load_kube_config(context=name, client_configuration=settings, persist_config=False)
        except (config.ConfigException, OSError, ValueError) as exc:
            raise ApiError(_no_context(name, list(namespaces), exc)) from exc
        settings.retries = False  # whoever watches asks again
        api = client.ApiClient(settings)
        apis = (client.CoreV1Api(api), client.CustomObjectsApi(api), client.VersionApi(api))
        _clusters[name] = Cluster(name, namespaces.get(name) or _own_namespace(), *apis)
    return _clusters[name]


_clusters: dict[str, Cluster] = {}


def _contexts() -> tuple[dict[str, str], str | None]:
    """The kubeconfig's contexts with their namespaces, and which is the current one; none without a kubeconfig."""
    from kubernetes.config import ConfigException, kube_config

    where = kube_config.KUBE_CONFIG_DEFAULT_LOCATION
    try:
        # not list_kube_config_contexts: it gives nothing unless the current context is there and whole
        merged = kube_config.KubeConfigMerger(where).config
        found = [one.value for one in merged.value["contexts"]] if merged else []
        namespaces = {str(one["name"]): str((one.get("context") or {}).get("namespace") or "default") for one in found}
        current = merged.value.get("current-context") if merged else None
    except (ConfigException, OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as exc:
        raise ApiError(
            f"the kubeconfig {where} cannot be read: {' '.join(str(exc).split())}; check KUBECONFIG"
        ) from exc
    return namespaces, str(current) if current else None


def _own_context(known: Mapping[str, str]) -> str:
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        return IN_CLUSTER
    hint = f"valid: {', '.join(known)}" if known else "or set KUBECONFIG"
    raise ApiError(f"there is no kubeconfig with a current context; name one with `context` in the site file ({hint})")


def _own_namespace() -> str:
    """Of the pod that this is."""
    try:
        return _NAMESPACE_FILE.read_text(encoding="utf-8").strip() or "default"
    except OSError:
        return "default"


def _no_context(name: str, known: Sequence[str], exc: Exception) -> str:
    if known and name not in known:
        return f"the kubeconfig has no context {name!r}; valid: {', '.join(known)}"
    return f"the kubeconfig cannot be used for the context {name!r}: {' '.join(str(exc).split())}; check KUBECONFIG"


def _refusal(context: str, exc: Any) -> str:
    """The API server's own words."""
    try:
        said = str(json.loads(exc.body)["message"])
    except (TypeError, ValueError, KeyError):
        said = f"the API server of the context {context} answered {exc.status} {exc.reason or ''}".strip()
    if exc.status == 401 or _NOBODY in said:
        return f"the API server of the context {context} does not accept the credentials; log in again"
    return said


def quantity(text: str | float) -> Decimal:
    """``500m``, ``2``, ``32Gi`` → a number. Raises ``ValueError``."""
    from kubernetes.utils.quantity import parse_quantity

    return Decimal(parse_quantity(text))


def event_time(event: Object) -> str:
    """When an event was seen last, as text that sorts."""
    series = event.get("series") or {}
    times = (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime"))
    return str(next((time for time in times if time), (event.get("metadata") or {}).get("creationTimestamp") or ""))
