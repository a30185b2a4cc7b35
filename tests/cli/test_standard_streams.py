"""Output on a full disk, closed streams, a user without a home: one sentence, in a real process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.stored_runs import add_complete

from cefr_batch.store.local import LocalStore

FULL = Path("/dev/full")


def shell(redirection: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command as a shell starts it with this redirection."""
    variables = [f"{name}={value}" for name, value in environment.items()]
    unset = [part for name, value in environment.items() if not value for part in ("-u", name)]
    command = [
        "env",
        *unset,
        *(one for one in variables if not one.endswith("=")),
        sys.executable,
        "-m",
        "cefr_batch",
        *words,
    ]
    return subprocess.run(["sh", "-c", f'"$@" {redirection}', "sh", *command], capture_output=True, text=True)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    found = LocalStore(tmp_path / "store")
    add_complete(found, "x-a1-peft-v1")
    return found


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
@pytest.mark.parametrize("command", [["list"], ["list", "--json"], ["--help"]])
def test_a_full_standard_output_is_one_sentence(command: list[str], store: LocalStore) -> None:
    done = shell(f"> {FULL}", *command, *([] if command == ["--help"] else ["--store", store.url]))
    assert done.returncode == 1
    assert done.stderr == "error: standard output cannot be written: No space left on device (--debug shows where)\n"


def test_a_daemon_without_standard_input_is_told_what_prune_needs(store: LocalStore) -> None:
    done = shell("<&-", "prune", "--keep", "1", "--store", store.url)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert "prune asks before it removes, which needs a terminal; --yes removes without asking" in done.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_output_changes_nothing_but_what_is_seen(closed: str, store: LocalStore, tmp_path: Path) -> None:
    """A file that is opened must not get the number of a standard stream: what is printed would land in it."""
    done = shell(closed, "pull", "x-a1-peft-v1", "--store", store.url, "--to", str(tmp_path / "to"))
    assert done.returncode == 0
    assert (tmp_path / "to" / "x-a1-peft-v1" / "logs" / "attempt-1.log").read_bytes() == b"a line\n"


@pytest.mark.parametrize("home", ["relative", "/proc/no-such-home", "/dev/null"])
def test_an_unusual_home_does_not_break_what_needs_none(home: str, store: LocalStore) -> None:
    done = shell("", "list", "--store", store.url, HOME=home, CEFR_BATCH_CACHE="", XDG_CACHE_HOME="")
    assert (done.returncode, done.stderr) == (0, "")
    assert "x-a1-peft-v1" in done.stdout


def test_a_home_that_is_no_folder_is_named_by_doctor(store: LocalStore) -> None:
    done = shell("", "doctor", "--store", store.url, HOME="relative", CEFR_BATCH_CACHE="", XDG_CACHE_HOME="")
    assert "Traceback" not in done.stderr
    assert "this user has no home folder; set HOME, or CEFR_BATCH_CACHE" in done.stdout + done.stderr
