"""The job as a whole: what it leaves is complete and listed, and whatever happens to it, the store says so."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest
from huggingface_hub import ModelCard
from support.job_runs import claimed_run, start_job, stored
from support.released import released_store
from support.report_stores import A1, metrics
from support.stand_in import until

from cefr_batch.cli.main import main
from cefr_batch.config.load import load_spec
from cefr_batch.errors import (
    EXIT_INTERRUPTED,
    CredentialsError,
    Interrupted,
    JobFailed,
    LeaseLost,
    MachineError,
    StoreError,
    StoreFull,
    Unavailable,
)
from cefr_batch.files import write_json
from cefr_batch.job import stage_runner, store_retry, supervisor
from cefr_batch.job.log import Console, LogFile, logging_to
from cefr_batch.job.publish import RunResults
from cefr_batch.job.supervisor import Supervisor, run_job
from cefr_batch.job.sync import Mirror
from cefr_batch.records import layout
from cefr_batch.records.layout import WorkDir, default_work_root
from cefr_batch.records.manifest import Manifest
from cefr_batch.records.metrics import Metrics
from cefr_batch.runner import Session
from cefr_batch.runner.submission import claim
from cefr_batch.store.local import LocalStore
from cefr_batch.training import process


def results_without_stages(monkeypatch: pytest.MonkeyPatch, run: str) -> None:
    """What stages that compute nothing leave."""
    found = RunResults(Metrics.model_validate(metrics(run, "A2", A1)))
    monkeypatch.setattr(supervisor, "results", lambda *_: found)


def wait_for(job: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    while not condition():
        assert job.poll() is None, job.communicate()[0]
        time.sleep(0.02)


@pytest.mark.slow
def test_a_complete_run_is_listed_object_by_object(tiny_model: Path, tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    run = claimed_run(store, tiny_model)
    left = WorkDir.of(default_work_root(), store.url, run)  # by a run of this name that was deleted from the store
    write_json(left.path(layout.SPEC), {"run": run, "spec": "another"})
    write_json(left.path(layout.stage_name("train")), {"stage": "train", "seconds": 1, "result": {}})

    job = start_job(store, run)
    output, _ = job.communicate()
    assert job.returncode == 0, output
    folder = tmp_path / "store" / "runs" / run
    manifest = stored(store, run, layout.MANIFEST)
    listed = {item["key"]: item for item in manifest["objects"]}
    present = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    assert set(present) - set(listed) == {layout.MANIFEST, layout.STATUS}
    assert list(listed) == sorted(listed)
    for key, item in listed.items():
        data = present[key].read_bytes()
        assert (item["size"], item["sha256"]) == (len(data), hashlib.sha256(data).hexdigest()), key

    metrics = stored(store, run, layout.METRICS)
    assert [e["step"] for e in metrics["log"] if "loss" in e] == [3, 6, 8]
    evaluations = {e["step"]: e["eval_loss"] for e in metrics["log"] if "eval_loss" in e}
    assert list(evaluations) == [2, 4, 6, 8]
    assert metrics["best"]["eval_loss"] == min(evaluations.values())
    kept = {p.name for p in (folder / "checkpoints").iterdir()}
    assert kept == {"step-6", "step-8", f"step-{metrics['best']['step']}"}
    assert scalars(folder / "tensorboard")["train/loss"] == [3, 6, 8]
    assert abs(metrics["merge"]["adapter_loss"] - metrics["merge"]["merged_loss"]) < 0.02
    check_evaluation(metrics, stored(store, run, layout.EVALUATION)["examples"])
    check_generation(metrics, stored(store, run, layout.GENERATION)["examples"])
    documented = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    keys = keys_of({**metrics, "stage_seconds": None, "versions": None})  # less the names of stages and libraries
    assert {key for key in keys if f"`{key}`" not in documented} == set()
    assert len(keys) > 60
    for name in (layout.ADAPTER, layout.MERGED):
        card = ModelCard(present[f"{name}/README.md"].read_text(encoding="utf-8"))
        assert f"# {run}\n" in str(card)
        assert f"{metrics['tuned']['response']['loss']:.3f}" in str(card)
        assert str(tiny_model.parent) not in str(card), "a folder of this machine"
    assert not left.root.exists(), "a complete run needs no folder here"

    again = start_job(store, run)
    output, _ = again.communicate()
    assert (again.returncode, "complete already" in output) == (0, True)
    assert stored(store, run, layout.MANIFEST) == manifest


def keys_of(value: Any) -> set[str]:
    """Every key in a JSON value, at any depth."""
    if isinstance(value, list):
        return set().union(*map(keys_of, value))
    return set(value).union(*map(keys_of, value.values())) if isinstance(value, dict) else set()


def check_evaluation(metrics: Any, examples: list[Any]) -> None:
    """The losses are those of evaluation.json; none of the evaluation sentences was trained on."""
    assert [example["index"] for example in examples] == [0, 1, 2, 3]
    assert metrics["leakage"]["sentences_percent"] == 0
    for model in ("baseline", "tuned"):
        assert metrics[model]["seen"] is None
        for part in ("full", "response", "unseen"):
            tokens = sum(example["tokens"][part] for example in examples)
            nll = sum(example[model][part] for example in examples)
            assert metrics[model][part]["tokens"] == tokens > 0
            assert metrics[model][part]["loss"] == pytest.approx(nll / tokens)
    assert set(metrics["reduction"]) == {"full", "response", "unseen", "seed_protocol"}


def check_generation(metrics: Any, examples: list[Any]) -> None:
    assert [(example["index"], len(example["words"])) for example in examples] == [(0, 3), (1, 3)]
    for model in ("baseline", "tuned"):
        assert set(metrics["generation"][model]) == set(examples[0][model]) - {"cut"} == {"greedy", "sampled"}
        assert set(examples[0][model]["cut"]) <= {"greedy", "sampled"}
        for mode, figures in metrics["generation"][model].items():
            assert figures["answers"] == 2
            assert all(isinstance(example[model][mode], str) for example in examples)
    assert examples[0]["tuned"]["greedy"] != examples[0]["baseline"]["greedy"], "the adapter should make a difference"


def scalars(folder: Path) -> dict[str, list[int]]:
    """The steps of each TensorBoard scalar."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [e.step for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.mark.slow
