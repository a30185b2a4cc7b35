"""status, list, logs, cancel, resume on runs whose jobs are stand-ins."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.stand_in import started, status, until

from cefr_batch.records import layout
from cefr_batch.runner.status import run_states
from cefr_batch.runner.submission import read_submission
from cefr_batch.store.local import LocalStore

pytestmark = pytest.mark.usefixtures("stand_in_jobs")

Run = Callable[..., Any]
Claimed = Callable[[str], str]
HERE = ("--cluster", "local")  # of runs that were never submitted


def state(store: LocalStore, run: str) -> str:
    return run_states(store, [run])[0].state.value


def has_state(store: LocalStore, run: str, wanted: str) -> Callable[[], bool]:
    return lambda: state(store, run) == wanted


# Which run?


@pytest.mark.parametrize("command", ["logs", "cancel", "resume"])
def test_a_command_without_a_run_lists_the_runs(command: str, cefr_batch: Run, claimed: Claimed) -> None:
    assert "There are no runs in" in cefr_batch(command).err
    runs = [claimed("A1"), claimed("B1")]
    result = cefr_batch(command)
    assert (result.code, result.out) == (2, "")
    assert result.err.endswith(f": {', '.join(runs)}\n")


@pytest.mark.parametrize("command", ["logs", "cancel", "resume", "status"])
def test_a_run_that_does_not_exist_is_an_error_that_names_close_ones(
    command: str, cefr_batch: Run, claimed: Claimed
) -> None:
    run = claimed("B1")
    result = cefr_batch(command, "smollm-b1-peft-v1")
    assert (result.code, result.out) == (1, "")
    assert f"Did you mean {run}?" in result.err
    assert "Traceback" not in result.err
    rendered = cefr_batch(command, "smollm2-749f6b-b1-peft-v1").err
    assert (
        "If this name is from `render`, its job has not started: `kubectl get pods` shows whether its pod is waiting."
        in rendered
    )
    assert run not in rendered


def test_a_search_s_name_stands_for_its_trials_where_that_makes_sense(cefr_batch: Run, store: LocalStore) -> None:
    trials = [f"tiny-b1-peft-s1-t{number}" for number in (1, 2)]
    for run in (*trials, "tiny-b1-peft-s2-t1"):
        store.put_json(layout.run_key(run, layout.STATUS), status(run, "FAILED"))
    shown = cefr_batch("status", "tiny-b1-peft-s1", "--json")
    assert [one["run"] for one in json.loads(shown.out)["runs"]] == trials
    assert [line.partition(":")[0] for line in cefr_batch("cancel", "tiny-b1-peft-s1").out.splitlines()] == trials
    refused = cefr_batch("resume", "tiny-b1-peft-s1")
    assert (refused.code, refused.out) == (1, "")
    assert f"tiny-b1-peft-s1 is a search, not a run; name one of its trials: {', '.join(trials)}" in refused.err


@pytest.mark.parametrize("name", ["../etc", "A B", "RUN", "-", "x" * 64])
def test_what_is_no_run_s_name_is_refused_before_the_store_is_asked(name: str, cefr_batch: Run) -> None:
    result = cefr_batch("status", "--", name)
    assert result.code == 2
    assert "is not a run's name" in result.err


def test_a_run_that_was_never_started_is_not_the_newest_of_its_level(
    cefr_batch: Run, claimed: Claimed, store: LocalStore
) -> None:
    older, newer = claimed("A1"), claimed("A1")
    assert newer in cefr_batch("status", "--level", "A1").out, "none was started"
    store.put_json(layout.run_key(older, layout.STATUS), status(older, "RUNNING"))
    shown = cefr_batch("status", "--level", "A1").out
    assert (older in shown, newer in shown) == (True, False)


def test_a_level_means_its_newest_run(cefr_batch: Run, claimed: Claimed, store: LocalStore) -> None:
    runs = [claimed("B1") for _ in range(11)]
    claimed("A1")
    result = json.loads(cefr_batch("status", "--level", "b1", "--json").out)
    assert [one["run"] for one in result["runs"]] == [runs[-1]]
    older = layout.run_key(runs[3], layout.SPEC)
    store.put_json(older, {**store.get_json(older), "submitted_at": "2100-01-01T00:00:00+00:00"})
    result = json.loads(cefr_batch("status", "--level", "B1", "--level", "A1", "--json").out)
    assert [one["run"] for one in result["runs"]] == [runs[3], "smollm2-a1-peft-v1"]


def test_a_level_without_a_run_and_a_level_that_is_none(cefr_batch: Run, claimed: Claimed) -> None:
    claimed("A1")
    result = cefr_batch("status", "--level", "C1")
    assert result.code == 1
    assert "no run of level C1" in result.err
    result = cefr_batch("status", "--level", "D1")
    assert result.code == 2
    assert "valid: A1, A2, B1, B2, C1" in result.err


# status and list


def test_status_and_list_of_an_empty_store(cefr_batch: Run) -> None:
    for command in ("status", "list"):
        result = cefr_batch(command)
        assert (result.code, result.err) == (0, "")
        assert "There are no runs in" in result.out
        assert json.loads(cefr_batch(command, "--json").out)["runs"] == []


def test_status_and_list_show_every_run_and_json_is_one_document(
    cefr_batch: Run, claimed: Claimed, store: LocalStore, folder: Path
) -> None:
    waiting, running = claimed("A1"), claimed("B1")
    assert cefr_batch("resume", *HERE, running).code == 0
    until(has_state(store, running, "RUNNING"))
    for command in ("status", "list"):
        result = cefr_batch(command)
        assert result.code == 0
        assert waiting in result.out
        assert "RUNNING" in result.out
        assert "UNKNOWN" in result.out
        result = cefr_batch(command, "--json")
        assert result.err == ""
        document = {one["run"]: one for one in json.loads(result.out)["runs"]}
        assert document[running]["state"] == "RUNNING"
        assert (document[running]["step"], document[running]["steps"]) == (3, 12)
        assert document[waiting]["state"] == "UNKNOWN"
    assert f"start it with `cefr-batch resume {waiting} --cluster NAME`" in cefr_batch("status").out


def test_a_table_that_is_piped_is_not_wrapped_cut_or_drawn(
    cefr_batch: Run, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    run, reason = "a" * 55 + "-b1-v1", "why " * 100
    store.put_json(layout.run_key(run, layout.SPEC), {"run": run})
    store.put_json(layout.run_key(run, layout.STATUS), {**status(run, "FAILED"), "message": f"[red]{reason}:smile:"})
    for command in ("status", "list"):
        out = cefr_batch(command).out
        assert any(line.startswith(f"{run}  ") for line in out.splitlines())
        assert f"[red]{reason}:smile:" in out
        assert out.isascii(), "no box is drawn"


def test_a_damaged_run_does_not_hide_the_others(cefr_batch: Run, claimed: Claimed, store: LocalStore) -> None:
    good, bad = claimed("A1"), claimed("B1")
    store.put(layout.run_key(bad, layout.SUBMISSION), b"{")
    store.put(layout.run_key(bad, layout.SPEC), b"{")
    result = cefr_batch("list")
    assert result.code == 0
    assert good in result.out
    assert bad in result.out
    assert "is not valid JSON" in cefr_batch("status").out
    result = cefr_batch("resume", bad)
    assert result.code == 1
    assert "is not valid JSON" in result.err
    assert "Traceback" not in result.err


@pytest.mark.slow
def test_status_watch_ends_when_all_are_finished(
    cefr_batch: Run, claimed: Claimed, store: LocalStore, folder: Path
) -> None:
    run = claimed("A1")
    (folder / f"{run}.fail").touch()
    cefr_batch("resume", *HERE, run)
    result = cefr_batch("status", run, "--watch")
    assert result.code == 1
    assert f"{run}: FAILED, stage train, step 3/12, loss 1.250" in result.out
    assert "the stage train failed as asked" in result.out


def test_status_watch_does_not_wait_for_a_run_that_was_never_started(cefr_batch: Run, claimed: Claimed) -> None:
    claimed("A1")
    result = cefr_batch("status", "--watch")
    assert result.code == 0
    assert "never started" in result.out


# logs


def test_logs_prints_the_newest_attempt_or_the_one_asked_for(
    cefr_batch: Run, claimed: Claimed, store: LocalStore
) -> None:
    run = claimed("A1")
    for attempt in (1, 2, 10):
        store.put(layout.run_key(run, layout.log_name(attempt)), f"Satz {attempt} ✓\n".encode())
    newest = cefr_batch("logs", run)
    assert newest.out == "Satz 10 ✓\n"
    assert newest.err == "The log of attempt 10; `--attempt 2` shows the one before.\n"
    assert cefr_batch("logs", run, "--attempt", "2").out == "Satz 2 ✓\n"
    result = cefr_batch("logs", run, "--attempt", "3")
    assert result.code == 1
    assert "has no log of attempt 3; it has 1, 2, 10" in result.err


def test_logs_says_when_there_is_none_yet(cefr_batch: Run, claimed: Claimed) -> None:
    run = claimed("A1")
    result = cefr_batch("logs", run)
    assert (result.code, result.out) == (0, "")
    assert result.err.startswith(f"No log yet. {run}: UNKNOWN (never started")
    result = cefr_batch("logs", "-f", run)
    assert (result.code, result.out) == (0, "")
    assert "never started" in result.err


def test_logs_shows_one_run_at_a_time(cefr_batch: Run, claimed: Claimed) -> None:
    result = cefr_batch("logs", claimed("A1"), claimed("B1"))
    assert result.code == 2
    assert "one run at a time" in result.err


@pytest.mark.slow
def test_logs_follow_prints_everything_once_until_the_run_is_finished(
    cefr_batch: Run, claimed: Claimed, store: LocalStore, folder: Path
) -> None:
    run = claimed("A1")
    follower = _command("resume", *HERE, run, store=store)
    assert follower.wait(20) == 0
    follower = _command("logs", "-f", run, store=store)
    until(lambda: started(folder) == [run])
    assert follower.stdout
    assert follower.stdout.readline() == "attempt 1 begins\n"
    (folder / f"{run}.finish").touch()
    out, err = follower.communicate(timeout=20)
    assert out == "attempt 1 ends\n"
    assert err.endswith(f"{run}: SUCCEEDED, stage train, step 3/12, loss 1.250\n")


@pytest.mark.slow
def test_logs_follow_ends_quietly_on_ctrl_c(claimed: Claimed, store: LocalStore, folder: Path, cefr_batch: Run) -> None:
    run = claimed("A1")
    cefr_batch("resume", *HERE, run)
    follower = _command("logs", "-f", run, store=store)
    assert follower.stdout
    assert follower.stdout.readline() == "attempt 1 begins\n"
    follower.send_signal(signal.SIGINT)
    _, err = follower.communicate(timeout=20)
    assert (follower.returncode, "Traceback" in err) == (0, False)
    assert state(store, run) == "RUNNING"


# cancel and resume


def test_cancel_then_resume_then_finish(cefr_batch: Run, claimed: Claimed, store: LocalStore, folder: Path) -> None:
    run = claimed("A1")
    assert cefr_batch("resume", *HERE, run).code == 0
    until(has_state(store, run, "RUNNING"))
    result = cefr_batch("cancel", run)
    assert (result.code, result.err) == (0, "")
    assert f"{run}: asked to stop" in result.out
    until(has_state(store, run, "CANCELLED"))
    assert f"{run}: nothing to stop, it is CANCELLED" in cefr_batch("cancel", "--level", "A1").out
    first = read_submission(store, run)
    together = f"{store.url}/reports/{run}"
    record = store.get_json(layout.run_key(run, layout.SUBMISSION))
    store.put_json(layout.run_key(run, layout.SUBMISSION), {**record, "report": together})  # as SLURM and Kubernetes do
    resumed = cefr_batch("resume", "--level", "A1")
    assert resumed.code == 0
    assert resumed.err == (
        f"warning: the report in {together} does not wait for {run}; once all its runs have ended, `cefr-batch report RUN… "
        f"--out {together}` makes it again, with the runs that it compares\n"
    )
    until(lambda: started(folder) == [run, run])
    second = read_submission(store, run)
    assert first
    assert second
    assert first.cancelled_at
    assert not second.cancelled_at
    assert first.handle != second.handle
    (folder / f"{run}.finish").touch()
    until(has_state(store, run, "SUCCEEDED"))


def test_cancel_a_run_that_was_never_started(cefr_batch: Run, claimed: Claimed) -> None:
    result = cefr_batch("cancel", claimed("A1"))
    assert result.code == 0
    assert "never started" in result.out


def test_a_waiting_job_that_is_cancelled_never_starts(
    cefr_batch: Run, claimed: Claimed, store: LocalStore, folder: Path
) -> None:
    first, second = claimed("A1"), claimed("B1")
    cefr_batch("resume", *HERE, first, second)
    until(has_state(store, first, "RUNNING"))
    until(has_state(store, second, "PENDING"))
    cefr_batch("cancel", second)
    until(has_state(store, second, "CANCELLED"))
    assert "cancelled before it started" in cefr_batch("status", second).out
    assert started(folder) == [first]


def test_resume_is_refused_while_the_run_is_alive_and_once_it_is_complete(
    cefr_batch: Run, claimed: Claimed, store: LocalStore, folder: Path
) -> None:
    run, other = claimed("A1"), claimed("B1")
    cefr_batch("resume", *HERE, run)
    until(has_state(store, run, "RUNNING"))
    result = cefr_batch("resume", run, other)
    assert (result.code, result.out) == (1, "")
    assert f"{run}: is RUNNING already" in result.err
    assert read_submission(store, other) is None, "nothing is started when one of the runs is refused"
    key = layout.run_key(run, layout.SUBMISSION)
    record = store.get_json(key)
    store.put_json(key, {**record, "cancelled_at": record["submitted_at"]})
    result = cefr_batch("resume", run)
    assert (
        "is still being stopped (asked to stop; it stores a checkpoint after the step that it is computing); resume it once"
        in result.err
    )
    store.put_json(key, record)
    (folder / f"{run}.finish").touch()
    until(has_state(store, run, "SUCCEEDED"))
    result = cefr_batch("resume", run)
    assert result.code == 1
    assert "is complete" in result.err


def test_resume_of_a_run_on_another_machine_needs_force(
    cefr_batch: Run, claimed: Claimed, store: LocalStore, folder: Path
) -> None:
    run = claimed("A1")
    key = layout.run_key(run, layout.SUBMISSION)
    record = {"run": run, "cluster": "local", "handle": "local://elsewhere/1", "submitted_by": "me"}
    store.put_json(key, {**record, "submitted_at": "2026-01-01T00:00:00+00:00", "cancelled_at": None})
    result = cefr_batch("resume", run)
    assert result.code == 1
    assert "elsewhere" in result.err
    assert "--force" in result.err
    result = cefr_batch("cancel", run)
    assert result.code == 1
    assert "cancel it there" in result.err
    assert cefr_batch("resume", run, "--force").code == 0
    until(has_state(store, run, "RUNNING"))


def test_a_run_that_kubectl_started_is_neither_stopped_nor_started_again_from_here(
    cefr_batch: Run, claimed: Claimed, store: LocalStore, folder: Path
) -> None:
    """As after `render`, or with k8s/base: there is no record of a submission."""
    run = claimed("A1")
    store.put_json(layout.run_key(run, layout.STATUS), {**status(run, "RUNNING"), "host": "a-pod"})
    result = cefr_batch("cancel", run)
    assert (result.code, "it was not started by submit; whoever started it can stop it" in result.out) == (1, True)
    store.put_json(layout.run_key(run, layout.STATUS), {**status(run, "FAILED"), "host": "a-pod"})
    result = cefr_batch("resume", run)
    assert (result.code, "was not started by submit; start its job again where it ran" in result.err) == (1, True)
    assert cefr_batch("resume", run, "--force").code == 0
    until(has_state(store, run, "RUNNING"))


# --wait


@pytest.mark.slow
def test_wait_exits_0_when_all_succeeded(cefr_batch: Run, claimed: Claimed, store: LocalStore, folder: Path) -> None:
    runs = [claimed("A1"), claimed("B1")]
    for run in runs:
        (folder / f"{run}.finish").touch()
    result = cefr_batch("resume", *HERE, *runs, "--wait")
    assert (result.code, result.err) == (0, "")
    for run in runs:
        assert f"{run}: SUCCEEDED" in result.out
    assert f"Compare them: cefr-batch report {' '.join(runs)}" in result.out


@pytest.mark.slow
def test_wait_exits_1_with_each_reason_and_the_next_step(
    cefr_batch: Run, claimed: Claimed, store: LocalStore, folder: Path
) -> None:
    good, failing, vanishing = claimed("A1"), claimed("A2"), claimed("B1")
    for run, end in ((good, "finish"), (failing, "fail"), (vanishing, "vanish")):
        (folder / f"{run}.{end}").touch()
    result = cefr_batch("resume", *HERE, good, failing, vanishing, "--wait")
    assert result.code == 1
    assert "error: 2 of 3 runs did not succeed:" in result.err
    assert f"{failing}: FAILED: the stage train failed as asked" in result.err
    assert f"{vanishing}: FAILED: its process exited without reporting a status" in result.err
    assert f"`cefr-batch resume {vanishing}` resumes it" in result.err
    assert f"cefr-batch logs {failing}" in result.err
    assert "Traceback" not in result.err


def test_ctrl_c_while_waiting_leaves_the_jobs_running(claimed: Claimed, store: LocalStore, folder: Path) -> None:
    run = claimed("A1")
    waiting = _command("resume", *HERE, run, "--wait", store=store)
    until(has_state(store, run, "RUNNING"))
    assert waiting.stdout
    until(lambda: "RUNNING" in waiting.stdout.readline())  # type: ignore[union-attr]
    waiting.send_signal(signal.SIGINT)
    _, err = waiting.communicate(timeout=20)
    assert waiting.returncode == 130
    assert "the jobs continue" in err
    assert f"cefr-batch status {run} --watch" in err
    assert f"cefr-batch cancel {run}" in err
    assert "Traceback" not in err
    assert state(store, run) == "RUNNING"


def test_on_a_terminal_waiting_shows_one_line_per_run(claimed: Claimed, store: LocalStore, folder: Path) -> None:
    run = claimed("A1")
    (folder / f"{run}.finish").touch()
    master, slave = os.openpty()
    waiting = _command("resume", *HERE, run, "--wait", store=store, stdout=slave)
    os.close(slave)
    shown = b""
    try:
        while piece := os.read(master, 10000):
            shown += piece
    except OSError:  # the other end is closed
        pass
    assert waiting.wait(20) == 0
    assert b"ELAPSED" in shown
    assert f"{run}  SUCCEEDED" in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())


def _command(*arguments: str, store: LocalStore, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
    """The command line in a process of its own, with stand-in jobs."""
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        "from cefr_batch.schedulers import SCHEDULERS\n"
        "SCHEDULERS['local'] = 'support.stand_in:StandInLauncher'\n"
        "from cefr_batch.cli.main import main\n"
        "sys.exit(main())"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "CEFR_BATCH_STORE": store.url, "PYTHONUNBUFFERED": "1"},
    )
