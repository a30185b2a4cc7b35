"""submit: everything is checked for all levels before anything starts; what is printed is what is started."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from support.stand_in import StandInLauncher, started, until

from cefr_batch.errors import SchedulerError
from cefr_batch.records import layout
from cefr_batch.runner import Session
from cefr_batch.runner.prepare import check_store
from cefr_batch.runner.status import run_states
from cefr_batch.runner.submission import read_submission
from cefr_batch.schedulers import SCHEDULERS, Job, Observation, State
from cefr_batch.schedulers.local.scheduler import LocalRequest, LocalScheduler
from cefr_batch.store.datasets import fetch_dataset
from cefr_batch.store.local import LocalStore

Run = Callable[..., Any]


@pytest.fixture
def tiny(tiny_model: Path) -> tuple[str, ...]:
    """Options that make a submit quick to check."""
    settings = {"model.name": tiny_model, "model.alias": "tiny", "data.examples": 20, "training.max_length": 2000}
    return ("--profile", "smoke", *(part for key, value in settings.items() for part in ("--set", f"{key}={value}")))


@pytest.mark.slow
@pytest.mark.usefixtures("stand_in_jobs")
def test_submit_starts_a_run_for_each_level_in_order(
    cefr_batch: Run, tiny: tuple[str, ...], store: LocalStore, folder: Path, tmp_path: Path
) -> None:
    result = cefr_batch("submit", "--level", "a1", "--level", "B1", "--level", "A1", *tiny)
    assert (result.code, result.err) == (0, "")
    runs = ["tiny-a1-peft-v1", "tiny-b1-peft-v1"]
    assert store.folders("runs/") == runs
    for level, run in zip(("A1", "B1"), runs, strict=True):
        submission = read_submission(store, run)
        assert submission
        assert f"{level}  {run}  {submission.handle}\n" in result.out
        assert f"  cefr-batch logs -f {run}\n" in result.out
        record = store.get_json(layout.run_key(run, layout.SPEC))
        assert record["spec"]["level"] == level
        assert record["spec"]["backend"] == "peft", "auto is settled before the run gets its name"
        assert len(fetch_dataset(store, record["dataset"], tmp_path / run).train) == 18
        (folder / f"{run}.finish").touch()
    assert "  cefr-batch status --watch\n" in result.out
    assert "  cefr-batch report\n" in result.out
    until(lambda: all(state.state.finished for state in run_states(store, runs)))
    assert started(folder) == runs


@pytest.mark.usefixtures("stand_in_jobs")
def test_submit_json_is_one_document_and_a_second_submit_gets_the_next_name(
    cefr_batch: Run, tiny: tuple[str, ...], store: LocalStore
) -> None:
    for version in (1, 2):
        result = cefr_batch("submit", "--level", "A1", *tiny, "--json")
        repeats = "warning: tiny-a1-peft-v2 has the same settings and data as tiny-a1-peft-v1; if that was not meant, "
        assert (result.code, result.err.startswith(repeats)) == (0, version == 2)
        document = json.loads(result.out)
        (run,) = document["runs"]
        assert document["store"] == store.url
        assert (run["run"], run["level"]) == (f"tiny-a1-peft-v{version}", "A1")
        assert run["state"] in ("PENDING", "RUNNING")
        assert run["handle"].startswith("local://")
        key = layout.run_key(run["run"], layout.SPEC)
        recorded = store.get_json(key)
        del recorded["spec"]["training"]["loss_on"]  # as a version recorded it that did not know this setting
        store.put_json(key, recorded)


@pytest.mark.slow
@pytest.mark.usefixtures("stand_in_jobs")
def test_submit_wait_shows_progress_and_with_json_only_the_document_on_standard_output(
    cefr_batch: Run, tiny: tuple[str, ...], folder: Path
) -> None:
    (folder / "tiny-a1-peft-v1.finish").touch()
    result = cefr_batch("submit", "--level", "A1", *tiny, "--wait", "--json")
    assert result.code == 0
    assert json.loads(result.out)["runs"][0]["state"] == "SUCCEEDED"
    assert "tiny-a1-peft-v1: SUCCEEDED" in result.err


def test_a_store_in_the_folder_of_another_is_refused(
    cefr_batch: Run, tiny: tuple[str, ...], store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where somebody works in the folder of runs."""
    store.put(f"datasets/{'0' * 64}/train.json", b"[]")
    store.put("runs/tiny-a1-peft-v1/spec.json", b"{}")
    inside = str(store.root / "runs")
    result = cefr_batch("submit", "--level", "A1", *tiny, "--store", inside)
    assert result.code == 1
    assert f"it lies in the folder of another store, {store.root}; work in the folder above that" in result.err
    assert store.folders("runs/") == ["tiny-a1-peft-v1"]


