"""The one place where errors of boto3 and of what it stands on become ``StoreError``."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from boto3.exceptions import S3UploadFailedError
from botocore import credentials
from botocore import exceptions as boto

from cefr_batch.errors import (
    AccessDenied,
    AlreadyExists,
    CefrBatchError,
    CredentialsError,
    NotFound,
    StoreError,
    StoreFull,
    Unavailable,
)

_LIBRARIES = {"boto3", "botocore", "s3transfer", "awscrt", "urllib3"}
_TRANSIENT_CODES = {
    "BadDigest",  # damaged on the way
    "ConditionalRequestConflict",
    "NoSuchUpload",  # some servers lose an unfinished upload when they restart
    "RequestTimeout",
    "Throttling",
    "XAmzContentChecksumMismatch",
    "XAmzContentSHA256Mismatch",
}
_TOO_SLOW = (boto.ConnectTimeoutError, boto.ReadTimeoutError)
_NETWORK = (boto.HTTPClientError, boto.ConnectionError, boto.IncompleteReadError, OSError)
_FULL_CODES = {"InsufficientStorage", "QuotaExceeded", "StorageFull", "XMinioStorageFull"}

_NEEDED = (
    "s3:GetObject, s3:PutObject, s3:DeleteObject, s3:ListBucket, s3:AbortMultipartUpload, s3:ListBucketMultipartUploads"
)
_KEYS = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
_EXPIRED = "{at}: the credentials have expired; renew them (for single sign-on: aws sso login), then repeat this"
_CLOCK = "{at}: this machine's clock is wrong by more than the store accepts; set it (for example with chrony)"
_REGION = "{at}: the bucket is in another region; give it, as in s3://{bucket}/…?region=eu-central-1"

# Error code -> the message.
_MESSAGES = {
    "NoSuchBucket": "{at}: bucket {bucket!r} does not exist; create it or correct --store",
    "InvalidBucketName": "{at}: {bucket!r} is not a bucket's name; correct --store",
    "AccessDenied": f"{{at}}: access to bucket {{bucket!r}} is denied; its owner must allow these keys {_NEEDED}",
    "InvalidAccessKeyId": f"{{at}}: the store does not know this access key; {_KEYS}",
    "SignatureDoesNotMatch": f"{{at}}: the secret key does not belong to this access key; {_KEYS}",
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "TokenRefreshRequired": _EXPIRED,
    "InvalidToken": f"{{at}}: the session token is not valid; {_KEYS} and AWS_SESSION_TOKEN",
    "RequestTimeTooSkewed": _CLOCK,
    "RequestExpired": _CLOCK,
    "PermanentRedirect": _REGION,
    "AuthorizationHeaderMalformed": _REGION,
    "IllegalLocationConstraintException": _REGION,
}
_SAYS_NOTHING = {"Access Denied", "Forbidden", "Unauthorized"}  # what the code says already
_BY_STATUS = {401: "InvalidAccessKeyId", 403: "AccessDenied", 301: "PermanentRedirect"}
_KINDS: dict[str, type[StoreError]] = {
    "AccessDenied": AccessDenied,
    **dict.fromkeys(("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken"), CredentialsError),
    **{code: CredentialsError for code, message in _MESSAGES.items() if message == _EXPIRED},
}


@contextmanager
def translated(bucket: str, key: str, endpoint: str) -> Iterator[None]:
    """Raise what boto3, the network and the sources of credentials raise in the block as ``StoreError``.

    Anything else is a bug and passes.
    """
    try:
        yield
    except CefrBatchError:
        raise
    except Exception as exc:
        if not _is_foreign(exc):
            raise
        raise explain(exc, bucket, key, endpoint) from exc


def _is_foreign(exc: Exception) -> bool:
    return (
        isinstance(exc, (OSError, ValueError))
        or bool(_packages(exc) & _LIBRARIES)
        or credential_source(exc) is not None
    )


def _packages(exc: Exception) -> set[str]:
    """The packages in which the error's class and those above it are defined."""
    return {kind.__module__.partition(".")[0] for kind in type(exc).__mro__}


def credential_source(exc: Exception) -> str | None:
    """boto3's name of the source of credentials in which an error was raised; None if it was raised elsewhere.

    What such a source raises (a token's file, a helper program, a metadata service) may be any exception.
    """
    source = None
    for frame, _ in traceback.walk_tb(exc.__traceback__):
        owner = frame.f_locals.get("self")
        if isinstance(owner, credentials.CredentialProvider):
            source = str(owner.METHOD)
        elif isinstance(owner, credentials.RefreshableCredentials):
            source = str(owner.method)
    return source


