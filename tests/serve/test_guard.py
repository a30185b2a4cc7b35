"""Who may ask: the server's own pages, and nobody through a visitor's browser."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.serving import Site, running

from cefr_batch.serve.guard import is_loopback, is_own_name, own_names
from cefr_batch.store.local import LocalStore


@pytest.fixture
def site(store: LocalStore) -> Iterator[Site]:
    with running(store) as site:
        yield site


@pytest.mark.parametrize(
    ("host", "fine"),
    [
        ("127.0.0.1:8765", True),
        ("127.0.0.1", True),
        ("localhost:8765", True),
        ("LOCALHOST", True),
        ("[::1]:8765", True),
        ("192.168.1.20:8765", True),
        ("evil.example:8765", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False),
        ("localhost@evil.example", False),
        ("", False),
        ("[::1", False),
        ("127.1.evil", False),
    ],
)
def test_a_name_that_somebody_else_can_own_is_not_ours(host: str, fine: bool) -> None:
    assert is_own_name(host, own_names("127.0.0.1")) is fine


@given(st.text(max_size=40))
def test_any_text_may_stand_for_a_host(host: str) -> None:
    assert is_own_name(f"{host}.example", {"localhost"}) is False
    is_own_name(host, {"localhost"})


def test_the_name_that_the_server_was_started_with_is_its_own() -> None:
    assert is_own_name("lab.example:80", own_names("lab.example"))
    assert not is_own_name("lab.example:80", own_names("0.0.0.0"))
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "lab.example")] == [
        True, True, True, False, False,
    ]  # fmt: skip


def test_another_sites_name_gets_nothing(site: Site) -> None:
    refused = site.get("/runs", Host="evil.example")
    assert refused.status == 421
    assert "store" not in refused.text
    assert site.get("/runs", Host=f"localhost:{site.port}").status == 200


def test_another_sites_page_gets_nothing(site: Site) -> None:
    assert site.get("/runs", Origin="http://evil.example").status == 403
    assert site.get("/runs", Origin="null").status == 403
    own = site.get("/runs", Origin=site.url)
    assert own.status == 200
    assert not [name for name in own.headers if name.startswith("access-control-")]


def test_what_a_form_of_another_site_can_send_is_refused(site: Site) -> None:
    assert site.post("/write", {}, Content_Type="text/plain").status == 415
    assert site.post("/write", {}, Content_Type="application/x-www-form-urlencoded").status == 415


@pytest.mark.parametrize("path", ["/runs", "/nowhere", "/static/serve.css", "/report.css"])
def test_every_answer_forbids_what_the_pages_do_not_need(path: str, site: Site) -> None:
    headers = site.get(path).headers
    assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize(
    "path", ["/static/../server.py", "/static/%2e%2e/server.py", "/static/..%2fserver.py", "/static//etc/passwd"]
)
def test_no_file_but_the_pages_own_is_served(path: str, site: Site) -> None:
    assert site.get(f"/static/{path}").status == 404
