"""Every error of botocore is one sentence of ours, and each code that servers send has the right one."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from botocore import exceptions
from botocore.stub import Stubber
from urllib3 import HTTPConnectionPool
from urllib3 import exceptions as http

from cefr_batch.errors import AccessDenied, AlreadyExists, NotFound, StoreError, Unavailable
from cefr_batch.store.s3 import S3Store
from cefr_batch.store.s3_errors import explain


def answered(status: int, code: str) -> StoreError:
    error = {"Error": {"Code": code, "Message": "the server's words"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return explain(exceptions.ClientError(error, "PutObject"), "my-bucket", "runs/x", "https://store.example")


@pytest.mark.parametrize(
    ("status", "code", "kind", "text"),
    [
        (404, "NoSuchKey", NotFound, "s3://my-bucket/runs/x does not exist"),
        (404, "404", NotFound, "s3://my-bucket/runs/x does not exist"),
        (404, "NoSuchUpload", NotFound, ""),
        (404, "NoSuchBucket", StoreError, "bucket 'my-bucket' does not exist; create it"),
        (403, "AccessDenied", AccessDenied, "access to bucket 'my-bucket' is denied"),
        (403, "403", AccessDenied, "access to bucket 'my-bucket' is denied"),
        (403, "InvalidAccessKeyId", StoreError, "does not know this access key"),
        (403, "SignatureDoesNotMatch", StoreError, "the secret key does not belong"),
        (400, "ExpiredToken", StoreError, "the credentials have expired; renew them"),
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
        (507, "InsufficientStorage", StoreError, "is full"),
        (403, "QuotaExceeded", StoreError, "is full"),
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


def test_every_error_of_botocore_becomes_one_of_ours() -> None:
    """With its own message, whatever its arguments: none is lost, and what a later try may mend is Unavailable."""
    found: list[Any] = [kind for _, kind in inspect.getmembers(exceptions, inspect.isclass)]
    kinds = [kind for kind in found if issubclass(kind, exceptions.BotoCoreError)]
    assert len(kinds) > 60
    for kind in kinds:
        fields: dict[str, Any] = dict.fromkeys(_fields(kind.fmt), "field") | (
            {"last_response": {}} if "Waiter" in kind.__name__ else {}
        )
        error = explain(kind(**fields), "my-bucket", "runs/x", "https://store.example")
        assert isinstance(error, StoreError)
        assert str(error).startswith("s3://my-bucket/runs/x")


def _fields(template: str) -> list[str]:
    from string import Formatter

    return [name for _, name, _, _ in Formatter().parse(template) if name]


@pytest.mark.parametrize(
    "exc",
    [
        exceptions.EndpointConnectionError(endpoint_url="http://h", error=ConnectionRefusedError(111, "refused")),
        exceptions.ConnectTimeoutError(endpoint_url="http://h", error=TimeoutError()),
        exceptions.ReadTimeoutError(endpoint_url="http://h", error=TimeoutError()),
        exceptions.ConnectionClosedError(endpoint_url="http://h", error=ConnectionResetError()),
        exceptions.IncompleteReadError(actual_bytes=1, expected_bytes=2),
        exceptions.ResponseStreamingError(error=OSError()),
        http.ConnectTimeoutError(),
        http.ReadTimeoutError(HTTPConnectionPool("h"), "http://h", ""),
        http.ProtocolError("broken", ConnectionResetError()),
        http.IncompleteRead(1, 2),
        http.ProxyError("no tunnel", OSError()),
    ],
)
def test_what_a_later_try_may_mend(exc: Exception) -> None:
    error = explain(exc, "my-bucket", "runs/x", "https://store.example")
    assert type(error) is Unavailable
    assert "https://store.example" in str(error)


def test_uploads_that_may_not_be_listed_stop_no_job(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A writer's rights often lack that one. Without it what a killed job left of an upload stays, which is said."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    store = S3Store("s3://my-bucket?endpoint_url=https://store.example")
    with Stubber(store._client) as answers:
        answers.add_client_error("list_multipart_uploads", "AccessDenied", http_status_code=403)
        assert store.discard_unfinished("runs/x/") == 0
    said = capsys.readouterr().out
    assert said.startswith("unfinished uploads cannot be cleared, a lifecycle rule of the bucket can")
    assert "s3:ListBucketMultipartUploads" in said
    assert said.count("\n") == 1
