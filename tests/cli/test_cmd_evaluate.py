"""evaluate on the command line: what is stored, what is open, and what is wrong."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from support.report_stores import PARTS
from support.stored_runs import add_complete

from cefr_batch.cli.main import main
from cefr_batch.errors import EXIT_INTERRUPTED
from cefr_batch.records import layout
from cefr_batch.records.evaluations import EvaluationTask
from cefr_batch.records.timestamps import now
from cefr_batch.runner.evaluate import request_evaluations
from cefr_batch.store.local import LocalStore

RUN = "tiny-b1-peft-v1"
TASK = EvaluationTask(model="tuned", label="A1", dataset="d" * 64, eval_sha256="a" * 64, examples=2, answered=0)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalStore:
    store = LocalStore(tmp_path / "store")
    monkeypatch.setenv("CEFR_BATCH_STORE", store.url)
    add_complete(store, RUN)
    return store


def add_result(store: LocalStore) -> None:
    loss = {"loss": 1.5, "perplexity": 4.48, "tokens": 20}
    record = {
        "run": RUN,
        "task": TASK.model_dump(),
        "losses": {"full": loss, "response": loss, "seed_protocol": {"loss": 1.5, "perplexity": 4.48}},
        "scores": [{"nll": dict.fromkeys(PARTS, 15.0), "tokens": dict.fromkeys(PARTS, 10)}] * 2,
        "seconds": 1.0,
        "code_version": "0",
        "complete_at": now(),
    }
    store.put_json(layout.run_key(RUN, layout.evaluation_name(TASK.name)), record)


def add_ended_job(store: LocalStore, message: str) -> None:
    """A job of this machine that is gone, and what it said last."""
    job = {"run": RUN, "cluster": "local", "handle": f"local://{socket.gethostname()}/4194305"}
    who = {"submitted_at": now(), "submitted_by": "me", "attempts_before": 0}
    store.put_json(layout.run_key(RUN, layout.EVALUATION_SUBMISSION), {**job, **who})
    said = {"run": RUN, "attempt": 1, "state": "FAILED", "stage": "tuned on A1", "stages_done": [], "updated_at": now()}
    store.put_json(
        layout.run_key(RUN, layout.EVALUATION_STATUS), {**said, "host": "here", "pid": 1, "message": message}
    )
    store.put(layout.run_key(RUN, layout.log_name(1, layout.EVALUATION_LOGS)), b"loading the model\nno memory\n")


def test_without_sets_it_shows_what_is_stored(store: LocalStore, capsys: pytest.CaptureFixture[str]) -> None:
    request_evaluations(store, RUN, [TASK])
    add_result(store)
    assert main(["evaluate", RUN]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1] == [RUN, "SUCCEEDED", "1", "evaluations"]
    assert lines[-1] == [RUN, "tuned", "A1", "2", "1.5000", "1.5000", "4.480"]
    assert main(["evaluate", RUN, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [one["task"]["label"] for one in document["evaluations"]] == ["A1"]
    assert len(document["evaluations"][0]["scores"]) == 2
    assert document["runs"][0]["state"] == "SUCCEEDED"


def test_waiting_ends_with_the_job_s_own_words_and_where_its_log_is(
    store: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    request_evaluations(store, RUN, [TASK])
    add_ended_job(store, "no memory for it")
    assert main(["evaluate", RUN, "--wait"]) == 1
    said = capsys.readouterr()
    assert f"{RUN}: FAILED" in said.out
    assert f"the evaluations of 1 of 1 runs did not succeed:\n  {RUN}: FAILED: no memory for it" in said.err
    assert f"cefr-batch logs {RUN} --evaluation" in said.err
    assert main(["logs", RUN, "--evaluation"]) == 0
    assert capsys.readouterr().out == "loading the model\nno memory\n"


def test_a_log_that_is_not_there_yet_comes_with_the_state(
    store: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["logs", RUN, "--evaluation"]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"No log yet. {RUN}: SUCCEEDED")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["evaluate", RUN, "--base"], "--base, --examples and --dry-run need --on"),
        (["evaluate", RUN, "--on", "Z9"], "'Z9' is neither a level"),
        (["evaluate", "--on", "A1"], "name a run, or a level"),
        (["logs", RUN, "--evaluation", "--attempt", "1"], "give only one"),
    ],
)
def test_a_command_that_cannot_be_carried_out_is_refused(
    words: list[str], said: str, store: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert said in capsys.readouterr().err
    assert not store.exists(layout.run_key(RUN, layout.EVALUATION_REQUEST))


def test_run_job_of_a_cancelled_evaluation_stops_as_asked(
    store: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    request_evaluations(store, RUN, [TASK])
    add_ended_job(store, "")
    key = layout.run_key(RUN, layout.EVALUATION_SUBMISSION)
    store.put_json(key, {**store.get_json(key), "cancelled_at": now()})
    assert main(["run-job", RUN]) == EXIT_INTERRUPTED
    assert f"the evaluations of {RUN} were cancelled" in capsys.readouterr().err
