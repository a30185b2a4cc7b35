"""Real object stores on loopback: SeaweedFS, ``rclone serve s3``, moto's server."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BUCKET = "cefr-batch"
KEYS = {"AWS_ACCESS_KEY_ID": "test-key-id", "AWS_SECRET_ACCESS_KEY": "test-secret-key"}
_START_SECONDS = 60.0


def program(name: str) -> str | None:
    """A program that pip put beside this Python, or one on the PATH."""
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else shutil.which(name)


def free_ports(count: int) -> list[int]:
    """Ports of the loopback address that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


def store_url(endpoint: str, prefix: str = "") -> str:
    """The ``--store`` of a prefix in the bucket of a server."""
    return f"s3://{BUCKET}/{prefix}?endpoint_url={endpoint}&region=us-east-1&addressing=path"


def client(endpoint: str, **options: Any) -> Any:
    """boto3's own client."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        config=Config(
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            **options,
        ),
    )


def answers(endpoint: str) -> bool:
    """Whether the bucket, which is made if need be, can be written to. While it starts, a server may refuse connections or
    answer 503."""
    s3 = client(endpoint, retries={"total_max_attempts": 1}, connect_timeout=1, read_timeout=5)
    try:
        if BUCKET not in [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]:
            s3.create_bucket(Bucket=BUCKET)
        s3.put_object(Bucket=BUCKET, Key="ready", Body=b"")
        s3.delete_object(Bucket=BUCKET, Key="ready")
    except Exception:  # whatever it is, it may pass; the deadline ends the wait
        return False
    return True


@dataclass
class Server:
    """A store that can be killed and started again on the same ports with the same data."""

    kind: str
    command: Sequence[str]
    port: int
    log: Path
    host: str = "127.0.0.1"
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def endpoint(self) -> str:
        return f"http://{self.host}:{self.port}"

    def url(self, prefix: str = "", *, port: int | None = None) -> str:
        """The ``--store`` of a prefix in this server's bucket, through a proxy's port if one is given."""
        return store_url(f"http://127.0.0.1:{port}" if port else self.endpoint, prefix)

    def client(self, **options: Any) -> Any:
        """boto3's own client, for what tests look up behind the store's back."""
        return client(self.endpoint, **options)

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + _START_SECONDS
        while not answers(self.endpoint):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"{self.kind} did not start:\n{self.log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL: no chance to finish anything."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def seaweedfs(folder: Path, host: str = "127.0.0.1") -> Server:
    weed, config, data = needed("weed"), folder / "s3.json", folder / "data"
    config.write_text(weed_config())
    names = [f"{part}.port{kind}" for part in ("master", "volume", "filer", "s3") for kind in ("", ".grpc")]
    ports = dict(zip(names, _ports_without_sockets(len(names)), strict=True))
    data.mkdir(exist_ok=True)
    options = {"dir": data, "ip": host, "ip.bind": host, "s3.config": config, **ports}
    return Server("seaweedfs", [weed, *weed_words(options)], ports["s3.port"], folder / "server.log", host)


def weed_config() -> str:
    """The file ``s3.config`` of a SeaweedFS that the keys open."""
    identity = {
        "name": "test",
        "credentials": [{"accessKey": KEYS["AWS_ACCESS_KEY_ID"], "secretKey": KEYS["AWS_SECRET_ACCESS_KEY"]}],
        "actions": ["Admin", "Read", "List", "Tagging", "Write"],
    }
    return json.dumps({"identities": [identity]})


def weed_words(options: Mapping[str, object]) -> list[str]:
    """The arguments of ``weed`` for a server of S3 with these options besides."""
    common = {"volume.max": 0, "master.volumeSizeLimitMB": 1024, "s3": "true", "s3.port.iceberg": 0, "s3.port.lance": 0}
    return ["-logtostderr=true", "server", *(f"-{name}={value}" for name, value in {**common, **options}.items())]


def _ports_without_sockets(count: int) -> list[int]:
    """Free ports of which no killed SeaweedFS left a socket in /tmp: another user could not replace it."""
    while True:
        ports = free_ports(count)
        if not any(found for port in ports for found in Path("/tmp").glob(f"seaweedfs-*-{port}.sock")):
            return ports


def rclone(folder: Path) -> Server:
    (port,) = free_ports(1)
    (folder / "data" / BUCKET).mkdir(parents=True)
    keys = f"{KEYS['AWS_ACCESS_KEY_ID']},{KEYS['AWS_SECRET_ACCESS_KEY']}"
    options = ["--auth-key", keys, "--addr", f"127.0.0.1:{port}", "--config", "/dev/null"]
    return Server(
        "rclone", [needed("rclone"), "serve", "s3", *options, str(folder / "data")], port, folder / "server.log"
    )


def moto(folder: Path) -> Server:
    (port,) = free_ports(1)
    return Server("moto", [needed("moto_server"), "-H", "127.0.0.1", "-p", str(port)], port, folder / "server.log")


SERVERS = {"seaweedfs": seaweedfs, "rclone": rclone, "moto": moto}


class NotInstalled(Exception):
    pass


def needed(name: str) -> str:
    found = program(name)
    if found is None:
        raise NotInstalled(f"needs the program {name}: pip install -r containers/requirements-e2e.txt")
    return found