def test_a_store_in_a_folder_that_may_not_be_searched_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file system's error stands in for rights, which bind everybody but root."""
    look = os.stat

    def stat(path: Any, **options: Any) -> os.stat_result:
        if tmp_path in Path(path).parents:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), path)
        return look(path, **options)

    monkeypatch.setattr(os, "stat", stat)
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "cannot be written; give another with --store" in check_store(LocalStore(tmp_path / "runs")).problem


def test_dry_run_prints_the_request_and_touches_nothing(
    cefr_batch: Run, tiny: tuple[str, ...], store: LocalStore, tmp_path: Path
) -> None:
    before = sorted(tmp_path.rglob("*"))
    result = cefr_batch("submit", "--level", "A1", *tiny, "--dry-run")
    assert (result.code, result.err) == (0, "")
    assert "tiny-a1-peft-v1\n" in result.out
    assert f"run-job tiny-a1-peft-v1 --store {store.url}" in result.out
    assert "Nothing was started" in result.out
    result = cefr_batch("submit", "--level", "A1", *tiny, "--dry-run", "--json")
    shown = json.loads(result.out)
    assert shown["runs"] == ["tiny-a1-peft-v1"]
    assert f"run-job tiny-a1-peft-v1 --store {store.url}" in shown["request"]
    assert sorted(tmp_path.rglob("*")) == before


def test_what_dry_run_shows_is_what_is_started(
    cefr_batch: Run, tiny: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = json.loads(cefr_batch("submit", "--level", "A1", *tiny, "--dry-run", "--json").out)["request"]
    sent: list[str] = []

    def submit(self: LocalScheduler, request: tuple[LocalRequest, ...]) -> list[str]:
        sent.append(self.describe(request))
        raise SchedulerError("only looking")

    monkeypatch.setattr(LocalScheduler, "submit", submit)
    cefr_batch("submit", "--level", "A1", *tiny)
    assert sent == [shown]


def test_every_problem_of_every_level_is_in_one_message_and_nothing_is_written(
    cefr_batch: Run, tiny: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CEFR_BATCH_WORK", str(tmp_path / "file" / "work"))
    before = sorted(tmp_path.rglob("*"))
    result = cefr_batch("submit", "--level", "A1", "--level", "B1", *tiny, "--set", "training.max_length=30")
    assert (result.code, result.out) == (1, "")
    assert "error: 7 problems, nothing was started:" in result.err
    assert "level A1, training.max_length: 30 tokens would cut" in result.err
    assert "level B1, training.max_length: 30 tokens would cut" in result.err
    assert f"{tmp_path / 'file' / 'work'} cannot be written" in result.err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "Missing option '--level'"),
        (["--level", "D1"], 2, "valid: A1, A2, B1, B2, C1"),
        (["--level", "A1", "--cluster", "moon"], 2, "cluster 'moon' is not known; valid: local"),
        (["--level", "A1", "--profile", "nope"], 2, "'nope' is not a profile"),
        (["--level", "A1", "--set", "training.epoch=2"], 2, "did you mean epochs?"),
        (["--level", "A1", "--set", "training.epochs=two"], 2, "must be a number"),
        (["--level", "A1", "--set", "backend=jax"], 2, "'unsloth', 'peft'"),
        (["--level", "A1", "--set", "model=/no/such/model"], 1, "/no/such/model"),
        (["--level", "A1", "--set", "data=/no/such/data.csv", "--set", "model=/no/such/model"], 1, "/no/such/data.csv"),
        (["--level", "A1", "--store", "ftp://host/x"], 2, "unknown kind 'ftp'"),
    ],
)
def test_a_submit_that_cannot_be_is_one_clear_message(
    arguments: list[str], code: int, message: str, cefr_batch: Run, store: LocalStore
) -> None:
    result = cefr_batch("submit", *arguments)
    assert (result.code, result.out) == (code, "")
    assert message in result.err
    assert "Traceback" not in result.err
    assert not store.root.exists()


