"""The job as a whole: what it leaves is complete and listed, and whatever happens to it, the store says so."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from cefr_batch import layout
from cefr_batch.data import load_dataset, store_dataset
from cefr_batch.errors import EXIT_INTERRUPTED, Interrupted, LeaseLost, MachineError, StoreError, Unavailable
from cefr_batch.files import write_json
from cefr_batch.launch.submission import claim
from cefr_batch.layout import WorkDir, default_work_root
from cefr_batch.run import entry
from cefr_batch.run.entry import run_job as run_job_here
from cefr_batch.run.sync import Mirror
from cefr_batch.spec import load_spec
from cefr_batch.store.local import LocalStore

SETTINGS = ["backend=peft", "data.examples=40", "data.words_per_example=3", "lora.rank=4", "evaluation.max_examples=4"]
SETTINGS += ["training.batch_size=2", "training.gradient_accumulation_steps=1", "training.max_steps=8"]
SETTINGS += [
    "training.eval_steps=2",
    "training.logging_steps=3",
    "generation.examples=2",
    "generation.max_new_tokens=8",
]


def claimed_run(store: LocalStore, model: Path, *extra: str) -> str:
    spec = load_spec("A2", overrides=[f"model.name={model}", *SETTINGS, *extra])
    dataset = load_dataset(spec.data, spec.level)
    store_dataset(store, dataset)
    (run,) = claim(store, [(spec, dataset.sha256)])
    return run


def run_job(store: LocalStore, run: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cefr_batch", "run-job", run, "--store", store.url]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def stored(store: LocalStore, run: str, name: str) -> Any:
    return store.get_json(layout.run_key(run, name))


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

    job = run_job(store, run)
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
    assert not left.root.exists(), "a complete run needs no folder here"

    again = run_job(store, run)
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
        assert set(metrics["generation"][model]) == set(examples[0][model]) == {"greedy", "sampled"}
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
    job = run_job(store, run)
    wait_for(job, lambda: status(store, run).get("stage") == "train")
    (child,) = psutil.Process(job.pid).children()
    child.kill()
    output, _ = job.communicate()
    assert job.returncode == 1, output
    assert "Traceback" not in output
    last = status(store, run)
    assert last["state"] == "FAILED"
    assert "stage train was killed by the system, most likely for want of memory" in last["message"]
    assert last["stages_done"] == ["data", "baseline"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2, signal.SIGINT])
def test_asked_to_stop_it_stores_a_checkpoint_and_says_how_to_go_on(
    tiny_model: Path, tmp_path: Path, number: signal.Signals
) -> None:
    store = LocalStore(tmp_path / "store")
    run = claimed_run(store, tiny_model, "training.max_steps=5000", "training.eval_steps=4000")
    job = run_job(store, run)
    wait_for(job, lambda: (status(store, run).get("step") or 0) >= 3 and status(store, run)["stage"] == "train")
    job.send_signal(number)
    output, _ = job.communicate()
    assert job.returncode == 75, output
    last = status(store, run)
    assert last["state"] == "PREEMPTED"
    (checkpoint,) = (tmp_path / "store" / "runs" / run / "checkpoints").iterdir()
    step = int(checkpoint.name.removeprefix("step-"))
    assert f"its last checkpoint is of step {step}; `cefr-batch resume {run}` goes on" in last["message"]
    assert json.loads((checkpoint / layout.CHECKPOINT_MANIFEST).read_text())["step"] == step


@pytest.mark.slow
@pytest.mark.parametrize("same_machine", [True, False])
def test_of_two_jobs_of_a_run_the_older_stops_and_the_newer_completes_it(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same_machine: bool
) -> None:
    """As when a scheduler restarts a job on another node while the first one still lives."""
    store = LocalStore(tmp_path / "store")
    run = claimed_run(store, tiny_model, "training.max_steps=60", "training.eval_steps=20")
    older = run_job(store, run)
    wait_for(older, lambda: status(store, run).get("stage") == "train")
    if not same_machine:
        monkeypatch.setenv("CEFR_BATCH_WORK", str(tmp_path / "other-machine"))
    newer = run_job(store, run)
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
    job = run_job(store, run)
    output, _ = job.communicate()
    assert job.returncode == 1, output
    assert "training.max_length" in status(store, run)["message"]
    assert status(store, run)["stages_done"] == []


class LostStore(LocalStore):
    """A folder that cannot be written any more once ``error`` is set."""

    error: StoreError | None = None

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        if self.error:
            raise self.error
        super().put(key, data, if_absent=if_absent)


def test_a_work_folder_that_cannot_be_written_is_told_to_the_store(tmp_path: Path) -> None:
    store, work = LocalStore(tmp_path / "store"), tmp_path / "work"
    work.write_text("a file where the folder should be")
    (run,) = claim(store, [(load_spec("A2", overrides=["backend=peft"]), "0" * 64)])
    with pytest.raises(MachineError, match=r"work folder .* cannot be written .*name another with --work"):
        run_job_here(store, run, work)
    assert status(store, run)["state"] == "FAILED"
    assert "cannot be written" in status(store, run)["message"]


class FullDisk(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_does_not_keep_the_job_from_saying_how_it_ends() -> None:
    terminal = io.StringIO()
    entry._Tee(terminal, FullDisk()).write("FAILED")
    assert terminal.getvalue() == "FAILED"


@pytest.mark.parametrize("error", [Unavailable("the store is away"), StoreError("the credentials have expired")])
def test_what_cannot_be_stored_stays_and_the_job_says_where(
    error: StoreError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At its deadline, or at once where waiting does not help. The stages are left out: only their end matters here."""
    store, work = LostStore(tmp_path / "store"), tmp_path / "work"
    (run,) = claim(store, [(load_spec("A2", overrides=["backend=peft"]), "0" * 64)])
    monkeypatch.setattr(entry, "STORE_DEADLINE_SECONDS", 0)
    monkeypatch.setattr(entry._Job, "_stages", lambda self: setattr(store, "error", error))
    with pytest.raises(StoreError, match=f"{error}; what this job computed is in (.*), resume stores it") as caught:
        run_job_here(store, run, work)
    folder = WorkDir.of(work, store.url, run).root
    assert str(folder) in str(caught.value)
    assert (
        f"and not everything could be stored: {error}; what this job computed is in {folder}" in capsys.readouterr().out
    )
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

    def stage(job: entry._Job) -> None:
        raise job._failure(subprocess.call([sys.executable, "-c", f"import os, signal, sys; {end}"]))

    monkeypatch.setattr(entry._Job, "_stages", stage)
    with pytest.raises(Interrupted, match=f"it had no checkpoint yet; `cefr-batch resume {run}` goes on"):
        run_job_here(store, run, tmp_path / "work")
    assert status(store, run)["state"] == "PREEMPTED"


