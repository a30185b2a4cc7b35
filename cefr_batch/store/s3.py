"""``s3://`` stores: a prefix of a bucket on AWS or on any S3-compatible server, through boto3.

Credentials, proxies, certificates and retries of single requests are boto3's: its configuration files and AWS_ variables
apply. On top of that, an operation that the server cannot carry out now is repeated until the retry timeout.

Conditional writes protect a run's name where the server has them; where it ignores them (``rclone serve s3`` does), only a
second look after the write does, which leaves a moment in which two writers may both believe that they won.
"""

from __future__ import annotations

import hashlib
import logging
import os
import random
import re
import time
import uuid
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar
from urllib.parse import urlsplit

import tenacity
from typing_extensions import override

from cefr_batch.errors import (
    AccessDenied,
    AlreadyExists,
    CefrBatchError,
    CredentialsError,
    NotFound,
    StoreError,
    StoreFull,
    Unavailable,
    UsageError,
)
from cefr_batch.files import sha256_file
from cefr_batch.store.base import ObjectInfo, Store, StoreKeys, check_key
from cefr_batch.store.transfer import PART_BYTES

try:
    import boto3
    import botocore.session
    from boto3.s3.transfer import TransferConfig
    from botocore.config import Config
    from botocore.exceptions import ClientError

    from cefr_batch.store.s3_address import Address
    from cefr_batch.store.s3_errors import translated
except ImportError as exc:
    raise CefrBatchError("s3:// stores need boto3, which is not installed; pip install 'cefr-batch[s3]'") from exc

T = TypeVar("T")

# How long one operation is retried while the server cannot be reached or is overloaded.
RETRY_TIMEOUT_VARIABLE = "CEFR_BATCH_STORE_RETRY_TIMEOUT"
_ITS_OLD_NAME = "CEFR_BATCH_STORE_PATIENCE"  # in version 0.1.0
_RETRY_TIMEOUT_SECONDS = 60.0
_LONGEST_PAUSE_SECONDS = 5.0
_TRIES_OF_A_REQUEST = 8  # by boto3, unless its own configuration says otherwise
_TRIES_OF_AN_UPLOAD = 3  # at least: one may take longer than the retry timeout
_TRIES_OF_A_DOWNLOAD = 3
_CONNECT_SECONDS = 5
_READ_SECONDS = 20

_PARTS_AT_A_TIME = 8  # of a large file
_CONNECTIONS = 160  # as many as a busy upload of several large files uses
_MOST_PARTS = 10_000  # S3's limit
_PROBE = ".probe"  # a folder of the store: the objects with which conditional writes are tried out
_WRITER = "writer"  # metadata by which a writer recognizes its own object

