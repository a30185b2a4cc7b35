"""Must show: faults of every kind at random moments, and each run ends as if nothing had happened.

`make chaos` makes it long: FAULTS=200, half of them on a local store and half on an S3 server. Else it is short: a few
faults on an S3 server, most of which one attempt survives.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from chaos.arena import Arena, Disk, disk, other_clock
from chaos.campaign import SETTINGS, Campaign, possible, tell, totals
from chaos.faults import FAULTS, Answering, Cut, DamagedUpload, Full, Killed, ServerKilled, Stopped
from clusters.proxy import Proxy
from clusters.s3 import Server
from support.runs import cefr_batch, read, runs, settings

from cefr_batch.store import open_store

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("aws")]

FAULTS_ASKED = int(os.environ.get("CEFR_BATCH_TEST_FAULTS") or 0)
ONLY = os.environ.get("CEFR_BATCH_TEST_ONLY", "")  # of the kinds whose names have this in them
SHORT = (
    Stopped("job"),
    Cut(),
    ServerKilled(),
    ServerKilled(),
    Answering("503", "SlowDown"),
    DamagedUpload(),
    Full("tmp"),
    Killed("both"),  # the only one that ends an attempt: to start the next takes ten seconds of computing
)
CUT_AFTER_BYTES = 400_000  # on average; so connections are cut besides


@pytest.fixture
def disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Disk]]:
    """A small one for each folder that a run writes to."""
    folder = tmp_path / "disks"
    folder.mkdir()
    with ExitStack() as stack:
        made = {name: stack.enter_context(disk(name, folder / name)) for name in ("store", "work", "cache", "tmp")}
        for name, variable in (("work", "CEFR_BATCH_WORK"), ("cache", "CEFR_BATCH_CACHE"), ("tmp", "TMPDIR")):
            monkeypatch.setenv(variable, str(made[name].path))
        yield made


@pytest.fixture
def folder(disks: dict[str, Disk], tmp_path: Path) -> Arena:
    store = open_store(str(disks["store"].path / "objects"))
    return Arena("folder", store.url, store, disks, other_clock(tmp_path))


@pytest.fixture
def bucket(disks: dict[str, Disk], tmp_path: Path, server: Server) -> Iterator[Arena]:
    """Behind a proxy."""
    others = {name: one for name, one in disks.items() if name != "store"}
    with Proxy(server.port, seed="cuts", cut_after_bytes=CUT_AFTER_BYTES) as proxy:
        url = open_store(server.url("chaos", port=proxy.port)).url
        yield Arena("bucket", url, open_store(server.url("chaos")), others, other_clock(tmp_path), proxy, server)


@pytest.mark.parametrize("name", ["folder", "bucket"])
def test_runs_end_as_if_nothing_had_happened(
    name: str, tiny_model: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if name == "folder" and not FAULTS_ASKED:
        pytest.skip("runs by make chaos")
    arena: Arena = request.getfixturevalue(name)
    faults = possible((fault for fault in (FAULTS if FAULTS_ASKED else SHORT) if ONLY in fault.kind), arena)
    if not faults:
        pytest.skip(f"no fault of a kind with {ONLY!r} in its name is possible")
    seed = os.environ.get("CEFR_BATCH_TEST_SEED") or str(time.time_ns())
    reference, seconds = run_left_alone(tiny_model, tmp_path / "undisturbed")
    tell(f"CEFR_BATCH_TEST_SEED={seed}; a run takes {seconds:.0f} s undisturbed")
    longest, pause = (60.0, seconds / 5) if FAULTS_ASKED else (1.5, seconds / 10)
    dice = random.Random(f"{seed} {name}")
    campaign = Campaign(arena, tiny_model, partial(read, reference), dice, faults, longest, pause)
    try:
        campaign.attack((FAULTS_ASKED + 1) // 2 or len(SHORT))
    finally:
        tell(totals(campaign))


def run_left_alone(model: Path, store: Path) -> tuple[Path, float]:
    """Its folder, and the seconds that it took."""
    started = time.monotonic()
    cefr_batch("submit", "--level", "B1", *settings(f"model.name={model}", *SETTINGS), "--wait", store=store)
    (folder,) = runs(store).values()
    return folder, time.monotonic() - started
