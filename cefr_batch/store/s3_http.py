"""The two requests that are made by the thousand: GET and PUT, signed by botocore, sent by urllib3 as botocore does.

Through botocore's client each takes 0.85 ms of this process's time, so 0.33 ms; and the client takes 0.11 s to make (seen
on a 2-core machine). Without this, listing 1,000 runs would take longer than 3 s, and 400 small files twice as long.
"""

from __future__ import annotations

import os
import re
from typing import Any
from urllib.parse import quote, urlsplit

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.exceptions import ClientError, NoCredentialsError
from botocore.httpsession import ProxyConfiguration, where
from botocore.utils import get_environ_proxies
from urllib3 import BaseHTTPResponse, PoolManager, ProxyManager, Timeout

_CODE = re.compile(rb"<Code>([^<]*)</Code>")
_MESSAGE = re.compile(rb"<Message>([^<]*)</Message>")


class Wire:
    """GET and PUT of objects in one bucket. Safe to use from several threads.

    Raises botocore's ``ClientError`` for an answer that is an error, and urllib3's ``HTTPError`` where none came.
    """

    def __init__(self, session: Any, base_url: str, region: str, config: Config) -> None:
        """``session`` is botocore's: it knows credentials and certificates. ``base_url``: what keys are appended to."""
        self._credentials = session.get_credentials()
        self._base = base_url
        self._region = region
        self._context = {"client_config": config}  # whether to sign payloads
        proxy = get_environ_proxies(base_url).get(urlsplit(base_url).scheme)
        options: dict[str, Any] = {
            "maxsize": config.max_pool_connections,
            "timeout": Timeout(config.connect_timeout, config.read_timeout),
            "ca_certs": session.get_config_variable("ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE") or where(),
        }
        if proxy:
            options["proxy_headers"] = ProxyConfiguration().proxy_headers_for(proxy)  # its user and password
        manager = ProxyManager(proxy, **options) if proxy else PoolManager(**options)
        self._pool = manager.connection_from_url(base_url)
        # A proxy is told the whole address, unless it only passes on what is encrypted.
        self._cut = 0 if proxy and base_url.startswith("http:") else len(base_url) - len(urlsplit(base_url).path)

    def get(self, key: str, headers: dict[str, str]) -> tuple[bytes, bool]:
        """The object's bytes, and whether they are only the range that the headers ask for."""
        answer = self._send("GET", key, headers, None)
        return answer.data, "Content-Range" in answer.headers  # the status may be 200 all the same (rclone)

    def put(self, key: str, data: bytes, headers: dict[str, str], query: dict[str, str] | None = None) -> str:
        """Write an object, or with ``query`` a part of one; return its ETag."""
        return self._send("PUT", key, headers, data, query).headers.get("ETag", "")

    def _send(
        self, method: str, key: str, headers: dict[str, str], data: bytes | None, query: dict[str, str] | None = None
    ) -> BaseHTTPResponse:
        url = self._base + quote(key, safe="/~")
        # Another order would be signed as it stands, but some servers sort.
        url += (
            "?" + "&".join(f"{name}={quote(value, safe='~')}" for name, value in sorted(query.items())) if query else ""
        )
        request = AWSRequest(method, url, headers=headers)  # the body is not signed
        request.context.update(self._context)
        if self._credentials is None:
            raise NoCredentialsError
        # Frozen for this request: they are renewed when they are about to expire.
        S3SigV4Auth(self._credentials.get_frozen_credentials(), "s3", self._region).add_auth(request)
        signed = dict(request.headers.items())
        answer = self._pool.urlopen(
            method,
            url[self._cut :],
            data,
            signed,
            retries=False,
            redirect=False,
            assert_same_host=False,  # the pool's host may be a proxy
            decode_content=False,
        )
        if answer.status >= 300:
            raise _error(answer, method)
        return answer


def _error(answer: BaseHTTPResponse, method: str) -> ClientError:
    code, message = (found[1].decode() if (found := field.search(answer.data)) else "" for field in (_CODE, _MESSAGE))
    error = {"Code": code or str(answer.status), "Message": message}
    return ClientError({"Error": error, "ResponseMetadata": {"HTTPStatusCode": answer.status}}, f"{method} object")
