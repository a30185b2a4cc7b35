"""Evaluations of a complete run on other sets: right, cheap, stored one by one, and resumed where they stopped."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from support.evaluated import complete_run, dataset_of, random_adapter
from support.prompts import alpaca

from cefr_batch.data import Example
from cefr_batch.data.examples import list_format
from cefr_batch.errors import EXIT_INTERRUPTED, DataError, Interrupted, JobFailed, Unavailable
from cefr_batch.job import evaluator, store_retry
from cefr_batch.job.context import StageContext
from cefr_batch.job.evaluations import run_evaluations
from cefr_batch.job.evaluator import Evaluator, evaluate_sets
from cefr_batch.job.stage_runner import StageRunner
from cefr_batch.job.supervisor import run_job
from cefr_batch.records import layout
from cefr_batch.records.document import read_file, write_file
from cefr_batch.records.evaluations import EvaluationRequest, SetEvaluation
from cefr_batch.records.layout import WorkDir, default_work_root
from cefr_batch.records.spec import SpecRecord
from cefr_batch.records.status import Status
from cefr_batch.records.submission import Submission
from cefr_batch.records.timestamps import now
from cefr_batch.runner.evaluate import EvaluationSet, request_evaluations
from cefr_batch.runner.evaluations import open_tasks, read_evaluations, stored_evaluations
from cefr_batch.runner.submission import read_spec
from cefr_batch.store.datasets import store_dataset
from cefr_batch.store.local import LocalStore


@pytest.fixture(scope="module")
def adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_adapter(tiny_model, tmp_path_factory.mktemp("adapter"))


@pytest.fixture
def run(store: LocalStore, tiny_model: Path, adapter: Path) -> str:
    return complete_run(store, tiny_model, "A2", adapter=adapter)


def ask(store: LocalStore, run: str, *sets: EvaluationSet, base: bool = False) -> None:
    """Put these sets and the request for them into the store."""
    spec = read_spec(store, run)
    for one in sets:
        store_dataset(store, one.dataset)
    models = ("tuned", "base") if base else ("tuned",)
    request_evaluations(store, run, [one.task(model, spec) for one in sets for model in models])  # type: ignore[arg-type]


def level_set(level: str, model: Path) -> EvaluationSet:
    return EvaluationSet(level, dataset_of(level, model), 4)


def plain_losses(model: Any, tokenizer: Any, examples: tuple[Example, ...]) -> list[float]:
    """Each example's summed loss over all tokens, computed as any user would."""
    import torch

    found, prompts = [], alpaca(tokenizer.eos_token)
    for example in examples:
        ids = torch.tensor([tokenizer(prompts.text(example)).input_ids])
        with torch.inference_mode():
            found.append(float(model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1))
    return found


def work_folder(store: LocalStore, run: str, root: Path) -> WorkDir:
    """A job's folder with everything that the computing process wants, for one call of it in this process."""
    from cefr_batch.runner.artifacts import select_artifacts
    from cefr_batch.store.datasets import fetch_dataset

    work = WorkDir(root / run)
    work.root.mkdir(parents=True)
    record = store.get_record(layout.run_key(run, layout.SPEC), SpecRecord)
    write_file(work.path(layout.SPEC), record)
    select_artifacts(store, run, [layout.ADAPTER]).fetch(work.root)
    fetch_dataset(store, record.dataset, work.dataset)
    tasks = open_tasks(store, run)
    for task in tasks:
        fetch_dataset(store, task.dataset, work.sets / task.dataset)
    write_file(work.path(layout.EVALUATION_REQUEST), EvaluationRequest(run=run, tasks=tasks))
    return work


