"""How fast transfers are, against s5cmd, rclone and boto3's defaults, on the same server in one run.

Every tool runs as a process of its own, so its start counts. Ours hashes every byte with SHA-256 on the way; the others
do so with ``sha256sum`` afterwards (downloads: is it what was stored?) or before (uploads: what will be stored?). The
tools take turns; what is printed is the median of some rounds.

    make benchmark
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from clusters.s3 import BUCKET, KEYS, Server, program

pytestmark = [pytest.mark.benchmark, pytest.mark.usefixtures("aws")]

ROUNDS = {"large": 3, "small": 9}
LARGE = 1_200_000_000
SMALL_FILES = 400
MEMORY_LIMIT = 300_000_000

UP = """
import sys
from pathlib import Path
from cefr_batch.store import open_store
from cefr_batch.store.transfer import upload
folder = Path(sys.argv[2])
upload(open_store(sys.argv[1]), {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()})
"""
DOWN = """
import json, sys
from pathlib import Path
from cefr_batch.store import open_store
from cefr_batch.store.transfer import Item, download
items = [Item(*entry) for entry in json.loads(Path(sys.argv[3]).read_text())]
download(open_store(sys.argv[1]), items, lambda item: Path(sys.argv[2], item.key))
"""
BOTO = """
import sys, boto3
from pathlib import Path
from botocore.config import Config
client = boto3.client("s3", endpoint_url=sys.argv[1], region_name="us-east-1", config=Config(
    s3={"addressing_style": "path"}, request_checksum_calculation="when_required"))
bucket, prefix, folder = sys.argv[3], sys.argv[4], Path(sys.argv[5])
if sys.argv[2] == "up":
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        client.upload_file(str(path), bucket, f"{prefix}/{path.relative_to(folder).as_posix()}")
else:
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix + "/"):
        for entry in page["Contents"]:
            target = folder / entry["Key"][len(prefix) + 1:]
            target.parent.mkdir(parents=True, exist_ok=True)
            client.download_file(bucket, entry["Key"], str(target))
"""


@dataclass(frozen=True)
class Took:
    seconds: float
    hashing: float
    memory: int

    @property
    def whole(self) -> float:
        return self.seconds + self.hashing


def files_of(kind: str, folder: Path) -> Path:
    dice = random.Random(0)
    sizes = [LARGE] if kind == "large" else [dice.randrange(500, 60_000) for _ in range(SMALL_FILES)]
    for number, size in enumerate(sizes):
        path = folder / f"part-{number % 20}" / f"file-{number}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for start in range(0, size, 10_000_000):
                file.write(dice.randbytes(min(10_000_000, size - start)))
    return folder


def measured(command: list[str]) -> tuple[float, int]:
    """Seconds, and the largest resident memory of the process in bytes."""
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - started
    assert process.stderr
    assert status == 0, process.stderr.read().decode()
    return seconds, usage.ru_maxrss * 1024


def hashed(folder: Path) -> float:
    """Seconds that sha256sum takes for a folder, with as many processes as there are cores."""
    started = time.monotonic()
    command = f"find {folder} -type f -print0 | xargs -0 -P {os.cpu_count()} -n 100 sha256sum >/dev/null"
    subprocess.run(command, shell=True, check=True)
    return time.monotonic() - started


def empty(server: Server, prefix: str) -> None:
    """So that the disk's cache is the same for every tool."""
    client = server.client()
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{prefix}/"):
        for entry in page["Contents"]:
            client.delete_object(Bucket=BUCKET, Key=entry["Key"])


Tool = Callable[[str, str, Path], list[str]]


def tools(server: Server, listing: Path, tmp_path: Path) -> dict[str, Tool]:
    config = tmp_path / "rclone.conf"
    config.write_text(
        f"[s]\ntype = s3\nprovider = SeaweedFS\nendpoint = {server.endpoint}\nregion = us-east-1\n"
        f"access_key_id = {KEYS['AWS_ACCESS_KEY_ID']}\nsecret_access_key = {KEYS['AWS_SECRET_ACCESS_KEY']}\n"
    )
    s5cmd, rclone = program("s5cmd"), program("rclone")
    assert s5cmd
    assert rclone

    def ours(way: str, prefix: str, folder: Path) -> list[str]:
        return [sys.executable, "-c", UP if way == "up" else DOWN, server.url(prefix), str(folder), str(listing)]

    def with_s5cmd(way: str, prefix: str, folder: Path) -> list[str]:
        ends = [f"{folder}/", f"s3://{BUCKET}/{prefix}/"]
        ends = ends if way == "up" else [f"s3://{BUCKET}/{prefix}/*", f"{folder}/"]
        return [s5cmd, "--endpoint-url", server.endpoint, "cp", *ends]

    def with_rclone(way: str, prefix: str, folder: Path) -> list[str]:
        ends = [str(folder), f"s:{BUCKET}/{prefix}"]
        return [rclone, "--config", str(config), "copy", *(ends if way == "up" else ends[::-1])]

    def with_boto(way: str, prefix: str, folder: Path) -> list[str]:
        return [sys.executable, "-c", BOTO, server.endpoint, way, BUCKET, prefix, str(folder)]

    return {"cefr-batch": ours, "s5cmd": with_s5cmd, "rclone": with_rclone, "boto3": with_boto}


@pytest.mark.parametrize("kind", ["large", "small"])
def test_transfers_beside_other_tools(
    kind: str, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import json

    from cefr_batch.files import sha256_file

    source = files_of(kind, tmp_path / "source")
    paths = sorted(path for path in source.rglob("*") if path.is_file())
    entries = [(p.relative_to(source).as_posix(), p.stat().st_size, sha256_file(p)) for p in paths]
    listing = tmp_path / "listing.json"
    listing.write_text(json.dumps(entries))
    took: dict[tuple[str, str], list[Took]] = {}
    for number in range(ROUNDS[kind]):
        for name, tool in tools(server, listing, tmp_path).items():
            prefix = f"{kind}-{name}-{number}"
            target = tmp_path / prefix
            target.mkdir()
            for way, folder in (("up", source), ("down", target)):
                seconds, memory = measured(tool(way, prefix, folder))
                hashing = 0.0 if name == "cefr-batch" else hashed(folder)
                took.setdefault((way, name), []).append(Took(seconds, hashing, memory))
            got = sorted(p.relative_to(target).as_posix() for p in target.rglob("*") if p.is_file())
            assert got == [key for key, _, _ in entries], name
            if kind == "large":  # many small files are left: file systems are slower to make new ones just after that
                shutil.rmtree(target)
                empty(server, prefix)
    middle = {key: sorted(several, key=lambda one: one.whole)[len(several) // 2] for key, several in took.items()}
    with capsys.disabled():
        for way in ("up", "down"):
            others = {name: one for (w, name), one in middle.items() if w == way and name != "cefr-batch"}
            mine, fastest = middle[way, "cefr-batch"], min(others, key=lambda name: others[name].whole)
            print(f"\n{kind} {way}: cefr-batch {mine.whole:.2f} s, {mine.memory / 1e6:.0f} MB; ", end="")
            print(", ".join(f"{name} {one.seconds:.2f} + {one.hashing:.2f} s" for name, one in others.items()), end="")
            print(f"; {others[fastest].whole / mine.whole:.2f} times as fast as {fastest}")
    for way in ("up", "down"):
        assert max(one.memory for one in took[way, "cefr-batch"]) < MEMORY_LIMIT