def test_a_stage_that_the_system_kills_is_told_as_such(tiny_model: Path, tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    run = claimed_run(store, tiny_model, "training.max_steps=5000")
    job = start_job(store, run)
    wait_for(job, lambda: status(store, run).get("stage") == "train")
    (child,) = psutil.Process(job.pid).children()
    child.kill()
    output, _ = job.communicate()
    assert job.returncode == 1, output
    assert "Traceback" not in output
    last = status(store, run)
    assert last["state"] == "FAILED"
    assert "stage train was killed by the system, most likely because memory ran out" in last["message"]
    assert last["stages_done"] == ["data", "baseline"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2, signal.SIGINT])
def test_asked_to_stop_it_stores_a_checkpoint_and_says_how_to_go_on(
    tiny_model: Path, tmp_path: Path, number: signal.Signals
) -> None:
    store = LocalStore(tmp_path / "store")
    run = claimed_run(store, tiny_model, "training.max_steps=5000", "training.eval_steps=4000")
    job = start_job(store, run)
    wait_for(job, lambda: trained_step(store, run) >= 3)
    job.send_signal(number)
    output, _ = job.communicate()
    assert job.returncode == 75, output
    last = status(store, run)
    assert last["state"] == "PREEMPTED"
    (checkpoint,) = (tmp_path / "store" / "runs" / run / "checkpoints").iterdir()
    step = int(checkpoint.name.removeprefix("step-"))
    assert last["message"] == f"stopped on request in stage train; its last checkpoint is of step {step}"
    assert json.loads((checkpoint / layout.CHECKPOINT_MANIFEST).read_text())["step"] == step


