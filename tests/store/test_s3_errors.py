"""Every error of botocore is one sentence of ours, and each code that servers send has the right one."""

from __future__ import annotations

import logging

import pytest
from botocore import exceptions
from botocore.stub import Stubber
from support.exception_trees import an_instance_of, exceptions_of
from urllib3 import exceptions as http

from cefr_batch.errors import (
    AccessDenied,
    AlreadyExists,
    CredentialsError,
    NotFound,
    StoreError,
    StoreFull,
    Unavailable,
)
from cefr_batch.store.s3 import S3Store
from cefr_batch.store.s3_errors import explain, translated


def answered(status: int, code: str) -> StoreError:
    error = {"Error": {"Code": code, "Message": "the server's words"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return explain(exceptions.ClientError(error, "PutObject"), "my-bucket", "runs/x", "https://store.example")


@pytest.mark.parametrize(
    ("status", "code", "kind", "text"),
    [
        (404, "NoSuchKey", NotFound, "s3://my-bucket/runs/x does not exist"),
        (404, "404", NotFound, "s3://my-bucket/runs/x does not exist"),
        (404, "NoSuchUpload", Unavailable, "has trouble"),
        (404, "NoSuchBucket", StoreError, "bucket 'my-bucket' does not exist; create it"),
        (403, "AccessDenied", AccessDenied, "access to bucket 'my-bucket' is denied"),
        (403, "403", AccessDenied, "access to bucket 'my-bucket' is denied"),
        (403, "InvalidAccessKeyId", CredentialsError, "does not know this access key"),
        (403, "SignatureDoesNotMatch", CredentialsError, "the secret key does not belong"),
        (400, "ExpiredToken", CredentialsError, "the credentials have expired; renew them"),
        (403, "RequestTimeTooSkewed", StoreError, "this machine's clock is wrong"),
        (301, "PermanentRedirect", StoreError, "in another region; give it, as in s3://my-bucket/…?region="),
        (400, "AuthorizationHeaderMalformed", StoreError, "another region"),
        (412, "PreconditionFailed", AlreadyExists, "exists already"),
        (409, "ConditionalRequestConflict", Unavailable, "repeat this later"),
        (503, "SlowDown", Unavailable, "has trouble (503 SlowDown)"),
        (500, "InternalError", Unavailable, "has trouble"),
        (502, "502", Unavailable, "has trouble"),
        (429, "TooManyRequests", Unavailable, "has trouble"),
        (400, "BadDigest", Unavailable, "has trouble"),
        (400, "RequestTimeout", Unavailable, "has trouble"),
        (507, "InsufficientStorage", StoreFull, "is full"),
        (403, "QuotaExceeded", StoreFull, "is full"),
        (501, "NotImplemented", StoreError, "NotImplemented"),
        (400, "SomethingNew", StoreError, "the server's words"),
    ],
)
def test_what_servers_answer(status: int, code: str, kind: type[StoreError], text: str) -> None:
    error = answered(status, code)
    assert type(error) is kind
    assert text in str(error)
    assert "s3://my-bucket/runs/x" in str(error)
    assert "\n" not in str(error)


def instance_of(kind: type[Exception]) -> Exception:
    error = an_instance_of(kind)
    if isinstance(error, exceptions.ClientError):
        error.response = {}
    return error


@pytest.mark.parametrize(("package", "least"), [("botocore", 90), ("s3transfer", 10), ("boto3", 12)])
def test_every_error_of_the_libraries_becomes_one_of_ours(package: str, least: int) -> None:
    kinds = list(exceptions_of(package))
    assert len(kinds) >= least
    for kind in kinds:
        with pytest.raises(StoreError, match=r"^s3://my-bucket/runs/x: .+$"), translated("my-bucket", "runs/x", "h"):
            raise instance_of(kind)


def test_a_refusal_keeps_the_server_s_words() -> None:
    """A policy, a proxy or a quota may stand behind a 403: only the server knows."""
    assert "it says: the server's words)" in str(answered(403, "AccessDenied"))
    assert "it says: the server's words)" in str(answered(400, "ExpiredToken"))


def test_a_bug_is_not_hidden() -> None:
    with pytest.raises(KeyError), translated("my-bucket", "runs/x", "h"):
        raise KeyError("x")


@pytest.mark.parametrize(
    "exc",
    [
        exceptions.EndpointConnectionError(endpoint_url="http://h", error=ConnectionRefusedError(111, "refused")),
        exceptions.ConnectTimeoutError(endpoint_url="http://h", error=TimeoutError()),
        exceptions.ReadTimeoutError(endpoint_url="http://h", error=TimeoutError()),
        exceptions.ConnectionClosedError(endpoint_url="http://h", error=ConnectionResetError()),
        exceptions.IncompleteReadError(actual_bytes=1, expected_bytes=2),
        exceptions.ResponseStreamingError(error=OSError()),
        http.ProtocolError("broken", ConnectionResetError()),
        ConnectionResetError(),
    ],
)
def test_what_a_later_try_may_mend(exc: Exception) -> None:
    error = explain(exc, "my-bucket", "runs/x", "https://store.example")
    assert type(error) is Unavailable
    assert "https://store.example" in str(error)


def test_uploads_that_may_not_be_listed_stop_no_job(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A writer's rights often lack that one. Without it what a killed job left of an upload stays, which is said."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    store = S3Store("s3://my-bucket?endpoint_url=https://store.example")
    with Stubber(store._connect().client) as answers:
        answers.add_client_error("list_multipart_uploads", "AccessDenied", http_status_code=403)
        assert store.discard_unfinished("runs/x/") == 0
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.message.startswith("cannot remove unfinished uploads, which does not affect the run: ")
    assert record.message.endswith("; or let a lifecycle rule of the bucket remove incomplete multipart uploads")
    assert "s3:ListBucketMultipartUploads" in record.message