_BLANK_IN_CREDENTIALS = (
    "the access key, secret key or session token begins or ends with a space or a line break; store it without (for a "
    "Kubernetes Secret: printf instead of echo, or --from-literal)"
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Connection:
    """A boto3 client, and the credentials that it started with (None: there are none)."""

    client: Any = field(repr=False)
    credentials: Any = field(repr=False)


def found_keys(url: str) -> StoreKeys | None:
    """The keys that a connection to this store would start with; None if there are none. Raises ``StoreError``."""
    with translated(urlsplit(url).hostname or "", "", ""):
        found = botocore.session.get_session().get_credentials()
        frozen = found and found.get_frozen_credentials()
    return StoreKeys(frozen.access_key, frozen.secret_key, frozen.token or "") if frozen else None


class S3Store(Store):
    """A prefix of a bucket. Makes no request until it is used. ``UsageError`` for an address that makes no sense."""

    def __init__(self, url: str) -> None:
        with translated(urlsplit(url).hostname or "", "", ""):
            self._address = Address.parse(url, botocore.session.get_session())
        self._bucket = self._address.bucket
        self.url = self._address.url
        self._retry_timeout = _seconds(RETRY_TIMEOUT_VARIABLE, _seconds(_ITS_OLD_NAME, _RETRY_TIMEOUT_SECONDS))
        self._connection: _Connection | None = None
        self._connecting = Lock()
        self._etags_are_md5 = True  # as far as it is known; some servers have their own

    @override
    def locate(self, key: str) -> str:
        return f"s3://{self._bucket}/{self._key(key)}"

    def _key(self, key: str) -> str:
        return self._prefixed(check_key(key))

    def _prefixed(self, prefix: str) -> str:
        return f"{self._address.prefix}/{prefix}" if self._address.prefix else prefix

    # Requests.

    def _with_retries(self, key: str, action: Callable[[Any], T], attempts: int = 1) -> T:
        """What ``action`` returns, given a boto3 client. ``key``: the full one, for messages.

        Repeated until the retry timeout, and at least ``attempts`` times, while the error may pass. With credentials that
        are refused it is repeated once, and only if there are others by now (for example in a file that is rewritten).
        """
        retry = tenacity.retry(
            retry=tenacity.retry_if_exception(_may_pass),
            stop=tenacity.stop_after_delay(self._retry_timeout) & tenacity.stop_after_attempt(attempts),
            wait=tenacity.wait_random_exponential(0.2, max=min(_LONGEST_PAUSE_SECONDS, self._retry_timeout)),
            before_sleep=self._warn,
            reraise=True,
        )
        return retry(self._with_fresh_credentials)(key, action)

    def _with_fresh_credentials(self, key: str, action: Callable[[Any], T]) -> T:
        endpoint = self._address.endpoint_url or "AWS"
        with translated(self._bucket, key, endpoint):
            connection = self._connect()
            try:
                with translated(self._bucket, key, endpoint):
                    return action(connection.client)
            except CredentialsError:
                renewed = self._connect(instead_of=connection)
                if renewed.credentials == connection.credentials:
                    raise
                return action(renewed.client)

    def _warn(self, state: tenacity.RetryCallState) -> None:
        if state.attempt_number == 1 and state.outcome:
            log.warning("%s; trying again for %.0f s", state.outcome.exception(), self._retry_timeout)

    def _connect(self, instead_of: _Connection | None = None) -> _Connection:
        """The connection in use; a new one, which reads the credentials anew, if that is ``instead_of``."""
        with self._connecting:
            if self._connection is None or self._connection is instead_of:
                self._connection = None
                self._connection = self._new_connection()
            return self._connection

    def _new_connection(self) -> _Connection:
        address, core = self._address, botocore.session.get_session()
        session = boto3.Session(botocore_session=core)
        found = session.get_credentials()
        credentials = found and found.get_frozen_credentials()
        if credentials and any(part != part.strip() for part in filter(None, credentials)):
            raise CredentialsError(_BLANK_IN_CREDENTIALS)  # else the header with the signature would be shown
        region = address.region or ("us-east-1" if address.endpoint_url else None)
        config = _config(address, core.get_config_variable("max_attempts") or _TRIES_OF_A_REQUEST)
        client = session.client("s3", endpoint_url=address.endpoint_url, region_name=region, config=config)
        if address.endpoint_url:
            for operation in ("PutObject", "UploadPart"):
                client.meta.events.register(f"before-call.s3.{operation}", _add_content_md5)
        return _Connection(client, credentials)

    # Writing.

    @override
    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        if if_absent:
            self._put_if_absent(key, data)
        else:
            self._put(key, data)

    def _put(self, key: str, data: bytes, **options: Any) -> None:
        name = self._key(key)
        options |= self._address.written_with
        self._with_retries(name, lambda s3: s3.put_object(Bucket=self._bucket, Key=name, Body=data, **options))

    def _put_if_absent(self, key: str, data: bytes) -> None:
        """Metadata tells whose object it is: a write whose answer was lost is tried again, and then finds itself.

        Without conditional writes: of two that write at once, the one whose object stays wins.
        """
        writer = uuid.uuid4().hex
        condition = {"IfNoneMatch": "*"} if self._has_conditions else {}
        if condition or not self.exists(key):
            with suppress(AlreadyExists):
                self._put(key, data, Metadata={_WRITER: writer}, **condition)
                if condition:
                    return
                time.sleep(random.uniform(0.2, 0.4))  # noqa: S311 (not a secret)
        if self._writer_of(key) != writer:
            raise AlreadyExists(f"{self.locate(key)} exists already")

    def _writer_of(self, key: str) -> str | None:
        name = self._key(key)
        head = self._with_retries(name, lambda s3: s3.head_object(Bucket=self._bucket, Key=name))
        return next((value for name, value in head["Metadata"].items() if name.lower() == _WRITER), None)

    @cached_property
    def _has_conditions(self) -> bool:
        """Whether the server refuses a second conditional write. Some ignore the condition: it has to be tried."""
        key = f"{_PROBE}/{uuid.uuid4().hex}"
        try:
            self._put(key, b"", IfNoneMatch="*")
            self._put(key, b"", IfNoneMatch="*")
        except AlreadyExists:
            return True
        except StoreError as exc:
            if "NotImplemented" not in str(exc):
                raise
        finally:
            with suppress(StoreError):
                self.delete(key)
        log.warning(
            "%s ignores conditional writes, so only a second look after each write keeps two submitters from claiming "
            "the same run name; submit from one machine at a time",
            self._address.endpoint_url,
        )
        return False

    @override
    def put_file(self, key: str, path: Path) -> str:
        name = self._key(key)
        try:
            size = path.stat().st_size
            with path.open("rb"), ThreadPoolExecutor(1) as pool:
                sha256 = pool.submit(sha256_file, path)
                self._with_retries(name, lambda s3: self._send(s3, name, path, size), _TRIES_OF_AN_UPLOAD)
                return sha256.result()
        except OSError as exc:
            raise StoreError(f"cannot read {path}: {exc.strerror or exc}") from exc

    def _send(self, s3: Any, name: str, path: Path, size: int) -> None:
        """In parts if it is large; s3transfer aborts an upload in parts that fails."""
        part_bytes = max(PART_BYTES, -(-size // _MOST_PARTS))
        config = TransferConfig(
            multipart_threshold=part_bytes + 1,
            multipart_chunksize=part_bytes,
            max_concurrency=_PARTS_AT_A_TIME,
            use_threads=size > part_bytes,
        )
        s3.upload_file(str(path), self._bucket, name, ExtraArgs=self._address.written_with, Config=config)

    # Reading.

    @override
    def get(self, key: str, *, start: int = 0, stop: int | None = None) -> bytes:
        name = self._key(key)
        if stop is not None and stop <= start:
            return b""
        part = {"Range": f"bytes={start}-{'' if stop is None else stop - 1}"} if (start, stop) != (0, None) else {}
        arrived: set[bytes] = set()

        def read(s3: Any) -> bytes:
            try:
                answer = s3.get_object(Bucket=self._bucket, Key=name, **part)
            except ClientError as exc:
                if exc.response["Error"]["Code"] == "InvalidRange":  # past the end
                    return b""
                raise
            data: bytes = answer["Body"].read()
            if self._etags_are_md5 and _differs(data, answer):
                self._etags_are_md5 = data not in arrived  # the same twice was not damaged
                arrived.add(data)
                if self._etags_are_md5:
                    raise Unavailable(f"{self.locate(key)} arrived damaged")
            return data if "ContentRange" in answer else data[start:stop]

        return self._with_retries(name, read, _TRIES_OF_A_DOWNLOAD)

    @override
    def exists(self, key: str) -> bool:
        # A listing, since a HEAD request says no more than "403" or "404" when something is wrong.
        name = self._key(key)
        page = self._with_retries(name, lambda s3: s3.list_objects_v2(Bucket=self._bucket, Prefix=name, MaxKeys=1))
        return any(found["Key"] == name for found in page.get("Contents", ()))

    @override
    def objects(self, prefix: str) -> Iterator[ObjectInfo]:
        cut = len(self._prefixed(""))
        infos = (
            ObjectInfo(entry["Key"][cut:], entry["Size"], entry["LastModified"].timestamp())
            for entry in self._listed("list_objects_v2", "Contents", prefix)
            if not entry["Key"].endswith("/")  # a folder that a web console made
        )
        return iter(sorted(infos, key=lambda info: info.key))

    @override
    def folders(self, prefix: str) -> list[str]:
        found = self._listed("list_objects_v2", "CommonPrefixes", prefix, Delimiter="/")
        return sorted(entry["Prefix"].rstrip("/").rpartition("/")[2] for entry in found)

    def _listed(self, operation: str, what: str, prefix: str, **options: Any) -> list[Any]:
        """The entries of all pages of a listing."""
        options |= {"Bucket": self._bucket, "Prefix": self._prefixed(prefix)}

        def read(s3: Any) -> list[Any]:
            pages = s3.get_paginator(operation).paginate(**options)
            return [entry for page in pages for entry in page.get(what, ())]

        return self._with_retries(options["Prefix"], read)

    # Removing.

    @override
    def delete(self, key: str) -> None:
        name = self._key(key)
        with suppress(NotFound):
            self._with_retries(name, lambda s3: s3.delete_object(Bucket=self._bucket, Key=name))

    @override
    def discard_unfinished(self, prefix: str) -> int:
        try:
            # some servers list more than they were asked for
            found = [
                upload
                for upload in self._listed("list_multipart_uploads", "Uploads", prefix)
                if upload["Key"].startswith(self._prefixed(prefix))
            ]
            for upload in found:
                self._abort(upload["Key"], upload["UploadId"])
        except AccessDenied as exc:
            remedy = "or let a lifecycle rule of the bucket remove incomplete multipart uploads"
            log.warning("cannot remove unfinished uploads, which does not affect the run: %s; %s", exc, remedy)
            return 0
        return len(found)

    def _abort(self, name: str, upload: str) -> None:
        def abort(s3: Any) -> None:
            with suppress(s3.exceptions.NoSuchUpload):
                s3.abort_multipart_upload(Bucket=self._bucket, Key=name, UploadId=upload)

        self._with_retries(name, abort)


def _config(address: Address, attempts: int) -> Config:
    # boto3's own checksums are refused by some servers that are not AWS, and stored inside the object by others.
    when = "when_required" if address.endpoint_url else "when_supported"
    return Config(
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=_READ_SECONDS,
        max_pool_connections=_CONNECTIONS,
        retries={"total_max_attempts": attempts},
        request_checksum_calculation=when,
        response_checksum_validation=when,
        s3={"addressing_style": address.style, "payload_signing_enabled": False},
    )


def _add_content_md5(params: dict[str, Any], **_: Any) -> None:
    """The checksum that servers other than AWS know, to notice what was damaged on the way."""
    body = params["body"]
    file = BytesIO(body) if isinstance(body, bytes) else body
    digest = hashlib.md5(usedforsecurity=False)
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    file.seek(0)
    params["headers"]["Content-MD5"] = b64encode(digest.digest()).decode()


def _differs(data: bytes, answer: Any) -> bool:
    """Whether what was read has another MD5 than the object's ETag, where that is one: of a whole object that was written at
    once and is not encrypted with a key of the user's."""
    etag = re.fullmatch(r'"?([0-9a-f]{32})"?', answer.get("ETag", ""))
    whole = answer.get("ContentRange", "").removeprefix(f"bytes 0-{len(data) - 1}/") in ("", str(len(data)))
    if not etag or not whole or answer.get("SSEKMSKeyId") or answer.get("SSECustomerAlgorithm"):
        return False
    return hashlib.md5(data, usedforsecurity=False).hexdigest() != etag[1]


def _may_pass(exc: BaseException) -> bool:
    """Soon, by itself: keys and free space come from people."""
    return isinstance(exc, Unavailable) and not isinstance(exc, (CredentialsError, StoreFull))


def _seconds(variable: str, default: float) -> float:
    text = os.environ.get(variable)
    try:
        return float(text) if text else default
    except ValueError:
        raise UsageError(f"{variable}={text!r} is not a number of seconds") from None
