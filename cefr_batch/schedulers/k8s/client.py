"""The Kubernetes API. No other module imports the ``kubernetes`` package.

Objects are plain JSON, as ``kubectl get -o json`` prints them, so that a server may be older or newer than the client
library. Whatever the library and what it builds on raise becomes an ``ApiError`` in ``translated_errors``, the one edge.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from cefr_batch.errors import SchedulerError

KUEUE = "kueue.x-k8s.io"  # the API group of Kueue, which queues Jobs
IN_CLUSTER = "in-cluster"  # the context's name for a pod, which has a service account instead of a kubeconfig
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_ANONYMOUS = "system:anonymous"  # the user of a request without credentials, as when a credential plug-in has failed
_DAMAGED = (TypeError, LookupError, AttributeError)  # what the library raises, as it reads kubeconfigs without checking
_TIMEOUT_SECONDS = (5.0, 30.0)  # to connect, to answer

Object = dict[str, Any]


class ApiError(SchedulerError):
    """The API server refused a request (``status``: the HTTP status), or could not be asked (``status`` 0)."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class Cluster:
    """The API server of one kubeconfig context. Every method blocks for a request and raises ``ApiError``.

    ``namespace``: the context's own. The credentials are read at the first request, and again after a server that no
    longer accepts them (401) was asked.
    """

    def __init__(self, context: str, namespace: str) -> None:
        self.context = context
        self.namespace = namespace

    def version(self) -> str:
        """The server's version, as in ``v1.33.0``."""
        from kubernetes.client import VersionApi

        return str(self._json(VersionApi(self._client).get_code)["gitVersion"])

    def jobs(self, namespace: str, selector: str) -> list[Object]:
        """All Jobs with these labels, in one request."""
        list_objects = self._custom.list_namespaced_custom_object
        return self._items(list_objects, "batch", "v1", namespace, "jobs", label_selector=selector)

    def job(self, namespace: str, name: str) -> Object | None:
        """The Job of this name; None if there is none."""
        get = self._custom.get_namespaced_custom_object
        return self._unless_absent(get, "batch", "v1", namespace, "jobs", name)

    def create_job(self, namespace: str, job: Object, *, dry_run: bool = False) -> Object:
        """Create a Job, and give it as the server took it. ``dry_run``: the server validates and admits it, and keeps
        nothing."""
        create = self._custom.create_namespaced_custom_object
        found: Object = self._json(create, "batch", "v1", namespace, "jobs", job, **_dry_run(dry_run))
        return found

    def delete_job(self, namespace: str, job: Object) -> None:
        """Ask for the deletion of this Job, and of no other that has its name by now, and return: it is gone when its pods
        have stopped. Idempotent."""
        delete, name = self._custom.delete_namespaced_custom_object, job["metadata"]["name"]
        body = {**_only(job), "propagationPolicy": "Foreground"}
        self._unless_absent(delete, "batch", "v1", namespace, "jobs", name, body=body)

    def delete_pod(self, namespace: str, pod: Object) -> None:
        """Delete this pod at once, without waiting for its node to say that it has stopped. Idempotent."""
        body = {**_only(pod), "gracePeriodSeconds": 0}
        self._unless_absent(self._core.delete_namespaced_pod, pod["metadata"]["name"], namespace, body=body)

    def dry_run_pod(self, namespace: str, pod: Object) -> None:
        """Have the server validate and admit a pod, and keep nothing."""
        self._json(self._core.create_namespaced_pod, namespace, pod, **_dry_run(True))

    def pods(self, namespace: str, selector: str) -> list[Object]:
        """All pods with these labels, in one request."""
        return self._items(self._core.list_namespaced_pod, namespace, label_selector=selector)

    def nodes(self) -> list[Object]:
        """All nodes of the cluster, in one request."""
        return self._items(self._core.list_node)

    def warnings(self, namespace: str, about: str = "") -> list[Object]:
        """The namespace's events of type Warning, the oldest first. ``about``: of the object with this UID alone."""
        selector = ",".join(("type=Warning", *((f"involvedObject.uid={about}",) if about else ())))
        found = self._items(self._core.list_namespaced_event, namespace, field_selector=selector)
        return sorted(found, key=_event_time)

    def log(self, namespace: str, pod: str, container: str, size: int) -> str:
        """The end of what the pod's container printed: at most 200 lines and ``size`` bytes."""
        data = self._call(self._core.read_namespaced_pod_log, pod, namespace, container=container, tail_lines=200)
        return data[-size:].decode(errors="replace").strip()

    def read(self, kind: str, *where: str) -> Object | None:
        """One object of the core API, as in ``read("namespaced_secret", name, namespace)``; None if there is none."""
        return self._unless_absent(getattr(self._core, f"read_{kind}"), *where)

    def read_of_cluster(self, group: str, plural: str, name: str) -> Object | None:
        """One object that is in no namespace, such as a priority class; None if there is none."""
        return self._unless_absent(self._custom.get_cluster_custom_object, group, "v1", plural, name)

    @cached_property
    def kueue(self) -> str | None:
        """The version of Kueue's API that the server prefers, as in ``v1beta1``; None if the cluster has no Kueue."""
        from kubernetes.client import ApisApi

        groups = self._json(ApisApi(self._client).get_api_versions).get("groups") or []
        return next((str(one["preferredVersion"]["version"]) for one in groups if one.get("name") == KUEUE), None)

    def queue(self, namespace: str, name: str) -> Object | None:
        """A LocalQueue of Kueue; None if there is none."""
        get = self._custom.get_namespaced_custom_object
        return self._unless_absent(get, KUEUE, self.kueue, namespace, "localqueues", name)

    def workloads(self, namespace: str) -> list[Object]:
        """What Kueue knows of the namespace's Jobs in queues, in one request."""
        list_objects = self._custom.list_namespaced_custom_object
        return self._items(list_objects, KUEUE, self.kueue, namespace, "workloads") if self.kueue else []

    def may(self, namespace: str, verb: str, group: str, resource: str, subresource: str = "") -> bool:
        """Whether the server allows this user to do so (SelfSubjectAccessReview)."""
        attributes = {"namespace": namespace, "verb": verb, "group": group, "resource": resource}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {**attributes, "subresource": subresource}},
        }
        create = self._custom.create_cluster_custom_object
        answer = self._json(create, "authorization.k8s.io", "v1", "selfsubjectaccessreviews", review)
        return bool(answer.get("status", {}).get("allowed"))

    @cached_property
    def _client(self) -> Any:
        """The library's client with the context's credentials. Runs the kubeconfig's credential plug-in, if it has one."""
        with translated_errors(self.context):
            from kubernetes import client, config

            settings = client.Configuration()
            if self.context == IN_CLUSTER:
                config.load_incluster_config(client_configuration=settings)
            else:
                config.load_kube_config(context=self.context, client_configuration=settings, persist_config=False)
            settings.retries = False  # whoever polls asks again
            return client.ApiClient(settings)

    @property
    def _core(self) -> Any:
        from kubernetes.client import CoreV1Api

        return CoreV1Api(self._client)

    @property
    def _custom(self) -> Any:
        """The API that takes and gives any object as it is."""
        from kubernetes.client import CustomObjectsApi

        return CustomObjectsApi(self._client)

    def _unless_absent(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Object | None:
        try:
            found: Object = self._json(function, *arguments, **options)
        except ApiError as exc:
            if exc.status != 404:
                raise
            return None
        return found

    def _items(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> list[Object]:
        return list(self._json(function, *arguments, **options).get("items") or [])

    def _json(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        answer = self._call(function, *arguments, **options)
        try:
            return json.loads(answer)
        except ValueError as exc:  # a proxy's page
            raise ApiError(
                f"the server of the context {self.context} is not a Kubernetes API server; check `server` in the "
                "kubeconfig, and proxies"
            ) from exc

    def _call(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> bytes:
        try:
            with translated_errors(self.context):
                answer = function(*arguments, **options, _preload_content=False, _request_timeout=_TIMEOUT_SECONDS)
                return bytes(answer.data)
        except ApiError as exc:
            if exc.status == 401:
                self.__dict__.pop("_client", None)
            raise


def connect(context: str | None) -> Cluster:
    """The cluster of a kubeconfig context; None: of the current context or, in a pod without a kubeconfig, its cluster.

    Reads the kubeconfig; sends nothing. Raises ``ApiError`` if there is no such context.
    """
    try:
        import kubernetes  # noqa: F401
    except ImportError as exc:
        raise ApiError("Kubernetes needs the package kubernetes: pip install 'cefr-batch[k8s]'") from exc
    namespaces, current = _contexts()
    name = context or current or _context_of_pod(namespaces)
    if name == IN_CLUSTER:
        return Cluster(name, _namespace_of_pod())
    if name not in namespaces:
        valid = f"valid: {', '.join(namespaces)}" if namespaces else "no kubeconfig was found; set KUBECONFIG"
        raise ApiError(f"the kubeconfig has no context {name!r}; {valid}")
    return Cluster(name, namespaces[name])


def in_pod_alone() -> bool:
    """Whether this is a pod of a cluster, without a kubeconfig: it can ask that cluster alone."""
    return bool(os.environ.get("KUBERNETES_SERVICE_HOST")) and not _contexts()[0]


def _contexts() -> tuple[dict[str, str], str | None]:
    """The kubeconfig's contexts with their namespaces, and the current context; none without a kubeconfig."""
    from kubernetes.config import kube_config

    where = kube_config.KUBE_CONFIG_DEFAULT_LOCATION
    try:
        # not list_kube_config_contexts: it fails unless the current context is there and complete
        merged = kube_config.KubeConfigMerger(where).config
        found = [one.value for one in merged.value["contexts"]] if merged else []
        namespaces = {str(one["name"]): str((one.get("context") or {}).get("namespace") or "default") for one in found}
        current = merged.value.get("current-context") if merged else None
    except _config_errors() as exc:
        raise ApiError(f"the kubeconfig {where} cannot be read: {_config_problem(exc)}; check KUBECONFIG") from exc
    return namespaces, str(current) if current else None


def _context_of_pod(known: Mapping[str, str]) -> str:
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        return IN_CLUSTER
    if not known:
        raise ApiError("no kubeconfig was found, or it has no contexts; set KUBECONFIG to one that has")
    raise ApiError(
        "no kubeconfig sets a current context; choose one with `kubectl config use-context NAME`, or set `context: NAME` "
        f"in the site file (valid: {', '.join(known)})"
    )


def _namespace_of_pod() -> str:
    try:
        return _NAMESPACE_FILE.read_text(encoding="utf-8").strip() or "default"
    except OSError:
        return "default"


# Errors.


@contextmanager
def translated_errors(context: str) -> Iterator[None]:
    """Raise ``ApiError`` for whatever the client library raises while it reads the kubeconfig, gets credentials or asks."""
    from kubernetes.client.exceptions import ApiException

    try:
        yield
    except ApiException as exc:
        if not exc.status:  # the library's wrapper of a failure of TLS
            raise _unreachable(context, exc) from exc
        raise ApiError(_refusal(context, exc), exc.status) from exc
    except _network_errors() as exc:
        raise _unreachable(context, exc) from exc
    except _config_errors() as exc:
        if context == IN_CLUSTER:
            raise ApiError(
                "this pod has no service account, so Kubernetes cannot be asked (report_account in the site file names one)"
            ) from exc
        problem = f"the kubeconfig cannot be used for the context {context!r}: {_config_problem(exc)}"
        raise ApiError(f"{problem}; check KUBECONFIG, or log in again") from exc


def _unreachable(context: str, exc: Exception) -> ApiError:
    reason = _one_line(getattr(exc, "reason", None) or exc).rpartition(": ")[2].removesuffix('"))')
    servers = f"the Kubernetes API server of the context {context!r}, or the server that renews its credentials,"
    return ApiError(f"{servers} cannot be reached: {reason}; check the network, VPN, proxy and certificates")


def _network_errors() -> tuple[type[Exception], ...]:
    """A server cannot be reached: the API server, or the identity provider that renews the credentials."""
    from http.client import HTTPException

    from requests.exceptions import RequestException
    from urllib3.exceptions import HTTPError

    return (HTTPError, HTTPException, RequestException, ConnectionError, TimeoutError)


def _config_errors() -> tuple[type[Exception], ...]:
    """A kubeconfig, or a file or credential plug-in that it names, is damaged, absent or fails."""
    from kubernetes.client.exceptions import OpenApiException
    from kubernetes.config.config_exception import ConfigException
    from oauthlib.oauth2 import OAuth2Error  # type: ignore[import-untyped]
    from yaml import YAMLError

    google = sys.modules.get("google.auth.exceptions")  # the library imports it only for contexts of GKE
    plugins = (OAuth2Error, *([google.GoogleAuthError] if google else []))
    return (ConfigException, OpenApiException, YAMLError, *plugins, OSError, ValueError, ImportError, *_DAMAGED)


def _config_problem(exc: Exception) -> str:
    """The exception in one line, without the parts of the kubeconfig that the library quotes: they may be secrets."""
    said = re.sub(r"\{.*\}", "…", _one_line(exc))
    return f"it is damaged, or its credential plug-in fails ({said})" if isinstance(exc, _DAMAGED) else said.rstrip(".")


def _refusal(context: str, exc: Any) -> str:
    """The API server's own words, if it has some."""
    try:
        said = str(json.loads(exc.body)["message"])
    except (TypeError, ValueError, KeyError):
        said = f"the API server of the context {context} answered {exc.status} {exc.reason or ''}".strip()
    if exc.status == 401 or _ANONYMOUS in said:
        what_to_do = "log in again, or check the credentials in the kubeconfig"
        return f"the API server of the context {context} does not accept the credentials; {what_to_do}"
    return said


def _one_line(text: object) -> str:
    return " ".join(str(text).split())


def _only(thing: Object) -> Object:
    """Options of a deletion: of this very object, by its UID."""
    return {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": thing["metadata"]["uid"]}}


def _dry_run(wanted: bool) -> dict[str, str]:
    return {"dry_run": "All"} if wanted else {}


def _event_time(event: Object) -> str:
    """When an event was seen last, as text that sorts."""
    series = event.get("series") or {}
    times = (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime"))
    return str(next((time for time in times if time), (event.get("metadata") or {}).get("creationTimestamp") or ""))
