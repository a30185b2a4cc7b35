"""What a person sees on a terminal of 80 columns: colours, bars, whole words and whole reasons; a pipe sees plain text."""

from __future__ import annotations

import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from fcntl import ioctl
from io import StringIO

import pytest
from rich.console import Console, Group
from support.stored_runs import add_complete, add_ended, days_ago

from cefr_batch.cli.show import as_text, progress_line, progress_table
from cefr_batch.records import layout
from cefr_batch.runner import RunState, State
from cefr_batch.store.local import LocalStore

RUNS = [f"smollm2-b1-peft-v{number}" for number in range(1, 13)]
REASON = "stage train failed: " + " ".join(f"word{number}" for number in range(60)) + " and this is its end"


def on_a_terminal(
    store: LocalStore, *arguments: str, rows: int = 12, columns: int = 80, **more: str
) -> tuple[int, str]:
    """A command's exit code, and all that it wrote to a terminal of this size."""
    parent, child = pty.openpty()
    ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    plain = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "COLUMNS", "LINES")}
    environment = {**plain, "TERM": "xterm-256color", "CEFR_BATCH_STORE": store.url, **more}
    command = [sys.executable, "-m", "cefr_batch", *arguments]
    process = subprocess.Popen(command, stdin=child, stdout=child, stderr=child, env=environment)
    os.close(child)
    seen = b""
    while True:
        try:
            piece = os.read(parent, 65536)
        except OSError:  # the terminal's other side is closed
            break
        if not piece:
            break
        seen += piece
    os.close(parent)
    return process.wait(), seen.decode().replace("\r\n", "\n")


def text_of(seen: str) -> str:
    """Without colours and movements of the cursor."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen)


@pytest.fixture
def failed(store: LocalStore) -> LocalStore:
    """Eleven complete runs, and one that failed for a long reason."""
    for run in RUNS[:-1]:
        add_complete(store, run, submitted_at=days_ago(3))
    add_ended(store, RUNS[-1], "FAILED", days_ago(1))
    key = layout.run_key(RUNS[-1], layout.STATUS)
    store.put_json(key, {**store.get_json(key), "message": REASON})
    return store


def test_list_breaks_no_word_at_80_columns(failed: LocalStore) -> None:
    code, seen = on_a_terminal(failed, "list")
    assert code == 0
    lines = text_of(seen).splitlines()
    for run in RUNS:
        (line,) = (line for line in lines if line.split()[:1] == [run])
        assert re.match(rf"{run} +B1     (SUCCEEDED|FAILED   )  \d{{4}}-\d\d-\d\d \d\d:\d\d\b", line), line
    assert all(len(line) <= 80 for line in lines)
    assert REASON.split() == [word for line in lines for word in line.split() if word in REASON.split()]


@pytest.mark.slow
def test_watching_ends_with_all_runs_the_whole_reason_and_exit_code_1(failed: LocalStore) -> None:
    """On a screen lower than the table, which a live display would cut."""
    code, seen = on_a_terminal(failed, "status", "--watch")
    assert code == 1
    words = text_of(seen).split()
    assert " ".join(REASON.split()[-12:]) in " ".join(words)
    assert set(RUNS) <= set(words)
    assert on_a_terminal(failed, "list", "--watch")[0] == 1
    assert on_a_terminal(failed, "status", "--watch", RUNS[0])[0] == 0


@pytest.mark.slow
def test_states_have_colours_unless_nobody_wants_them_or_sees_them(failed: LocalStore) -> None:
    _, seen = on_a_terminal(failed, "status")
    assert "\x1b[32mSUCCEEDED" in seen
    assert "\x1b[1;31mFAILED" in seen
    assert "\x1b[32m" not in on_a_terminal(failed, "status", NO_COLOR="1")[1]
    piped = subprocess.run(
        [sys.executable, "-m", "cefr_batch", "status"],
        capture_output=True,
        text=True,
        env={**os.environ, "CEFR_BATCH_STORE": failed.url},
    )
    assert "\x1b" not in piped.stdout
    assert "ELAPSED" not in piped.stdout
    assert REASON in piped.stdout


def shown(states: Sequence[RunState], width: int = 120) -> list[str]:
    screen = Console(file=StringIO(), force_terminal=True, width=width, color_system=None)
    screen.print(Group(*progress_table(states, screen)))
    assert isinstance(screen.file, StringIO)
    return screen.file.getvalue().splitlines()


def ago(seconds: float) -> str:
    return (datetime.now(timezone.utc) - timedelta(seconds=seconds)).isoformat()


def running() -> RunState:
    return RunState(RUNS[0], "B1", State.RUNNING, stage="baseline", submitted_at=ago(4000), updated_at=ago(1))


def test_steps_are_those_of_training_and_a_bar_shows_how_much_of_a_stage_is_done() -> None:
    evaluating = replace(running(), step=6, steps=8)
    training = replace(running(), stage="train", step=3, steps=12)
    above, heading, first, second = shown([evaluating, training])
    assert heading.split() == ["RUN", "STATE", "STAGE", "LOSS", "EVAL", "LEFT", "ELAPSED"]
    assert above.split() == ["TRAINING"]
    assert above.index("TRAINING") == heading.index("LEFT")
    assert "baseline (6/8)" in first
    assert "train, step 3/12" in second
    assert all("━" in line for line in (first, second))
    assert "step" not in progress_line(evaluating)
    assert "stage baseline (6/8)" in progress_line(evaluating)
    assert "step 3/12" in progress_line(training)
    assert progress_line(replace(training, eta_seconds=65.0)).endswith(", training left 1 minute and 5 seconds")
    plain = as_text(*progress_table([evaluating, training]))
    assert "━" not in plain
    assert [line.split()[2:4] for line in plain.splitlines()[1:]] == [["baseline", "(6/8)"], ["train", "3/12"]]


def test_a_stage_whose_length_is_not_known_shows_that_time_passes() -> None:
    line = shown([running()])[-1]
    assert "━" in line
    assert re.search(r" 1:0[67]:\d\d ", line)


def test_the_time_of_a_run_that_ended_stands_still() -> None:
    ended = replace(running(), state=State.SUCCEEDED, stage="publish", settled=True)
    ended = replace(ended, submitted_at="2026-11-26T06:00:00+00:00", updated_at="2026-11-26T07:05:07+00:00")
    line = shown([ended])[-1]
    assert line.rstrip().endswith(" 1:05:07")
    assert "━" not in line
    assert len(shown([replace(ended, submitted_at=None)])) == 3


def test_80_columns_keep_names_states_and_times_whole() -> None:
    state = replace(running(), stage="train", step=300, steps=1200, loss=1.25, eval_loss=1.5, eta_seconds=65.0)
    run = "llama1b-b1-unsloth-v12"
    lines = shown([replace(state, run=run)], width=80)
    assert lines[2].startswith(f"{run}  RUNNING  train, step")
    for part in (" 1.250 ", " 1.500 ", " 1:05 ", " 1:06:"):
        assert part in lines[2]
    assert "300/1200" in " ".join(lines[2:4])
    assert all(len(line.rstrip()) <= 80 for line in lines)