def test_both_models_on_three_sets_load_the_base_model_once_and_are_right(
    store: LocalStore, run: str, adapter: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft import PeftModel

    from cefr_batch.models import loading

    sets = [level_set("A1", tiny_model), level_set("B1", tiny_model)]
    own = EvaluationSet("mine.json", type(sets[0].dataset)((), sets[0].dataset.eval[1:3]), None)
    ask(store, run, *sets, own, base=True)
    work = work_folder(store, run, tmp_path / "work")
    loaded: list[Path] = []
    load = loading.load_for_evaluation

    def counted(path: Path) -> Any:
        loaded.append(path)
        return load(path)

    monkeypatch.setattr(loading, "load_for_evaluation", counted)
    run_evaluations(StageContext(work))
    assert loaded == [tiny_model]

    files = sorted(work.path(layout.EVALUATIONS).glob("*.json"))
    found = {(one.task.model, one.task.label): one for one in (read_file(SetEvaluation, file) for file in files)}
    assert len(found) == 6
    tokenizer = loading.load_tokenizer(tiny_model)
    models = {"base": load(tiny_model), "tuned": PeftModel.from_pretrained(load(tiny_model), adapter).eval()}
    for (model, label), one in found.items():
        examples = next(s for s in (*sets, own) if s.label == label).examples()
        assert [score.nll.full for score in one.scores] == pytest.approx(
            plain_losses(models[model], tokenizer, examples), rel=2e-5
        )
        assert len(one.scores) == one.task.examples == len(examples)
        assert one.losses.full.loss == pytest.approx(
            sum(score.nll.full for score in one.scores) / sum(score.tokens.full for score in one.scores), abs=1e-9
        )
        assert [text.index for text in one.texts] == [0, 1]
        assert one.levels is not None
        assert one.levels.greedy.target == "A2"
    assert found["tuned", "A1"].losses.full.loss != found["base", "A1"].losses.full.loss
    of_file, of_level = (
        [(score.nll, score.tokens) for score in found["base", name].scores] for name in ("mine.json", "A1")
    )
    assert of_file == of_level[1:3]


@pytest.mark.slow
def test_a_job_stores_each_set_beside_the_manifest_and_what_is_stored_is_not_computed_again(
    store: LocalStore, run: str, tiny_model: Path
) -> None:
    manifest = store.get(layout.run_key(run, layout.MANIFEST))
    ask(store, run, level_set("A1", tiny_model))
    run_job(store, run, default_work_root())
    (first,) = stored_evaluations(store, run)
    assert first.startswith("tuned-on-a1-")
    before = next(o for o in store.objects(layout.run_key(run, layout.evaluation_name(first)))).modified
    tasks = [one.task for one in read_evaluations(store, run)]
    ask(store, run, level_set("A1", tiny_model), level_set("B1", tiny_model))
    run_job(store, run, default_work_root())
    assert {one.task.label for one in read_evaluations(store, run)} == {"A1", "B1"}
    assert tasks == [one.task for one in read_evaluations(store, run) if one.task.label == "A1"]
    after = next(o for o in store.objects(layout.run_key(run, layout.evaluation_name(first)))).modified
    assert after == before
    assert store.get(layout.run_key(run, layout.MANIFEST)) == manifest
    assert not WorkDir.of(default_work_root(), store.url, run).root.exists()
    log = store.get(layout.run_key(run, layout.log_name(2, layout.EVALUATION_LOGS))).decode()
    assert f"evaluations of {run}: tuned on B1\n" in log


@pytest.mark.slow
def test_a_job_killed_between_two_sets_loses_none_that_was_finished(
    store: LocalStore, run: str, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process is killed as soon as the first set's document is there; the next job computes the second alone."""
    ask(store, run, level_set("A1", tiny_model), level_set("B1", tiny_model))
    code = (
        "import os, signal, sys\n"
        "from cefr_batch.job import evaluations\n"
        "write = evaluations.write_file\n"
        "def write_and_die(path, record):\n"
        "    write(path, record)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "evaluations.write_file = write_and_die\n"
        "from cefr_batch.job.child import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )

    class Dying(StageRunner):
        def run(self, stages: Any) -> int:
            command = [sys.executable, "-c", code, str(self._work.root), str(os.getpid()), *stages]
            return subprocess.run(command, capture_output=True).returncode

    with monkeypatch.context() as patched:
        patched.setattr(evaluator, "StageRunner", Dying)
        with pytest.raises(JobFailed, match="was killed by the system"):
            evaluate_sets(store, run, default_work_root())
    assert len(stored_evaluations(store, run)) == 1
    status = store.get_record(layout.run_key(run, layout.EVALUATION_STATUS), Status)
    assert (status.state, status.stages_done) == ("FAILED", stored_evaluations(store, run))
    evaluate_sets(store, run, default_work_root())
    assert len(stored_evaluations(store, run)) == 2
    log = store.get(layout.run_key(run, layout.log_name(2, layout.EVALUATION_LOGS))).decode()
    assert f"evaluations of {run}: tuned on B1\n" in log


@pytest.fixture
def without_computing(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A stand-in for the computing process; gives what it was asked to run."""
    asked: list[list[str]] = []

    class Idle(StageRunner):
        def run(self, stages: Any) -> int:
            asked.append(list(stages))
            return EXIT_INTERRUPTED

    monkeypatch.setattr(evaluator, "StageRunner", Idle)
    return asked


def test_asked_to_stop_it_says_what_is_stored_and_how_to_go_on(
    store: LocalStore, run: str, tiny_model: Path, without_computing: list[list[str]]
) -> None:
    ask(store, run, level_set("A1", tiny_model))
    with pytest.raises(
        Interrupted, match=f"0 of 1 evaluations are stored; the same `cefr-batch evaluate {run} --on …`"
    ):
        evaluate_sets(store, run, default_work_root())
    status = store.get_record(layout.run_key(run, layout.EVALUATION_STATUS), Status)
    assert status.state == "PREEMPTED"
    assert without_computing == [["evaluations"]]


def test_of_two_jobs_that_compute_the_same_the_first_to_store_it_is_kept(
    store: LocalStore, run: str, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A report may have been made of it. A document's content does not matter here, nor who computes it."""
    ask(store, run, level_set("A1", tiny_model))
    (task,) = open_tasks(store, run)
    name = layout.evaluation_name(task.name)

    class Computing(StageRunner):
        def run(self, stages: Any) -> int:
            store.put(layout.run_key(run, name), b"the other job's")
            mine = WorkDir.of(default_work_root(), store.url, run).path(name)
            mine.parent.mkdir(parents=True, exist_ok=True)
            mine.write_bytes(b"this job's")
            return 0

    monkeypatch.setattr(evaluator, "StageRunner", Computing)
    evaluate_sets(store, run, default_work_root())
    assert store.get(layout.run_key(run, name)) == b"the other job's"


def test_a_cancelled_job_computes_nothing(
    store: LocalStore, run: str, tiny_model: Path, without_computing: list[list[str]]
) -> None:
    ask(store, run, level_set("A1", tiny_model))
    submission = Submission(
        run=run, cluster="local", handle="local://x/1", submitted_at=now(), submitted_by="me", cancelled_at=now()
    )
    store.put_record(layout.run_key(run, layout.EVALUATION_SUBMISSION), submission)
    with pytest.raises(Interrupted, match="were cancelled"):
        evaluate_sets(store, run, default_work_root())
    assert without_computing == []


@pytest.mark.parametrize("method", ["exists", "objects", "get", "put"])
def test_evaluations_wait_for_a_store_that_is_away_when_they_begin(
    method: str,
    store: LocalStore,
    run: str,
    tiny_model: Path,
    without_computing: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first request of a kind fails, and a later one, when it fetches what it needs."""
    ask(store, run, level_set("A1", tiny_model))
    request, requests = getattr(LocalStore, method), count()

    def away_twice(*arguments: Any, **options: Any) -> Any:
        if next(requests) in (0, 6):
            raise Unavailable("the store is away")
        return request(*arguments, **options)

    monkeypatch.setattr(store_retry, "_PAUSES", (0,))
    monkeypatch.setattr(LocalStore, method, away_twice)
    with pytest.raises(Interrupted):
        evaluate_sets(store, run, default_work_root())
    assert without_computing == [["evaluations"]]


def test_an_adapter_that_is_not_the_manifest_s_is_refused(
    store: LocalStore, run: str, tiny_model: Path, without_computing: list[list[str]]
) -> None:
    from cefr_batch.errors import Damaged

    ask(store, run, level_set("A1", tiny_model))
    key = layout.run_key(run, f"{layout.ADAPTER}/adapter_config.json")
    store.put(key, store.get(key).replace(b"4", b"5"))
    with pytest.raises(Damaged, match="adapter_config"):
        evaluate_sets(store, run, default_work_root())
    assert without_computing == []
    status = store.get_record(layout.run_key(run, layout.EVALUATION_STATUS), Status)
    assert "adapter_config" in status.message


def test_a_set_that_is_not_what_its_name_says_is_refused(
    store: LocalStore, run: str, tiny_model: Path, without_computing: list[list[str]]
) -> None:
    one = level_set("A1", tiny_model)
    ask(store, run, one)
    store.put(layout.dataset_key(one.dataset.sha256, layout.EVAL_FILE), list_format(one.dataset.eval[1:]))
    with pytest.raises(DataError, match="damaged"):
        evaluate_sets(store, run, default_work_root())


def test_a_base_model_alone_needs_no_adapter(
    store: LocalStore, tiny_model: Path, without_computing: list[list[str]]
) -> None:
    run = complete_run(store, tiny_model, "A2")
    one = level_set("A1", tiny_model)
    store_dataset(store, one.dataset)
    request_evaluations(store, run, [one.task("base", read_spec(store, run))])
    with pytest.raises(Interrupted):
        Evaluator(store, run, open_tasks(store, run), default_work_root(), 0).run()
    assert without_computing == [["evaluations"]]


def test_nothing_asked_is_nothing_done(store: LocalStore, run: str, without_computing: list[list[str]]) -> None:
    before = [stored.key for stored in store.objects("")]
    run_job(store, run, default_work_root())
    assert [stored.key for stored in store.objects("")] == before
    assert without_computing == []
