"""The client: whatever Kubernetes' library, its credential plug-ins and what it builds on raise is an ``ApiError``."""

from __future__ import annotations

import http.client
import inspect
import json
import re
import ssl
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import oauthlib.oauth2  # type: ignore[import-untyped]
import pytest
import requests.exceptions
import urllib3.exceptions
import yaml
from kubernetes.client import exceptions as client_exceptions
from kubernetes.config import config_exception
from support.api_stand_in import Api, running_api

from cefr_batch.schedulers.k8s.client import ApiError, connect, translated_errors


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    with running_api(tmp_path / "kubeconfig") as found:
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(found.kubeconfig))
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        yield found


def exceptions_of(module: Any) -> list[type[Exception]]:
    """Every exception of a module; its warnings are not raised."""
    return [
        found
        for _, found in inspect.getmembers(module, inspect.isclass)
        if issubclass(found, Exception) and not issubclass(found, Warning)
    ]


LIBRARIES = [client_exceptions, config_exception, urllib3.exceptions, requests.exceptions, oauthlib.oauth2]
RAISED = [kind for module in LIBRARIES for kind in exceptions_of(module)]
# Of a damaged kubeconfig, or of a file or a plug-in that it names.
OTHERS = [
    FileNotFoundError, PermissionError, ssl.SSLError, yaml.YAMLError, ValueError, UnicodeDecodeError, KeyError, TypeError,
    AttributeError, ModuleNotFoundError, http.client.IncompleteRead,
]  # fmt: skip


@pytest.mark.parametrize("kind", [*RAISED, *OTHERS], ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_every_exception_of_the_library_and_of_what_it_builds_on_is_translated(kind: type[Exception]) -> None:
    raised = kind.__new__(kind)  # their constructors differ
    vars(raised).update(status=500, reason="Internal Server Error", body="")
    with pytest.raises(ApiError, match="here") as caught, translated_errors("here"):
        raise raised
    assert caught.value.__cause__ is raised


def test_the_exceptions_are_those_of_the_library() -> None:
    """Else a rename in the library would leave nothing to test."""
    assert len(RAISED) > 100
    assert {client_exceptions.OpenApiException, config_exception.ConfigException, urllib3.exceptions.HTTPError} <= {
        *RAISED
    }


def test_an_error_of_our_own_program_is_not_hidden() -> None:
    with pytest.raises(AssertionError), translated_errors("here"):
        raise AssertionError


@pytest.mark.parametrize("text", ["a: [b", "hello", "contexts: [x]"])
def test_a_kubeconfig_that_is_damaged(api: Api, text: str) -> None:
    api.kubeconfig.write_text(text)
    with pytest.raises(ApiError, match=r"the kubeconfig .*kubeconfig cannot be read: .*; check KUBECONFIG$"):
        connect(None)


def test_a_kubeconfig_without_a_current_context_still_has_namespaces(api: Api) -> None:
    known = json.loads(api.kubeconfig.read_text())
    api.kubeconfig.write_text(json.dumps({key: known[key] for key in known if key != "current-context"}))
    assert connect("here").namespace == "team"
    with pytest.raises(
        ApiError, match=r"no kubeconfig sets a current context; .*`context: NAME` in the site file \(valid: here, arn:"
    ):
        connect(None)


def test_who_has_no_credentials_or_expired_ones_is_told_to_log_in_and_served_after_that(api: Api) -> None:
    login = "the API server of the context here does not accept the credentials; log in again"
    cluster = connect("here")
    for status, message in (
        (403, 'pods is forbidden: User "system:anonymous" cannot list "pods"'),
        (401, "Unauthorized"),
    ):
        api.refused = {"GET": (status, message)}
        with pytest.raises(ApiError, match=login):
            cluster.version()
    api.refused = {}
    api.write_kubeconfig(token="new")
    assert cluster.version() == "v1.33.0"
    assert api.tokens == ["t", "t", "new"]


USERS: dict[str, dict[str, Any]] = {
    "identity provider away": {
        "auth-provider": {
            "name": "oidc",
            "config": {
                "client-id": "kubernetes",
                "id-token": ".".join(
                    b64encode(json.dumps(part).encode()).decode().rstrip("=")
                    for part in ({"alg": "RS256"}, {"exp": 1600000000, "iss": "http://127.0.0.1:1/realms/x"}, "signed")
                ),
                "refresh-token": "abc",
                "idp-issuer-url": "http://127.0.0.1:1/realms/x",
            },
        }
    },
    "oidc without a token": {
        "auth-provider": {"name": "oidc", "config": {"client-id": "k", "client-secret": "hidden"}}
    },
    "token file missing": {"tokenFile": "/nowhere/token"},
    "certificate missing": {"client-certificate": "/nowhere/cert.pem", "client-key": "/nowhere/key.pem"},
    "certificate damaged": {"client-certificate-data": "%%%", "client-key-data": "%%%"},
    "exec plug-in is a text": {"exec": "aws"},
    "exec plug-in missing": {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": "/nowhere/plugin",
            "interactiveMode": "Never",
        }
    },
    "gcp without google-auth": {"auth-provider": {"name": "gcp"}},
}


@pytest.mark.parametrize("case", USERS)
def test_credentials_that_cannot_be_had_are_one_clear_error(api: Api, case: str) -> None:
    known = json.loads(api.kubeconfig.read_text())
    known["users"] = [{"name": "u", "user": USERS[case]}]
    if "certificate" in case:
        known["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{api.port}"
    api.kubeconfig.write_text(json.dumps(known))
    api.refused = {"GET": (401, "Unauthorized")}  # as a server does with a request that has no credentials
    with pytest.raises(
        ApiError, match=r"context '?here.*; (check KUBECONFIG|check the network|log in again)"
    ) as caught:
        connect("here").version()
    assert "\n" not in str(caught.value)
    assert not re.search("signed|abc|hidden", str(caught.value)), "nothing of the credentials is printed"


@pytest.mark.parametrize("proxy", ["proxy.corp:3128", "socks9://proxy", "http://127.0.0.1:1"])
def test_a_proxy_that_cannot_be_used_is_one_clear_error(api: Api, proxy: str) -> None:
    known = json.loads(api.kubeconfig.read_text())
    known["clusters"][0]["cluster"]["proxy-url"] = proxy
    api.kubeconfig.write_text(json.dumps(known))
    with pytest.raises(ApiError, match=r"context '?here.*; check "):
        connect("here").version()


def test_a_page_of_a_proxy_is_not_an_answer_of_kubernetes(api: Api) -> None:
    api.pages["/version/"] = "<html>Please log in</html>"
    with pytest.raises(ApiError, match="is not a Kubernetes API server; check `server` in the kubeconfig"):
        connect("here").version()
