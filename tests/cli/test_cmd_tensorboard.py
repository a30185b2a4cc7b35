"""tensorboard, with the real one."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest
from support.stand_in import until
from support.stored_runs import add_complete, add_ended

from cefr_batch.cli.cmd_tensorboard import _fetch
from cefr_batch.store.local import LocalStore

RUN = "tiny-b1-peft-v1"


def test_event_files_are_brought_as_they_grow(store: LocalStore, tmp_path: Path) -> None:
    key, local = f"runs/{RUN}/tensorboard/sub/events.1", tmp_path / "sub" / "events.1"
    for data in (b"one", b"one, two", b"one, two", b"new"):
        store.put(key, data)
        assert _fetch(store, RUN, tmp_path)
        assert local.read_bytes() == data
    store.put_json(f"runs/{RUN}/manifest.json", {})
    assert not _fetch(store, RUN, tmp_path)


def test_there_has_to_be_a_run(store: LocalStore) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cefr_batch", "tensorboard", "--store", store.url], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "There are no runs in" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_tensorboard_shows_the_runs_and_ends_with_its_server(
    stop: signal.Signals, store: LocalStore, tmp_path: Path
) -> None:
    writer = pytest.importorskip("torch.utils.tensorboard", reason="needs torch").SummaryWriter(str(tmp_path / "log"))
    writer.add_scalar("eval/loss", 1.5, 3)
    writer.close()
    (events,) = (tmp_path / "log").iterdir()
    other = "tiny-a1-peft-v1"
    add_complete(store, RUN, {f"tensorboard/{events.name}": events.read_bytes()})
    add_ended(store, other, "FAILED", "2026-01-01T00:00:00+00:00")
    store.put(f"runs/{other}/tensorboard/{events.name}", events.read_bytes())
    log = tmp_path / "output"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "cefr_batch", "tensorboard", "--port", "0", "--store", store.url],
            stdout=output,
            stderr=output,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
    try:
        until(lambda: "http://localhost:" in log.read_text() or process.poll() is not None, 60)
        found = re.search(r"http://localhost:\d+", log.read_text())
        assert found, log.read_text()

        def shown() -> list[str]:
            with urlopen(f"{found[0]}/data/runs") as answer:
                return sorted(json.load(answer))

        until(lambda: shown() == [other, RUN], 60)
        process.send_signal(stop)
        assert process.wait(30) == 0
        with pytest.raises(OSError, match="refused"):
            urlopen(found[0])
        assert "Traceback" not in log.read_text()
    finally:
        process.kill()