@pytest.mark.slow
@pytest.mark.parametrize("heard_by_main", [True, False])
def test_a_stage_that_hangs_is_killed_and_its_checkpoint_counts(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heard_by_main: bool
) -> None:
    """A process that was stopped (SIGSTOP) stands in for one that waits for something that never comes. The kernel may give
    the signal to another thread, which does not wake the main one."""
    store = LocalStore(tmp_path / "store")
    run = claimed_run(store, tiny_model, "training.max_steps=5000", "training.eval_steps=2")
    monkeypatch.setattr(stage_runner, "STOP_SECONDS", 0.5)
    me, ended, left = psutil.Process(), threading.Event(), list[psutil.Process]()

    def hang_and_stop() -> None:
        while not stored_checkpoints(store, run):
            time.sleep(0.02)
        (child,) = (p for p in me.children() if "cefr_batch.job.child" in p.cmdline())
        child.suspend()
        me.terminate()
        if not ended.wait(60):
            left.append(child)
            child.kill()

    thread = threading.Thread(target=hang_and_stop)
    thread.start()
    blocked = set() if heard_by_main else {signal.SIGTERM}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        with pytest.raises(Interrupted, match="stopped on request in stage train; its last checkpoint is of step"):
            run_job(store, run, tmp_path / "work")
    finally:
        ended.set()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    thread.join()
    assert not left, "the job did not hear that it was asked to stop"
    assert status(store, run)["state"] == "PREEMPTED"
    assert stored_checkpoints(store, run)


def stored_checkpoints(store: LocalStore, run: str) -> list[str]:
    return [o.key for o in store.objects(f"runs/{run}/checkpoints/") if o.key.endswith(layout.CHECKPOINT_MANIFEST)]


@pytest.mark.slow
@pytest.mark.parametrize("same_machine", [True, False])
def test_of_two_jobs_of_a_run_the_older_stops_and_the_newer_completes_it(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same_machine: bool
) -> None:
    """As when a scheduler restarts a job on another node while the first one still lives."""
    store = LocalStore(tmp_path / "store")
    run = claimed_run(store, tiny_model, "training.max_steps=60", "training.eval_steps=20")
    older = start_job(store, run)
    wait_for(older, lambda: status(store, run).get("stage") == "train")
    if not same_machine:
        monkeypatch.setenv("CEFR_BATCH_WORK", str(tmp_path / "other-machine"))
    newer = start_job(store, run)
    told, _ = older.communicate()
    assert older.returncode == 1, told
    assert "attempt 2" in told
    output, _ = newer.communicate()
    assert newer.returncode == 0, output
    assert status(store, run)["attempt"] == 2
    folder = tmp_path / "store" / "runs" / run
    for item in stored(store, run, layout.MANIFEST)["objects"]:
        assert item["sha256"] == hashlib.sha256((folder / item["key"]).read_bytes()).hexdigest(), item["key"]


def test_data_that_would_be_cut_stops_the_job_before_any_model_is_loaded(tiny_model: Path, tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    run = claimed_run(store, tiny_model, "training.max_length=16")
    job = start_job(store, run)
    output, _ = job.communicate()
    assert job.returncode == 2, output
    assert "training.max_length" in status(store, run)["message"]
    assert status(store, run)["stages_done"] == []


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (["model.name=/no/such/model"], "/no/such/model is not a folder on this machine"),
        (["backend=unsloth"], "has no unsloth, which training with unsloth needs"),
    ],
)
@pytest.mark.slow
def test_a_job_that_would_fail_again_exits_with_2_so_that_nobody_starts_it_again(
    settings: list[str], reason: str, tiny_model: Path, tmp_path: Path
) -> None:
    if find_spec("unsloth") and "backend=unsloth" in settings:
        pytest.skip("Unsloth is installed here")
    store = LocalStore(tmp_path / "store")
    run = claimed_run(store, tiny_model, *settings)
    job = start_job(store, run)
    output, _ = job.communicate()
    assert job.returncode == 2, output
    assert "Traceback" not in output
    assert reason in status(store, run)["message"]


