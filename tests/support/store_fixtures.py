"""Stores of every kind. A server that is not installed, and what a server lacks, is a skip that says so."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from clusters.s3 import KEYS, SERVERS, NotInstalled, Server

from cefr_batch.store import Store, open_store

# Real servers are installed and used by `make e2e`; a folder and moto serve everywhere.
KINDS = ["file", *(k if k == "moto" else pytest.param(k, marks=pytest.mark.e2e) for k in SERVERS)]


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test servers' keys and nothing of the user's AWS settings."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("CEFR_BATCH_S3_ADDRESSING", raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)


def started(kind: str, folder: Path) -> Server:
    """A server of a kind; a skip, or in CI a failure, where it is not installed."""
    try:
        server = SERVERS[kind](folder)
    except NotInstalled as exc:
        missing = pytest.fail if os.environ.get("CEFR_BATCH_REQUIRE_ALL") else pytest.skip
        missing(str(exc))
    server.start()
    return server


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A SeaweedFS of this test's own, which it may kill."""
    server = started("seaweedfs", tmp_path_factory.mktemp("seaweedfs"))
    yield server
    server.kill()


@pytest.fixture(scope="session")
def server_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Server]]:
    """Starts a server of a kind when a test first wants it."""
    running: dict[str, Server] = {}

    def get(kind: str) -> Server:
        if kind not in running:
            running[kind] = started(kind, tmp_path_factory.mktemp(kind))
        return running[kind]

    yield get
    for server in running.values():
        server.kill()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make_store(kind: str, aws: None, tmp_path: Path, server_of: Callable[[str], Server]) -> Callable[[], Store]:
    """Opens this test's own, empty store; a second call opens the same one anew."""
    if kind == "file":
        return lambda: open_store(str(tmp_path / "objects"))
    url = server_of(kind).url(f"tests/{uuid.uuid4().hex}")
    return lambda: open_store(url)


@pytest.fixture
def any_store(make_store: Callable[[], Store]) -> Store:
    return make_store()
