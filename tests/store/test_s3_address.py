"""s3:// addresses: what they say, what the environment adds, what is refused."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

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
        ("s3://b?storage_class=ONEZONE_IA&sse=AES256", {}, "s3://b?sse=AES256&storage_class=ONEZONE_IA"),
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
        ("s3://host:9000/bucket", "the host and port belong in endpoint_url"),
        ("s3://bucket?endpoint=http://h", "unknown option endpoint; valid: endpoint_url, region, addressing, sse"),
        ("s3://bucket?secret_key=SECRET", "unknown option secret_key"),
        ("s3://bucket?endpoint_url=host:9000", "not an http:// or https:// address"),
        ("s3://bucket?addressing=dns", "not one of path, virtual"),
        ("s3://bucket/a/../b", "refused object key"),
        ("s3://bucket#x", "unknown option"),
        ("s3://bucket?sse=aes", "sse 'aes' is not one of AES256, aws:kms, aws:kms:dsse"),
        ("s3://bucket?sse=AES256&sse_kms_key_id=k", "sse_kms_key_id needs sse=aws:kms"),
        ("s3://bucket?storage_class=GLACIER", "cannot be read at once"),
    ],
)
def test_what_is_no_address_is_refused_without_showing_secrets(url: str, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_store(url)
    assert text in str(caught.value)
    assert "SECRET" not in str(caught.value)


CONFIG = """
[default]
region = eu-west-1
endpoint_url = http://minio.example:9000
s3 =
  addressing_style = virtual
[profile service]
services = mine
[services mine]
s3 =
  endpoint_url = http://s3.example:1
"""


@pytest.mark.parametrize(
    ("environment", "full"),
    [
        ({}, "s3://bucket?endpoint_url=http://minio.example:9000&region=eu-west-1&addressing=virtual"),
        ({"AWS_PROFILE": "service"}, "s3://bucket?endpoint_url=http://s3.example:1"),
        ({"AWS_ENDPOINT_URL": "http://h:1", "AWS_PROFILE": "service"}, "s3://bucket?endpoint_url=http://h:1"),
        ({"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true", "AWS_PROFILE": "service"}, "s3://bucket"),
    ],
)
def test_an_address_is_completed_from_the_configuration_file(
    environment: dict[str, str], full: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").write_text(CONFIG)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert open_store("s3://bucket").url == full


@pytest.mark.slow
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
    client = S3Store(url)._connect().client
    assert client.generate_presigned_url("get_object", {"Bucket": urlsplit(url).netloc, "Key": "x"}).startswith(address)
