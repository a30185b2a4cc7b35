"""How fast transfers are, against s5cmd, rclone and boto3's defaults, on the same SeaweedFS.

Every tool runs as a process of its own, so its start counts. Ours hashes every byte with SHA-256 on the way; the others
do so with ``sha256sum`` afterwards (downloads: is it what was stored?) or before (uploads: what will be stored?).

Many small files stay behind the tools in Go, since each request through boto3 costs about a millisecond of processor time:
400 files came to 0.56 × s5cmd's speed up and 0.41 × down (2 busy cores, server beside it); large files are as fast.

Removing thousands of files beforehand spoils what is measured: for minutes after it ext4 takes 1 ms to make one, not 10 µs.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from clusters.s3 import BUCKET, KEYS, Server, program, seaweedfs

from benchmarks.measure import OURS, Comparison, Took, in_turns, process, ratio, seconds_of

MEMORY_LIMIT_MB = 300
LARGE_GOAL = 0.9

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
from cefr_batch.store.transfer import TransferItem, download
items = [TransferItem(*entry) for entry in json.loads(Path(sys.argv[3]).read_text())]
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


def compare(tiny: Path | None, folder: Path) -> list[Comparison]:
    sizes = {"large": [3_000_000], "small": _sizes(20)} if tiny else {"large": [1_200_000_000], "small": _sizes(400)}
    rounds = {"large": 1, "small": 1} if tiny else {"large": 3, "small": 9}
    with server(folder) as store:
        return [one for kind in sizes for one in _transfers(kind, sizes[kind], rounds[kind], store, folder / kind)]


@contextmanager
def server(folder: Path) -> Iterator[Server]:
    """A SeaweedFS, whose keys are in the environment as long as it runs."""
    ours = {**KEYS, "AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null"}
    before = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    for name in before:
        del os.environ[name]
    os.environ.update(ours)
    (folder / "seaweedfs").mkdir()
    store = seaweedfs(folder / "seaweedfs")
    try:
        store.start()
        yield store
    finally:
        store.kill()
        for name in ours:
            del os.environ[name]
        os.environ.update(before)


def _sizes(number: int) -> list[int]:
    dice = random.Random(0)
    return [dice.randrange(500, 60_000) for _ in range(number)]


def files_of(sizes: list[int], folder: Path) -> Path:
    dice = random.Random(0)
    for number, size in enumerate(sizes):
        path = folder / f"part-{number % 20}" / f"file-{number}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for start in range(0, size, 10_000_000):
                file.write(dice.randbytes(min(10_000_000, size - start)))
    return folder


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


def tools(server: Server, listing: Path, folder: Path) -> dict[str, Tool]:
    config = folder / "rclone.conf"
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

    return {OURS: ours, "s5cmd": with_s5cmd, "rclone": with_rclone, "boto3": with_boto}


def _transfers(kind: str, sizes: list[int], rounds: int, server: Server, folder: Path) -> list[Comparison]:
    from cefr_batch.files import sha256_file

    source = files_of(sizes, folder / "source")
    paths = sorted(path for path in source.rglob("*") if path.is_file())
    entries = [(p.relative_to(source).as_posix(), p.stat().st_size, sha256_file(p)) for p in paths]
    listing = folder / "listing.json"
    listing.write_text(json.dumps(entries))
    number = iter(range(10_000))

    def both(name: str, tool: Tool) -> Callable[[], tuple[Took, Took]]:
        def up_and_down() -> tuple[Took, Took]:
            prefix = f"{kind}-{name}-{next(number)}"
            target = folder / prefix
            target.mkdir()
            ways = (_took(name, tool, "up", prefix, source), _took(name, tool, "down", prefix, target))
            got = sorted(p.relative_to(target).as_posix() for p in target.rglob("*") if p.is_file())
            if got != [key for key, _, _ in entries]:
                raise RuntimeError(f"{name} did not bring back what was stored")
            if kind == "large":  # many small files are left: file systems are slower to make new ones just after that
                shutil.rmtree(target)
                empty(server, prefix)
            return ways

        return up_and_down

    took = in_turns(rounds, {name: both(name, tool) for name, tool in tools(server, listing, folder).items()})
    what = (
        f"1 file of {sizes[0] / 1e6:,.0f} MB" if kind == "large" else f"{len(sizes)} files, {sum(sizes) / 1e6:.0f} MB"
    )
    ways = (("up", 0), ("down", 1))
    return [
        _direction(kind, f"{what}, {way}", {k: [pair[i] for pair in v] for k, v in took.items()}) for way, i in ways
    ]


def _took(name: str, tool: Tool, way: str, prefix: str, folder: Path) -> Took:
    took = process(tool(way, prefix, folder))
    hashing = 0.0 if name == OURS else hashed(folder)
    return Took(took.seconds + hashing, took.peak_mb)


def _direction(kind: str, what: str, took: dict[str, list[Took]]) -> Comparison:
    """Large files have a goal; that many small ones take boto3 longer than programs in Go is known, and only shown."""
    seconds = seconds_of(took)
    times, memory = ratio(seconds, "s5cmd"), max(one.peak_mb for one in took[OURS])
    goal = LARGE_GOAL if kind == "large" else 0.0
    return Comparison(
        "transfers", what, seconds,
        f"≥ {goal} × s5cmd, hashing included; memory ≤ {MEMORY_LIMIT_MB} MB" if goal else f"memory ≤ {MEMORY_LIMIT_MB} MB",
        f"{times:.2f} × s5cmd; memory {memory:.0f} MB", times >= goal and memory <= MEMORY_LIMIT_MB,
    )  # fmt: skip
