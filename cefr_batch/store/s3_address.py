"""``s3://`` addresses: what they say, completed from the environment and from ``~/.aws/config``."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from cefr_batch.errors import StoreError, UsageError
from cefr_batch.store.base import check_key

_OPTIONS = ("endpoint_url", "region", "addressing", "sse", "sse_kms_key_id", "storage_class")
_ENCRYPTIONS = ("AES256", "aws:kms", "aws:kms:dsse")
_OFFLINE = ("GLACIER", "DEEP_ARCHIVE")  # storage classes whose objects cannot be read at once


@dataclass(frozen=True)
class Address:
    """``s3://bucket/prefix?endpoint_url=…&region=…&addressing=path|virtual``; an option that is None has no value.

    ``sse``, ``sse_kms_key_id`` and ``storage_class`` are what objects are written with, for buckets that demand it.
    """

    bucket: str
    prefix: str
    endpoint_url: str | None
    region: str | None
    addressing: str | None
    sse: str | None
    sse_kms_key_id: str | None
    storage_class: str | None

    @classmethod
    def parse(cls, url: str, session: Any) -> Address:
        """The address, completed from a botocore session. Raises ``UsageError``, and botocore's errors for its files."""
        parts = urlsplit(url)
        given = dict(parse_qsl(parts.query, keep_blank_values=True))
        options = {name: given.get(name) or value for name, value in _settings(session).items()}
        address = cls(parts.netloc, unquote(parts.path).strip("/"), **options)
        if problem := address._problem(parts.fragment, sorted(given.keys() - set(_OPTIONS))):
            raise UsageError(f"store {_without_secrets(url)!r}: {problem}")
        return address

    def _problem(self, fragment: str, unknown: Iterable[str]) -> str:
        if not self.bucket:
            return "the bucket is missing, as in s3://my-bucket/cefr"
        if "@" in self.bucket or (self.endpoint_url and "@" in urlsplit(self.endpoint_url).netloc):
            return "credentials do not belong in the URL, which is stored; set them as AWS_… environment variables"
        if ":" in self.bucket:
            return "the host and port belong in endpoint_url, as in s3://my-bucket/cefr?endpoint_url=https://host:9000"
        if fragment or (unknown := list(unknown)):
            return f"unknown option {', '.join(unknown) or '#'}; valid: {', '.join(_OPTIONS)}"
        if self.endpoint_url and urlsplit(self.endpoint_url).scheme not in ("http", "https"):
            return f"endpoint_url {self.endpoint_url!r} is not an http:// or https:// address"
        if self.addressing not in (None, "path", "virtual"):
            return f"addressing {self.addressing!r} is not one of path, virtual"
        if self.prefix:
            try:
                check_key(self.prefix)
            except StoreError as exc:
                return str(exc)
        return self._problem_of_writing()

    def _problem_of_writing(self) -> str:
        if self.sse not in (None, *_ENCRYPTIONS):
            return f"sse {self.sse!r} is not one of {', '.join(_ENCRYPTIONS)}"
        if self.sse_kms_key_id and self.sse in (None, "AES256"):
            return "sse_kms_key_id needs sse=aws:kms"
        if self.storage_class in _OFFLINE:
            return (
                f"objects of storage class {self.storage_class} cannot be read at once, which runs need; take another"
            )
        return ""

    @property
    def style(self) -> str:
        """Virtual on AWS, unless a dot in the bucket's name would break its certificate; path elsewhere."""
        return self.addressing or ("path" if self.endpoint_url or "." in self.bucket else "virtual")

    @property
    def written_with(self) -> dict[str, str]:
        """The options of S3's requests that write an object."""
        named = {
            "ServerSideEncryption": self.sse,
            "SSEKMSKeyId": self.sse_kms_key_id,
            "StorageClass": self.storage_class,
        }
        return {name: value for name, value in named.items() if value}

    @property
    def url(self) -> str:
        """The address in full: it means the same on a machine with another environment."""
        options = {name: value for name in _OPTIONS if (value := getattr(self, name))}
        query = urlencode(options, safe=":/")
        path = f"/{quote(self.prefix)}" if self.prefix else ""
        return f"s3://{self.bucket}{path}" + (f"?{query}" if query else "")


def _settings(session: Any) -> dict[str, str | None]:
    """The options as the environment and ``~/.aws/config`` have them, in the order that AWS documents."""
    environment = os.environ
    profile = session.get_scoped_config()
    addressing = (session.get_config_variable("s3") or {}).get("addressing_style")
    return {
        "endpoint_url": _endpoint(session, profile),
        "region": environment.get("AWS_REGION") or session.get_config_variable("region") or None,
        "addressing": environment.get("CEFR_BATCH_S3_ADDRESSING") or (None if addressing == "auto" else addressing),
        "sse": None,
        "sse_kms_key_id": None,
        "storage_class": None,
    }


def _endpoint(session: Any, profile: dict[str, Any]) -> str | None:
    if session.get_config_variable("ignore_configured_endpoint_urls"):
        return None
    services = session.full_config.get("services", {}).get(profile.get("services"), {})
    return (
        os.environ.get("AWS_ENDPOINT_URL_S3")
        or os.environ.get("AWS_ENDPOINT_URL")
        or services.get("s3", {}).get("endpoint_url")
        or profile.get("endpoint_url")
    )


def _without_secrets(url: str) -> str:
    """As much of a malformed address as can be shown."""
    scheme, found, rest = url.partition("?")[0].partition("://")
    return f"{scheme}{found}{rest.rpartition('@')[2]}"
