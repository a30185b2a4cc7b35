"""s3:// addresses: what they say, what the environment adds, what is refused."""

from __future__ import annotations

import pytest

from cefr_batch.errors import UsageError
from cefr_batch.store import open_store

pytestmark = pytest.mark.usefixtures("aws")

ENDPOINT = "endpoint_url=https://minio.example:9000"


@pytest.mark.parametrize(
    ("url", "environment", "full"),
    [
        ("s3://bucket", {}, "s3://bucket"),
        ("s3://bucket/a/b/", {}, "s3://bucket/a/b"),
        (f"s3://bucket/a?{ENDPOINT}", {}, f"s3://bucket/a?{ENDPOINT}"),
        (
            "s3://bucket/a?addressing=virtual&region=eu-west-1",
            {},
            "s3://bucket/a?region=eu-west-1&addressing=virtual",
        ),
        ("s3://bucket", {"AWS_ENDPOINT_URL": "http://h:1"}, "s3://bucket?endpoint_url=http://h:1"),
        (
            "s3://bucket",
            {"AWS_ENDPOINT_URL": "http://h:1", "AWS_ENDPOINT_URL_S3": "http://s:2"},
            "s3://bucket?endpoint_url=http://s:2",
        ),
        (f"s3://bucket?{ENDPOINT}", {"AWS_ENDPOINT_URL": "http://h:1"}, f"s3://bucket?{ENDPOINT}"),
        ("s3://bucket", {"AWS_REGION": "eu-west-1"}, "s3://bucket?region=eu-west-1"),
        ("s3://bucket", {"CEFR_BATCH_S3_ADDRESSING": "path"}, "s3://bucket?addressing=path"),
        ("s3://bucket/with%20space", {}, "s3://bucket/with%20space"),
    ],
)
def test_an_address_is_completed_from_the_environment_and_then_needs_none(
    url: str, environment: dict[str, str], full: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    store = open_store(url)
    assert store.url == full
    for name in environment:
        monkeypatch.delenv(name)
    assert open_store(full).url == full


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("s3://", "the bucket is missing"),
        ("s3:///prefix", "the bucket is missing"),
        ("s3://key:SECRET@bucket/x", "credentials do not belong in the URL"),
        ("s3://bucket?endpoint_url=https://key:SECRET@host", "credentials do not belong in the URL"),
        ("s3://host:9000/bucket", "the host goes to the end"),
        ("s3://bucket?endpoint=http://h", "unknown option endpoint; valid: endpoint_url, region, addressing"),
        ("s3://bucket?secret_key=SECRET", "unknown option secret_key"),
        ("s3://bucket?endpoint_url=host:9000", "not an http:// or https:// address"),
        ("s3://bucket?addressing=dns", "not one of path, virtual"),
        ("s3://bucket/a/../b", "refused object key"),
        ("s3://bucket#x", "unknown option"),
    ],
)
def test_what_is_no_address_is_refused_without_showing_secrets(url: str, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_store(url)
    assert text in str(caught.value)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("s3://bucket/p", "https://bucket.s3.eu-west-1.amazonaws.com/"),
        ("s3://bucket/p?addressing=path", "https://s3.eu-west-1.amazonaws.com/bucket/"),
        (f"s3://bucket/p?{ENDPOINT}", "https://minio.example:9000/bucket/"),
        (f"s3://bucket/p?{ENDPOINT}&addressing=virtual", "https://bucket.minio.example:9000/"),
        ("s3://with.dots/p", "https://s3.eu-west-1.amazonaws.com/with.dots/"),
    ],
)
def test_path_and_virtual_addressing(url: str, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from cefr_batch.store.s3 import S3Store

    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    assert S3Store(url)._wire._base == address