def test_a_job_whose_data_are_gone_exits_with_2(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    (run,) = claim(store, [(load_spec("A2", overrides=["backend=peft"]), "0" * 64)])
    job = start_job(store, run)
    output, _ = job.communicate()
    assert job.returncode == 2, output
    assert "does not exist" in status(store, run)["message"]


@pytest.mark.parametrize(
    "exc",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("SafetensorError: I/O error: No space left on device (os error 28)"),
    ],
)
@pytest.mark.parametrize("where", ["stage", "stage that cannot say so", "job"])
def test_a_disk_that_fills_up_in_mid_stage_is_told_as_such(
    exc: Exception, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stages are left out: what they raise, and where they can write it, stand in for a full disk."""
    store = LocalStore(tmp_path / "store")
    (run,) = claim(store, [(load_spec("A2", overrides=["backend=peft"]), "0" * 64)])

    def computes(job: Supervisor) -> None:
        if where == "job":
            raise exc
        with pytest.MonkeyPatch.context() as patch:
            if where == "stage that cannot say so":
                patch.setattr(process, "write_file", _raises(OSError(errno.ENOSPC, "No space left on device")))
            code = process.write_error(job._work, exc)
        raise job._failure(code)

    monkeypatch.setattr(Supervisor, "_compute", computes)
    with pytest.raises(JobFailed, match=f"work folder .*{run} is full, or over its quota; free some space, or name a"):
        run_job(store, run, tmp_path / "work")
    assert "CEFR_BATCH_WORK, then `cefr-batch resume" in status(store, run)["message"]


def _raises(error: Exception) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


@pytest.mark.slow
def test_what_others_left_in_a_run_of_0_1_0_does_not_keep_it_from_being_completed(tmp_path: Path) -> None:
    """A whole job, in a process of its own, that has only to store the results of stages that are finished."""
    store, run = released_store(tmp_path), "tiny-b1-peft-v1"
    store.delete(layout.run_key(run, layout.MANIFEST))
    foreign = (
        "attempts/.DS_Store",
        "stages/.nfs0001",
        "stages/._train.json",
        "checkpoints/step-10-good/checkpoint.json",
    )
    for name in foreign:
        store.put(layout.run_key(run, name), b"{}")
    job = start_job(store, run)
    output, _ = job.communicate()
    assert job.returncode == 0, output
    verified = Session(store).verify(run)
    assert (verified.problems, verified.objects > 30) == ({}, True)
    assert all(store.get(layout.run_key(run, name)) == b"{}" for name in foreign)


class ExpiringStore(LocalStore):
    """A folder that refuses the object of this name three times: then the credentials are new."""

    name, refusals = "", 3

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        if key.endswith(f"/{self.name}") and self.refusals:
            self.refusals -= 1
            raise CredentialsError("the credentials have expired")
        super().put(key, data, if_absent=if_absent)


@pytest.mark.parametrize("name", [layout.METRICS, layout.MANIFEST])
def test_credentials_that_expire_at_the_end_are_waited_for(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A whole job that has only to store the results of stages that are finished; somebody renews the credentials."""
    whole, run = released_store(tmp_path), "tiny-b1-peft-v1"
    whole.delete(layout.run_key(run, layout.MANIFEST))
    store = ExpiringStore(whole.root)
    store.name = name
    monkeypatch.setattr(store_retry, "_PAUSES", (0,))
    run_job(store, run, tmp_path / "work")
    said = [line for line in capsys.readouterr().out.splitlines() if "the job retries" in line]
    assert len(said) == 3
    for line in said:
        assert "the credentials have expired; the job retries for up to 30 min; until then, everything is in" in line
    verified = Session(whole).verify(run)
    assert (verified.problems, verified.objects > 30) == ({}, True)


class LostStore(LocalStore):
    """A folder that cannot be written any more once ``error`` is set."""

    error: StoreError | None = None

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        if self.error:
            raise self.error
        super().put(key, data, if_absent=if_absent)

    def put_file(self, key: str, path: Path) -> str:
        if self.error:
            raise self.error
        return super().put_file(key, path)


@pytest.mark.parametrize(
    "error",
    [CredentialsError("the credentials have expired"), StoreFull("no space is left"), Unavailable("the store is away")],
)
def test_a_job_that_begins_waits_for_the_store(
    error: StoreError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three times what it needs cannot be fetched; then it goes on to its first stage, which is left out."""
    store = LocalStore(tmp_path / "store")
    (run,) = claim(store, [(load_spec("A2", overrides=["backend=peft"]), "0" * 64)])
    failures = iter([error] * 3)

    def fetch(mirror: Mirror) -> None:
        for failure in failures:
            raise failure

    monkeypatch.setattr(store_retry, "_PAUSES", (0,))
    monkeypatch.setattr(Mirror, "pull_stages", fetch)
    monkeypatch.setattr(supervisor, "fetch_dataset", _raises(JobFailed("the first stage")))
    with pytest.raises(JobFailed, match="the first stage"):
        run_job(store, run, tmp_path / "work")
    said = [line for line in capsys.readouterr().out.splitlines() if "the job retries" in line]
    assert len(said) == 3
    for line in said:
        assert f"{error}; the job retries for up to 30 min" in line
        assert "everything is in" not in line, "nothing was computed yet"
        assert line.endswith("no action is needed yet") == (type(error) is Unavailable)


@pytest.mark.parametrize("method", ["exists", "folders", "objects", "get", "put"])
def test_a_job_that_starts_while_the_store_is_away_waits_for_it(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One request of each kind fails before the job has a work folder; what it does there is left out."""
    store = LocalStore(tmp_path / "store")
    (run,) = claim(store, [(load_spec("A2", overrides=["backend=peft"]), "0" * 64)])
    failures = iter([Unavailable("the store is away")])
    request = getattr(LocalStore, method)

    def once_away(*arguments: Any, **options: Any) -> Any:
        for failure in failures:
            raise failure
        return request(*arguments, **options)

    monkeypatch.setattr(store_retry, "_PAUSES", (0,))
    monkeypatch.setattr(LocalStore, method, once_away)
    monkeypatch.setattr(Supervisor, "run", _raises(JobFailed("the work begins")))
    assert main(["run-job", run, "--store", store.url]) == 1
    printed = "".join(capsys.readouterr())
    assert "the store is away; the job retries for up to 30 min; no action is needed yet\n" in printed
    assert "the work begins" in printed


def test_a_work_folder_that_cannot_be_written_is_told_to_the_store(tmp_path: Path) -> None:
    store, work = LocalStore(tmp_path / "store"), tmp_path / "work"
    work.write_text("a file where the folder should be")
    (run,) = claim(store, [(load_spec("A2", overrides=["backend=peft"]), "0" * 64)])
    with pytest.raises(MachineError, match=r"work folder .* cannot be written .*name another with --work"):
        run_job(store, run, work)
    assert status(store, run)["state"] == "FAILED"
    assert "cannot be written" in status(store, run)["message"]


def test_a_full_disk_does_not_keep_the_job_from_saying_how_it_ends(capsys: pytest.CaptureFixture[str]) -> None:
    full = Path("/dev/full")  # every write to it fails with ENOSPC
    if not full.exists():
        pytest.skip("needs /dev/full")
    with logging_to(Console()), logging_to(LogFile(full)):
        logging.getLogger("cefr_batch.job").error("FAILED")
    assert capsys.readouterr() == ("FAILED\n", "")


@pytest.mark.parametrize("error", [Unavailable("the store is away"), StoreError("the credentials have expired")])
def test_what_cannot_be_stored_stays_and_the_job_says_where(
    error: StoreError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At its deadline, or at once where waiting does not help. The stages are left out: only their end matters here."""
    store, work = LostStore(tmp_path / "store"), tmp_path / "work"
    (run,) = claim(store, [(load_spec("A2", overrides=["backend=peft"]), "0" * 64)])
    monkeypatch.setattr(store_retry, "DEADLINE_SECONDS", 0)
    monkeypatch.setattr(Supervisor, "_compute", lambda self: setattr(store, "error", error))
    with pytest.raises(
        StoreError, match=f"{error}; what this job computed is in (.*); `cefr-batch resume {run}` stores it"
    ) as caught:
        run_job(store, run, work)
    folder = WorkDir.of(work, store.url, run).root
    assert str(folder) in str(caught.value)
    assert f"not everything could be stored: {error}; what this job computed is in {folder}" in capsys.readouterr().out
    assert (folder / "logs" / "attempt-1.log").is_file()


@pytest.mark.parametrize(
    "end",
    [f"sys.exit({EXIT_INTERRUPTED})", *(f"os.kill(os.getpid(), signal.{name})" for name in ("SIGTERM", "SIGUSR2"))],
)
def test_a_stage_that_alone_was_asked_to_stop_is_an_interruption(
    end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scheduler may signal the children before the job, or them alone. A process that ends so stands in for a stage."""
    store = LocalStore(tmp_path / "store")
    (run,) = claim(store, [(load_spec("A2", overrides=["backend=peft"]), "0" * 64)])

    def stage(job: Supervisor) -> None:
        raise job._failure(subprocess.call([sys.executable, "-c", f"import os, signal, sys; {end}"]))

    monkeypatch.setattr(Supervisor, "_compute", stage)
    with pytest.raises(Interrupted, match=r"it had no checkpoint yet$"):
        run_job(store, run, tmp_path / "work")
    assert status(store, run)["state"] == "PREEMPTED"


@pytest.mark.parametrize("then", ["started", "completed"])
def test_superseded_while_it_hashes_what_is_stored_it_completes_nothing(
    then: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stages are left out, and another attempt's doings stand in for the hashing: only the end matters here."""
    store = LocalStore(tmp_path / "store")
    (run,) = claim(store, [(load_spec("A2", overrides=["backend=peft"]), "0" * 64)])
    name = layout.attempt_name(2) if then == "started" else layout.MANIFEST

    def hashing(_: Mirror) -> Manifest:
        store.put_json(layout.run_key(run, name), {"by": "the successor"})
        return Manifest(run=run, complete_at="2026-01-01", objects=[])

    monkeypatch.setattr(Supervisor, "_compute", lambda _: None)
    results_without_stages(monkeypatch, run)
    monkeypatch.setattr(supervisor, "manifest", hashing)
    with pytest.raises(LeaseLost, match=f"attempt 2 of {run} has started|another attempt of {run} completed it"):
        run_job(store, run, tmp_path / "work")
    assert stored(store, run, name) == {"by": "the successor"}
    assert store.exists(layout.run_key(run, layout.MANIFEST)) == (then == "completed")
    assert status(store, run)["state"] == "RUNNING", "how it ends is its successor's to say"


class StalledStore(LocalStore):
    """A folder that keeps every file waiting until ``go`` is set."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.waiting, self.go = threading.Event(), threading.Event()
        self.statuses = 0

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        super().put(key, data, if_absent=if_absent)
        self.statuses += key.endswith(layout.STATUS)

    def put_file(self, key: str, path: Path) -> str:
        self.waiting.set()
        assert self.go.wait(60)
        return super().put_file(key, path)


def test_the_status_goes_on_while_an_upload_takes_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = StalledStore(tmp_path / "store")
    (run,) = claim(store, [(load_spec("A2", overrides=["backend=peft"]), "0" * 64)])

    def computes(_: Supervisor) -> None:
        assert store.waiting.wait(60), "the log is being sent"
        before = store.statuses
        until(lambda: store.statuses >= before + 3)
        assert not store.go.is_set()
        store.go.set()

    monkeypatch.setattr(supervisor, "HEARTBEAT_SECONDS", 0.02)
    monkeypatch.setattr(Supervisor, "_compute", computes)
    results_without_stages(monkeypatch, run)
    run_job(store, run, tmp_path / "work")
    assert store.exists(layout.run_key(run, layout.MANIFEST))


def test_a_complete_run_leaves_nothing_unfinished_in_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of attempts that were superseded while they sent something, or of transfers that failed."""
    store = LocalStore(tmp_path / "store")
    (run,) = claim(store, [(load_spec("A2", overrides=["backend=peft"]), "0" * 64)])
    left = store.root / "runs" / run / "logs" / ".aside-of-another-attempt"

    def computes(_: Supervisor) -> None:
        left.parent.mkdir(exist_ok=True)
        left.touch()

    monkeypatch.setattr(Supervisor, "_compute", computes)
    results_without_stages(monkeypatch, run)
    run_job(store, run, tmp_path / "work")
    assert not left.exists()


class LostAnswerStore(LocalStore):
    """A folder that writes the manifest, and whose answer to that is lost once."""

    lost = False

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        super().put(key, data, if_absent=if_absent)
        if key.endswith(layout.MANIFEST) and not self.lost:
            self.lost = True
            raise Unavailable("the connection was lost")


@pytest.mark.slow
def test_a_manifest_whose_answer_was_lost_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LostAnswerStore(tmp_path / "store")
    (run,) = claim(store, [(load_spec("A2", overrides=["backend=peft"]), "0" * 64)])
    monkeypatch.setattr(Supervisor, "_compute", lambda _: None)
    results_without_stages(monkeypatch, run)
    run_job(store, run, tmp_path / "work")
    assert store.lost
    assert stored(store, run, layout.MANIFEST)["run"] == run


def trained_step(store: LocalStore, run: str) -> int:
    """The step of training in the run's status; 0 in another stage."""
    found = status(store, run)
    return found["step"] or 0 if found.get("stage") == "train" else 0


def status(store: LocalStore, run: str) -> dict[str, Any]:
    key = layout.run_key(run, layout.STATUS)
    found: dict[str, Any] = store.get_json(key) if store.exists(key) else {}
    return found
