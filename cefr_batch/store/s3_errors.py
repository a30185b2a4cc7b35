"""What botocore and urllib3 raise, as one sentence that names the bucket and the next step."""

from __future__ import annotations

from botocore import exceptions as boto
from urllib3 import exceptions as http

from cefr_batch.errors import AccessDenied, AlreadyExists, NotFound, StoreError, Unavailable

FOREIGN = (boto.ClientError, boto.BotoCoreError, http.HTTPError)

_TRANSIENT_CODES = {
    "BadDigest",  # damaged on the way
    "ConditionalRequestConflict",
    "InternalError",
    "RequestTimeout",
    "RequestTimeoutException",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
    "XAmzContentSHA256Mismatch",
}
_TOO_SLOW = {boto.ConnectTimeoutError, boto.ReadTimeoutError, http.ConnectTimeoutError, http.ReadTimeoutError}
_FULL_CODES = {"InsufficientStorage", "QuotaExceeded", "StorageFull", "XMinioStorageFull"}

_NEEDED = (
    "s3:GetObject, s3:PutObject, s3:DeleteObject, s3:ListBucket, s3:AbortMultipartUpload, s3:ListBucketMultipartUploads"
)
_KEYS = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
_EXPIRED = "{at}: the credentials have expired; renew them (for single sign-on: aws sso login), then repeat this"
_CLOCK = "{at}: this machine's clock is wrong by more than the store accepts; set it (for example with chrony)"
_REGION = "{at}: the bucket is in another region; give it, as in s3://{bucket}/…?region=eu-central-1"

# Error code -> the sentence.
_SENTENCES = {
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
_BY_STATUS = {401: "InvalidAccessKeyId", 403: "AccessDenied", 301: "PermanentRedirect"}

_NO_CREDENTIALS = (
    "{at}: no credentials for bucket {bucket!r}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
)


def explain(exc: Exception, bucket: str, key: str, endpoint: str) -> StoreError:
    """The error of ours that says what this one means for the object ``key``."""
    at = f"s3://{bucket}/{key}"
    if isinstance(exc, boto.ClientError):
        return _answered(exc, at, bucket, endpoint)
    if isinstance(exc, (boto.NoCredentialsError, boto.PartialCredentialsError)):
        return StoreError(_NO_CREDENTIALS.format(at=at, bucket=bucket))
    if isinstance(exc, (boto.ProfileNotFound, boto.ConfigParseError)):
        return StoreError(f"{at}: {exc}; correct AWS_PROFILE or ~/.aws/config")
    if isinstance(exc, (boto.CredentialRetrievalError, boto.SSOError, boto.UnauthorizedSSOTokenError)):
        return StoreError(f"{_EXPIRED.format(at=at)} ({exc})")
    if isinstance(exc, (boto.SSLError, http.SSLError)):
        return StoreError(f"{at}: no secure connection to {endpoint}: {exc}; check endpoint_url, or set AWS_CA_BUNDLE")
    if isinstance(exc, (boto.HTTPClientError, boto.ConnectionError, boto.IncompleteReadError, http.HTTPError)):
        return Unavailable(f"{at}: the store at {endpoint} cannot be reached ({_cause(exc)}); check endpoint_url")
    if "parse" in type(exc).__name__.lower():  # an answer that was cut off
        return Unavailable(f"{at}: the store at {endpoint} gave an answer that cannot be read: {exc}")
    return StoreError(f"{at}: {exc}")


def _answered(exc: boto.ClientError, at: str, bucket: str, endpoint: str) -> StoreError:
    """For an error that the server itself reports."""
    status = int(exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    code = str(exc.response.get("Error", {}).get("Code", ""))
    if code in _FULL_CODES or status == 507:
        return StoreError(f"{at}: the store at {endpoint} is full ({code}); free some space there, then repeat this")
    if code in _SENTENCES or (status in _BY_STATUS and code != "NoSuchKey"):
        known = code if code in _SENTENCES else _BY_STATUS[status]
        kind = AccessDenied if known == "AccessDenied" else StoreError
        return kind(f"{_SENTENCES[known].format(at=at, bucket=bucket)} (endpoint {endpoint})")
    if status == 404:
        return NotFound(f"{at} does not exist")
    if status == 412:
        return AlreadyExists(f"{at} exists already")
    if code in _TRANSIENT_CODES or status in (408, 429) or (status >= 500 and status != 501):
        return Unavailable(f"{at}: the store at {endpoint} has trouble ({status} {code}); repeat this later")
    return StoreError(f"{at}: the store at {endpoint} refused: {exc}")


def _cause(exc: Exception) -> str:
    """The innermost reason, without the objects' addresses that urllib3 prints."""
    if type(exc) in _TOO_SLOW:  # a refused connection is a subclass
        return "it did not answer in time"
    inner: BaseException = exc
    while inner.__cause__ or inner.__context__:
        inner = inner.__cause__ or inner.__context__ or inner
    return (getattr(inner, "strerror", None) or str(inner) or type(inner).__name__).strip()
