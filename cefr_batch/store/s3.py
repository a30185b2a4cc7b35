"""``s3://`` stores: a prefix of a bucket on AWS or on any S3-compatible server. The only importer of boto3.

Credentials come from the usual AWS chain and are never part of the URL. Conditional writes protect a run's name where the
server has them; where it ignores them (``rclone serve s3`` does), only a second look after the write does, which leaves a
moment in which two writers may both believe that they won.
"""

from __future__ import annotations

import hashlib
import logging
import os
import random
import time
import uuid
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock, Semaphore
from typing import Any, TypeVar
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from cefr_batch.errors import AccessDenied, AlreadyExists, CefrBatchError, NotFound, StoreError, Unavailable, UsageError
from cefr_batch.store.base import ObjectInfo, Store, check_key
from cefr_batch.store.transfer import PART_BYTES, Item, download

try:
    import botocore.session
    from botocore.config import Config

    from cefr_batch.store.s3_errors import FOREIGN, explain
    from cefr_batch.store.s3_http import Wire
except ImportError as exc:
    raise CefrBatchError("s3:// stores need boto3, which is not installed; pip install 'cefr-batch[s3]'") from exc

T = TypeVar("T")

# How long one operation keeps trying while the server cannot be reached or is overloaded.
PATIENCE_VARIABLE = "CEFR_BATCH_STORE_PATIENCE"
_PATIENCE_SECONDS = 60.0
_CONNECT_SECONDS = 5
_READ_SECONDS = 20
_LONGEST_PAUSE_SECONDS = 5.0

_UPLOADS = 8  # parts of large files on their way at a time; with PART_BYTES this bounds memory
_UPLOAD_TRIES = 5
_MOST_PARTS = 10_000  # S3's limit
_CONNECTIONS = 40
_PROBE = ".probe"  # a folder of the store: the objects with which conditional writes are tried out
_WRITER = "writer"  # metadata by which a writer recognizes its own object
_WRITER_HEADER = f"x-amz-meta-{_WRITER}"
_IF_ABSENT = {"If-None-Match": "*"}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Address:
    """``s3://bucket/prefix?endpoint_url=…&region=…&addressing=path|virtual``, completed from the environment."""

    bucket: str
    prefix: str
    endpoint_url: str | None
    region: str | None
    addressing: str | None

    @classmethod
    def parse(cls, url: str) -> Address:
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        unknown = sorted(options.keys() - {"endpoint_url", "region", "addressing"})
        environment = os.environ
        address = cls(
            parts.netloc,
            unquote(parts.path).strip("/"),
            options.get("endpoint_url")
            or environment.get("AWS_ENDPOINT_URL_S3")
            or environment.get("AWS_ENDPOINT_URL")
            or None,
            options.get("region") or environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or None,
            options.get("addressing") or environment.get("CEFR_BATCH_S3_ADDRESSING") or None,
        )
        if problem := address._problem(parts.fragment, unknown):
            raise UsageError(f"store {_without_secrets(url)!r}: {problem}")
        return address

    def _problem(self, fragment: str, unknown: Iterable[str]) -> str:
        if not self.bucket:
            return "the bucket is missing, as in s3://my-bucket/cefr"
        if "@" in self.bucket or (self.endpoint_url and "@" in urlsplit(self.endpoint_url).netloc):
            return "credentials do not belong in the URL, which is stored; set AWS_ACCESS_KEY_ID and the like"
        if ":" in self.bucket:
            return "the host goes to the end, as in s3://my-bucket/cefr?endpoint_url=https://host:9000"
        if fragment or (unknown := list(unknown)):
            return f"unknown option {', '.join(unknown) or '#'}; valid: endpoint_url, region, addressing"
        if self.endpoint_url and urlsplit(self.endpoint_url).scheme not in ("http", "https"):
            return f"endpoint_url {self.endpoint_url!r} is not an http:// or https:// address"
        if self.addressing not in (None, "path", "virtual"):
            return f"addressing {self.addressing!r} is not one of path, virtual"
        if self.prefix:
            try:
                check_key(self.prefix)
            except StoreError as exc:
                return str(exc)
        return ""

    @property
    def style(self) -> str:
        """Virtual on AWS, unless a dot in the bucket's name would break its certificate; path elsewhere."""
        return self.addressing or ("path" if self.endpoint_url or "." in self.bucket else "virtual")

    def base_url(self, endpoint: str) -> str:
        """The address to which an object's key is appended."""
        if self.style == "path":
            return f"{endpoint.rstrip('/')}/{self.bucket}/"
        scheme, _, host = endpoint.rstrip("/").partition("://")
        return f"{scheme}://{self.bucket}.{host}/"

    @property
    def url(self) -> str:
        """The address in full: it means the same on a machine with another environment."""
        options = {"endpoint_url": self.endpoint_url, "region": self.region, "addressing": self.addressing}
        query = urlencode({key: value for key, value in options.items() if value}, safe=":/")
        path = f"/{quote(self.prefix)}" if self.prefix else ""
        return f"s3://{self.bucket}{path}" + (f"?{query}" if query else "")