def test_a_problem_that_all_levels_share_is_told_once(cefr_batch: Run) -> None:
    result = cefr_batch("submit", "--level", "all", "--set", "nope=1")
    assert result.code == 2
    assert result.err.count("nope") == 1


class FullLauncher(StandInLauncher):
    """Starts one job, then no more."""

    jobs: ClassVar[list[str]] = []

    def start(self, request: LocalRequest) -> str:
        if self.jobs:
            raise SchedulerError("the machine is full")
        self.jobs.append(super().start(request))
        return self.jobs[-1]


def test_a_launcher_that_fails_halfway_starts_nothing_and_leaves_no_phantom(
    cefr_batch: Run, tiny: tuple[str, ...], store: LocalStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SCHEDULERS, "local", f"{__name__}:FullLauncher")
    monkeypatch.setattr(FullLauncher, "jobs", [])
    result = cefr_batch("submit", "--level", "A1", "--level", "A2", "--level", "B1", *tiny)
    assert result.code == 1
    assert "nothing was started: the machine is full" in result.err
    assert store.folders("runs/") == []
    job = Job("tiny-a1-peft-v1", FullLauncher.jobs[0])
    until(lambda: FullLauncher().observe([job])[job].state.finished)


# A store that does not take the record of a submission until the test says so, and then refuses it.
SLOW_RECORDS = """
import os, sys, time
sys.path.insert(0, sys.argv.pop(1))
from pathlib import Path
from cefr_batch.cli.main import main
from cefr_batch.errors import Unavailable
from cefr_batch.schedulers import SCHEDULERS
from cefr_batch.store.local import LocalStore

SCHEDULERS["local"] = "support.stand_in:StandInLauncher"
orders, put = Path(os.environ["CEFR_BATCH_TEST_FOLDER"]), LocalStore.put

def slow(self, key, data, *, if_absent=False):
    if not key.endswith("submission.json"):
        return put(self, key, data, if_absent=if_absent)
    (orders / "recording").touch()
    while not (orders / "refuse").exists():
        time.sleep(0.02)
    raise Unavailable("the store is away")

LocalStore.put = slow
sys.exit(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_a_job_is_being_recorded_stops_the_job(
    number: signal.Signals, cefr_batch: Run, tiny: tuple[str, ...], store: LocalStore, folder: Path
) -> None:
    command = [sys.executable, "-c", SLOW_RECORDS, str(Path(__file__).parents[1]), "submit", "--level", "A1", *tiny]
    submit = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    run = "tiny-a1-peft-v1"
    until(lambda: (folder / "recording").exists() and started(folder) == [run], 60)
    submit.send_signal(number)
    until(lambda: "stopped on request in stage" in run_states(store, [run])[0].reason, 60)
    (folder / "refuse").touch()
    out, err = submit.communicate(timeout=30)
    assert (submit.returncode, out) == (130, "")
    assert "were told to stop, since they could not be recorded (interrupted)" in err
    assert f"`cefr-batch resume {run} --cluster local` starts the runs again" in err
    assert "Traceback" not in err
    assert "stopped on request in stage" in cefr_batch("status", run).out


class LostJobs(StandInLauncher):
    """A scheduler that no longer knows what it started."""

    def observe(self, jobs: Sequence[Job]) -> dict[Job, Observation]:
        return dict.fromkeys(jobs, Observation(State.UNKNOWN, "the scheduler has no record of it"))


def test_wait_ends_where_the_state_stays_unknown(
    cefr_batch: Run, tiny: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SCHEDULERS, "local", f"{__name__}:LostJobs")
    monkeypatch.setattr(LostJobs, "process", lambda self, spec: LocalScheduler.process(self, spec))
    monkeypatch.setattr(LostJobs, "start", lambda self, request: "local://elsewhere/1")
    monkeypatch.setattr(Session, "poll_seconds", 0.01)
    monkeypatch.setattr(Session, "unknown_seconds", 0.05)
    result = cefr_batch("submit", "--level", "A1", *tiny, "--wait")
    assert result.code == 1
    assert "error: stopped waiting: the state of 1 run(s) could not be learned" in result.err
    assert "tiny-a1-peft-v1: the scheduler has no record of it" in result.err


@pytest.mark.slow
def test_a_run_job_of_the_real_launcher_that_cannot_run_says_why_in_its_state_and_log(
    cefr_batch: Run, claimed: Callable[[str], str], store: LocalStore
) -> None:
    """The real command, in a real detached process: its dataset is not in the store."""
    run = claimed("A1")
    result = cefr_batch("resume", run, "--cluster", "local", "--wait")
    assert result.code == 1
    assert f"{run}: FAILED" in result.err
    assert "datasets/0000" in result.err
    assert "datasets/0000" in cefr_batch("logs", run).out
    assert cefr_batch("status", run, "--json").code == 0


def test_run_job_of_an_unknown_run(cefr_batch: Run) -> None:
    """With 2: its scheduler need not try that again."""
    result = cefr_batch("run-job", "no-such-run")
    assert result.code == 2
    assert "no run 'no-such-run'" in result.err


class WithCard(StandInLauncher):
    """A place whose GPU is known."""

    gpu = "l4"


class WithUnknownCard(StandInLauncher):
    gpu = "voodoo2"


def test_what_does_not_fit_on_the_clusters_gpu_is_refused_unless_forced(
    cefr_batch: Run, tiny: tuple[str, ...], store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SCHEDULERS, "local", f"{__name__}:WithCard")
    large = ("submit", "--level", "A1", *tiny, "--set", "training.batch_size=500000", "--dry-run")
    refused = cefr_batch(*large)
    assert refused.code == 1
    assert "level A1: training needs about " in refused.err
    assert "and the L4 has 23.6 GB; it fits with training.batch_size=" in refused.err
    assert "(--force submits it anyway)" in refused.err
    forced = cefr_batch(*large, "--force")
    assert forced.code == 0
    assert "warning: level A1: training needs about " in forced.err
    assert cefr_batch("submit", "--level", "A1", *tiny, "--dry-run").err == ""


def test_an_unknown_gpu_is_a_warning(cefr_batch: Run, tiny: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCHEDULERS, "local", f"{__name__}:WithUnknownCard")
    result = cefr_batch("submit", "--level", "A1", *tiny, "--dry-run")
    assert result.code == 0
    assert result.err.startswith("warning: cannot tell whether the runs fit: 'voodoo2' is not a known GPU")


def test_a_warm_up_of_all_steps_is_a_warning_of_submit_and_of_plan(cefr_batch: Run, tiny: tuple[str, ...]) -> None:
    one_step = ("--level", "A1", *tiny, "--set", "training.max_steps=1")
    submitted, planned = cefr_batch("submit", *one_step, "--dry-run"), cefr_batch("plan", *one_step)
    assert (submitted.code, planned.code) == (0, 0)
    assert submitted.err.startswith("warning: level A1, training.warmup_ratio: training has one step, and the warm-up ")
    assert planned.err.startswith("warning: level A1, training.warmup_ratio: training has one step, and the warm-up ")


def test_plan_takes_the_clusters_gpu_and_price(
    cefr_batch: Run, tiny: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SCHEDULERS, "local", f"{__name__}:WithCard")
    monkeypatch.setattr(WithCard, "price_per_hour", 0.7)
    result = cefr_batch("plan", "--level", "A1", *tiny)
    assert result.code == 0
    assert "L4, 23.6 GB" in result.out
    assert "Cost of training" in result.out