def explain(exc: Exception, bucket: str, key: str, endpoint: str) -> StoreError:
    """The error of ours that says what this one means for the object ``key``."""
    at = f"s3://{bucket}/{key}"
    if isinstance(exc, S3UploadFailedError) and isinstance(exc.__context__, boto.ClientError):
        exc = exc.__context__
    detail = " ".join(str(exc).split()) or type(exc).__name__
    if error := _about_credentials(exc, at, bucket, detail):
        return error
    if isinstance(exc, boto.ClientError):
        return _answered(exc, at, bucket, endpoint)
    if isinstance(exc, boto.SSLError):
        return StoreError(
            f"{at}: no secure connection to {endpoint}: {detail}; check endpoint_url, or set AWS_CA_BUNDLE"
        )
    if isinstance(exc, OSError) and exc.filename:
        return StoreError(f"{at}: cannot read {exc.filename}: {exc.strerror}")
    if isinstance(exc, _NETWORK) or _packages(exc) & {"urllib3", "awscrt"}:
        return Unavailable(f"{at}: the store at {endpoint} cannot be reached ({_cause(exc)}); check endpoint_url")
    if "parse" in type(exc).__name__.lower():  # an answer that was cut off
        return Unavailable(f"{at}: the store at {endpoint} gave an answer that cannot be read: {detail}")
    return StoreError(f"{at}: {detail}")


def _about_credentials(exc: Exception, at: str, bucket: str, detail: str) -> StoreError | None:
    """For an error that arose before the store was asked."""
    if isinstance(exc, (boto.ProfileNotFound, boto.ConfigParseError)):
        return StoreError(f"{at}: {detail}; correct AWS_PROFILE or ~/.aws/config")
    if isinstance(exc, (boto.NoCredentialsError, boto.PartialCredentialsError)):
        keys = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        return CredentialsError(f"{at}: no credentials for bucket {bucket!r}; set {keys}")
    if source := credential_source(exc):
        said = "it gave something that is not JSON" if isinstance(exc, ValueError) else detail
        return CredentialsError(f"{at}: no credentials from their source {source!r} ({said}); correct or renew it")
    if isinstance(exc, (boto.CredentialRetrievalError, boto.SSOError, boto.TokenRetrievalError)):
        return CredentialsError(f"{_EXPIRED.format(at=at)} ({detail})")
    return None


def _answered(exc: boto.ClientError, at: str, bucket: str, endpoint: str) -> StoreError:
    """For an error that the server itself reports."""
    status = int(exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    code = str(exc.response.get("Error", {}).get("Code", ""))
    if code in _FULL_CODES or status == 507:
        return StoreFull(f"{at}: the store at {endpoint} is full ({code}); free some space there, then repeat this")
    if code in _TRANSIENT_CODES or status in (408, 429) or (status >= 500 and status != 501):
        return Unavailable(f"{at}: the store at {endpoint} has trouble ({status} {code}); repeat this later")
    if code in _MESSAGES or (status in _BY_STATUS and code != "NoSuchKey"):
        known = code if code in _MESSAGES else _BY_STATUS[status]
        message = _MESSAGES[known].format(at=at, bucket=bucket)
        said = " ".join(str(exc.response.get("Error", {}).get("Message") or "").split()).rstrip(".")
        words = f"; it says: {said}" if said and said not in _SAYS_NOTHING else ""
        return _KINDS.get(known, StoreError)(f"{message} (endpoint {endpoint}{words})")
    if status == 404:
        return NotFound(f"{at} does not exist")
    if status == 412:
        return AlreadyExists(f"{at} exists already")
    return StoreError(f"{at}: the store at {endpoint} refused: {' '.join(str(exc).split())}")


def _cause(exc: Exception) -> str:
    """The innermost reason, without the objects' addresses that urllib3 prints."""
    if isinstance(exc, _TOO_SLOW):
        return "it did not answer in time"
    inner: BaseException = exc
    while inner.__cause__ or inner.__context__:
        inner = inner.__cause__ or inner.__context__ or inner
    return " ".join((getattr(inner, "strerror", None) or str(inner) or type(inner).__name__).split())