def _without_secrets(url: str) -> str:
    """As much of an address that makes no sense as can be shown."""
    scheme, found, rest = url.partition("?")[0].partition("://")
    return f"{scheme}{found}{rest.rpartition('@')[2]}"


class S3Store(Store):
    """A prefix of a bucket. Makes no request until it is used."""

    def __init__(self, url: str) -> None:
        self._address = Address.parse(url)
        self._bucket = self._address.bucket
        self.url = self._address.url
        self._patience = _seconds(PATIENCE_VARIABLE, _PATIENCE_SECONDS)
        self._session = botocore.session.get_session()
        self._making_client = Lock()
        self._wire, self._endpoint = self._connect()
        self._pool = ThreadPoolExecutor(_UPLOADS, thread_name_prefix="s3-part")
        self._slots = Semaphore(_UPLOADS)

    def locate(self, key: str) -> str:
        return f"s3://{self._bucket}/{self._key(key)}"

    def _connect(self) -> tuple[Wire, str]:
        """What most requests go through, and the server's address. Makes no request."""
        address = self._address
        try:
            endpoint = address.endpoint_url or str(self._client.meta.endpoint_url)
            region = self._region or str(self._client.meta.region_name)
            wire = Wire(self._session, address.base_url(endpoint), region, self._config)
        except FOREIGN as exc:
            raise explain(exc, self._bucket, address.prefix, address.endpoint_url or "") from exc
        except ValueError as exc:
            raise UsageError(f"store {self.url}: {exc}") from exc
        return wire, endpoint

    @cached_property
    def _config(self) -> Config:
        return Config(
            connect_timeout=_CONNECT_SECONDS,
            read_timeout=_READ_SECONDS,
            max_pool_connections=_CONNECTIONS,
            retries={"mode": "standard", "total_max_attempts": 3},
            # Integrity is Content-MD5's part, which every server knows. boto3's own default checksums are refused by some
            # servers, and stored inside the object by others.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"addressing_style": self._address.style, "payload_signing_enabled": False},
        )

    @property
    def _region(self) -> str | None:
        return self._address.region or ("us-east-1" if self._address.endpoint_url else None)

    @cached_property
    def _client(self) -> Any:
        """boto3's own, for what is asked seldom: to make one takes as long as 300 requests through the wire."""
        with self._making_client:  # its session is not for several threads
            if "_client" in self.__dict__:
                return self.__dict__["_client"]
            import boto3

            return boto3.Session(botocore_session=self._session).client(
                "s3", endpoint_url=self._address.endpoint_url, region_name=self._region, config=self._config
            )

    def _key(self, key: str) -> str:
        check_key(key)
        return f"{self._address.prefix}/{key}" if self._address.prefix else key

    def _persist(self, action: Callable[[], T], key: str) -> T:
        """The action's result. Transient failures are tried again, with growing random pauses, until patience ends."""
        started = time.monotonic()
        attempt = 0
        while True:
            try:
                return action()
            except FOREIGN as exc:
                error = explain(exc, self._bucket, key, self._endpoint)
                left = started + self._patience - time.monotonic()
                if not isinstance(error, Unavailable) or left <= 0:
                    raise error from exc
            if attempt == 1:
                _log.warning("%s; trying again for %.0f s", error, left)
            limit = min(_LONGEST_PAUSE_SECONDS, 0.2 * 2**attempt, left)
            time.sleep(random.uniform(0, limit))  # noqa: S311 (not a secret)
            attempt += 1

    # Writing.

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        if not if_absent:
            self._put(key, data)
        elif self._has_conditions:
            self._put_if_absent(key, data)
        else:
            self._put_and_look(key, data)

    def _put(self, key: str, data: bytes, headers: dict[str, str] | None = None) -> None:
        name = self._key(key)
        headers = {"Content-MD5": _md5(data), **(headers or {})}
        self._persist(lambda: self._wire.put(name, data, headers), name)

    def _put_if_absent(self, key: str, data: bytes) -> None:
        """A write whose answer was lost is tried again, and then finds itself: the metadata tells."""
        writer = uuid.uuid4().hex
        try:
            self._put(key, data, {**_IF_ABSENT, _WRITER_HEADER: writer})
        except AlreadyExists:
            if self._writer_of(key) != writer:
                raise

    def _put_and_look(self, key: str, data: bytes) -> None:
        """For a server without conditional writes: of two that write at once, the one whose object stays wins."""
        writer = uuid.uuid4().hex
        if self.exists(key):
            raise AlreadyExists(f"{self.locate(key)} exists already")
        self._put(key, data, {_WRITER_HEADER: writer})
        time.sleep(random.uniform(0.2, 0.4))  # noqa: S311 (not a secret)
        if self._writer_of(key) != writer:
            raise AlreadyExists(f"{self.locate(key)} exists already")

    def _writer_of(self, key: str) -> str | None:
        metadata = self._head(key)["Metadata"]
        return next((value for name, value in metadata.items() if name.lower() == _WRITER), None)

    @cached_property
    def _has_conditions(self) -> bool:
        """Whether the server refuses a second conditional write. Some ignore the condition: it has to be tried."""
        key = f"{_PROBE}/{uuid.uuid4().hex}"
        try:
            self._put(key, b"", _IF_ABSENT)
            self._put(key, b"", _IF_ABSENT)
        except AlreadyExists:
            return True
        except StoreError as exc:
            if "NotImplemented" not in str(exc):
                raise
        finally:
            with suppress(StoreError):
                self.delete(key)
        _log.warning(
            "%s ignores conditional writes: nothing but a second look after the write keeps two submitters from "
            "claiming the same run's name; let one submit at a time",
            self._endpoint,
        )
        return False

    def put_file(self, key: str, path: Path) -> str:
        try:
            size = path.stat().st_size
            if size > PART_BYTES:
                return self._put_large(key, path, size)
            data = path.read_bytes()
        except OSError as exc:
            raise StoreError(f"cannot read {path}: {exc.strerror or exc}") from exc
        self._put(key, data)
        return hashlib.sha256(data).hexdigest()

    def _put_large(self, key: str, path: Path, size: int) -> str:
        """Some servers forget an unfinished upload when they restart, or when a part came damaged: begin again."""
        for _ in range(_UPLOAD_TRIES):
            with suppress(NotFound):
                return self._put_parts(key, path, size)
        raise Unavailable(f"{self.locate(key)}: the store at {self._endpoint} loses uploads before they are complete")

    def _put_parts(self, key: str, path: Path, size: int) -> str:
        """A multipart upload that is hashed on the way, and that leaves nothing behind when it fails."""
        name, writer = self._key(key), uuid.uuid4().hex
        target = {"Bucket": self._bucket, "Key": name}
        begun = self._persist(lambda: self._client.create_multipart_upload(**target, Metadata={_WRITER: writer}), name)
        target["UploadId"] = begun["UploadId"]
        sent: list[Future[str]] = []
        try:
            sha256 = self._send_parts(target, path, size, sent)
            parts = [{"PartNumber": number, "ETag": part.result()} for number, part in enumerate(sent, 1)]
            self._complete(key, target, parts, writer)
        except BaseException:
            for part in sent:
                part.cancel()
            for part in sent:
                part.cancelled() or part.exception()  # wait: a part that arrives after the abort would stay
            with suppress(*FOREIGN):
                self._client.abort_multipart_upload(**target)
            raise
        return sha256

    def _send_parts(self, target: dict[str, str], path: Path, size: int, sent: list[Future[str]]) -> str:
        digest = hashlib.sha256()
        part_bytes = max(PART_BYTES, -(-size // _MOST_PARTS))
        with path.open("rb") as file:
            while data := file.read(part_bytes):
                self._slots.acquire()
                part = self._pool.submit(self._send_part, target, len(sent) + 1, data)
                part.add_done_callback(lambda _: self._slots.release())
                sent.append(part)
                digest.update(data)
                if len(sent) > _UPLOADS:
                    sent[-1 - _UPLOADS].result()  # a failure ends the upload early
        return digest.hexdigest()

    def _send_part(self, target: dict[str, str], number: int, data: bytes) -> str:
        headers = {"Content-MD5": _md5(data)}
        query = {"partNumber": str(number), "uploadId": target["UploadId"]}
        return self._persist(lambda: self._wire.put(target["Key"], data, headers, query), target["Key"])

    def _complete(self, key: str, target: dict[str, str], parts: list[dict[str, Any]], writer: str) -> None:
        try:
            self._persist(
                lambda: self._client.complete_multipart_upload(**target, MultipartUpload={"Parts": parts}),
                target["Key"],
            )
        except StoreError:
            # Completed already, and the answer was lost?
            with suppress(StoreError):
                if self._writer_of(key) == writer:
                    return
            raise

    # Reading.

    def get(self, key: str, *, start: int = 0, stop: int | None = None) -> bytes:
        name = self._key(key)
        if stop is not None and stop <= start:
            return b""
        headers = {"Range": f"bytes={start}-{'' if stop is None else stop - 1}"} if (start, stop) != (0, None) else {}
        try:
            data, is_range = self._persist(lambda: self._wire.get(name, headers), name)
            return data if is_range else data[start:stop]
        except StoreError as exc:
            if "InvalidRange" in str(exc.__cause__):
                return b""
            raise

    def get_file(self, key: str, path: Path) -> None:
        size = int(self._head(key)["ContentLength"])
        download(self, [Item(key, size, None)], lambda _: path)

    def _head(self, key: str) -> Any:
        return self._persist(lambda: self._client.head_object(Bucket=self._bucket, Key=self._key(key)), self._key(key))

    def exists(self, key: str) -> bool:
        # A listing, since a HEAD request says no more than "403" or "404" when something is wrong.
        name = self._key(key)
        page = self._persist(lambda: self._client.list_objects_v2(Bucket=self._bucket, Prefix=name, MaxKeys=1), name)
        return any(found["Key"] == name for found in page.get("Contents", ()))

    def objects(self, prefix: str) -> Iterator[ObjectInfo]:
        found = (entry for page in self._pages(prefix) for entry in page.get("Contents", ()))
        cut = len(self._address.prefix) + 1 if self._address.prefix else 0
        infos = (ObjectInfo(entry["Key"][cut:], entry["Size"], entry["LastModified"].timestamp()) for entry in found)
        kept = (info for info in infos if not info.key.endswith("/"))  # a folder that a web console made
        return iter(sorted(kept, key=lambda info: info.key))

    def folders(self, prefix: str) -> list[str]:
        found = (entry for page in self._pages(prefix, Delimiter="/") for entry in page.get("CommonPrefixes", ()))
        return sorted(entry["Prefix"].rstrip("/").rpartition("/")[2] for entry in found)

    def _pages(self, prefix: str, **options: Any) -> Iterator[Any]:
        name = f"{self._address.prefix}/{prefix}" if self._address.prefix else prefix
        options |= {"Bucket": self._bucket, "Prefix": name}
        while True:
            page = self._persist(lambda: self._client.list_objects_v2(**options), name)
            yield page
            if not page.get("IsTruncated"):
                return
            options["ContinuationToken"] = page["NextContinuationToken"]

    # Removing.

    def delete(self, key: str) -> None:
        with suppress(NotFound):
            self._persist(lambda: self._client.delete_object(Bucket=self._bucket, Key=self._key(key)), self._key(key))

    def discard_unfinished(self, prefix: str) -> int:
        name = f"{self._address.prefix}/{prefix}" if self._address.prefix else prefix
        try:
            found = self._persist(lambda: self._unfinished(name), name)
            for upload in found:
                self._abort(upload)
        except AccessDenied as exc:
            print(f"unfinished uploads cannot be cleared, a lifecycle rule of the bucket can: {exc}", flush=True)
            return 0
        return len(found)

    def _unfinished(self, name: str) -> list[dict[str, str]]:
        pages = self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self._bucket, Prefix=name)
        uploads = (upload for page in pages for upload in page.get("Uploads", ()))
        return [
            {"Bucket": self._bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
            for upload in uploads
            if upload["Key"].startswith(name)
        ]

    def _abort(self, upload: dict[str, str]) -> None:
        with suppress(NotFound):
            self._persist(lambda: self._client.abort_multipart_upload(**upload), upload["Key"])


def _md5(data: bytes) -> str:
    return b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def _seconds(variable: str, default: float) -> float:
    text = os.environ.get(variable)
    try:
        return float(text) if text else default
    except ValueError:
        raise UsageError(f"{variable}={text!r} is not a number of seconds") from None