@pytest.mark.parametrize("then", ["started", "completed"])
def test_superseded_while_it_hashes_what_is_stored_it_completes_nothing(
    then: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stages are left out, and another attempt's doings stand in for the hashing: only the end matters here."""
    store = LocalStore(tmp_path / "store")
    (run,) = claim(store, [(load_spec("A2", overrides=["backend=peft"]), "0" * 64)])
    name = layout.attempt_name(2) if then == "started" else layout.MANIFEST

    def hashing(_: Mirror) -> dict[str, Any]:
        store.put_json(layout.run_key(run, name), {"by": "the successor"})
        return {"by": "the older one"}

    monkeypatch.setattr(entry._Job, "_stages", lambda _: None)
    monkeypatch.setattr(entry, "results", lambda *_: {})
    monkeypatch.setattr(entry, "manifest", hashing)
    with pytest.raises(LeaseLost, match=f"attempt 2 of {run} has started|another attempt of {run} completed it"):
        run_job_here(store, run, tmp_path / "work")
    assert stored(store, run, name) == {"by": "the successor"}
    assert store.exists(layout.run_key(run, layout.MANIFEST)) == (then == "completed")
    assert status(store, run)["state"] == "RUNNING", "how it ends is its successor's to say"


class LostAnswerStore(LocalStore):
    """A folder that writes the manifest, and whose answer to that is lost once."""

    lost = False

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        super().put(key, data, if_absent=if_absent)
        if key.endswith(layout.MANIFEST) and not self.lost:
            self.lost = True
            raise Unavailable("the connection was lost")


def test_a_manifest_whose_answer_was_lost_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LostAnswerStore(tmp_path / "store")
    (run,) = claim(store, [(load_spec("A2", overrides=["backend=peft"]), "0" * 64)])
    monkeypatch.setattr(entry._Job, "_stages", lambda _: None)
    monkeypatch.setattr(entry, "results", lambda *_: {})
    run_job_here(store, run, tmp_path / "work")
    assert store.lost
    assert stored(store, run, layout.MANIFEST)["run"] == run


def status(store: LocalStore, run: str) -> dict[str, Any]:
    key = layout.run_key(run, layout.STATUS)
    found: dict[str, Any] = store.get_json(key) if store.exists(key) else {}
    return found
