"""The report as a whole: golden files, which run counts for a level, what is damaged, what is loaded."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from support.goldens import same_as_golden
from support.report_stores import A1, B1, add_complete, add_spec, add_unfinished, metrics, report_markdown, three_levels

from cefr_batch import __version__
from cefr_batch.records import layout
from cefr_batch.report.as_json import report_json
from cefr_batch.report.collect import MISSING, Entry, Report, collect
from cefr_batch.runner.status import RunState
from cefr_batch.schedulers.base import State
from cefr_batch.store import to_json
from cefr_batch.store.local import LocalStore

LATER = "2025-10-27T08:00:00+00:00"


def all_states(folder: Path) -> LocalStore:
    """Three complete levels, of which A2's newest run failed, one running, and (asked for) one missing."""
    store = three_levels(folder)
    reason = "stage train was killed by the system, most likely because memory ran out"
    add_unfinished(store, "llama1b-a2-unsloth-v2", "A2", "FAILED", reason, at=LATER)
    add_unfinished(store, "llama1b-b2-unsloth-v1", "B2", "RUNNING")
    return store


def test_the_whole_report_as_markdown(tmp_path: Path) -> None:
    store = all_states(tmp_path)
    text = report_markdown(collect(store, levels=["A1", "A2", "B1", "B2", "C1"]))
    same_as_golden("report.md", text.replace(store.url, "file:///store"))


def test_the_whole_report_as_json(tmp_path: Path) -> None:
    store = all_states(tmp_path)
    text = to_json(report_json(collect(store, levels=["A1", "A2", "B1", "B2", "C1"]))).decode()
    same_as_golden("report.json", text.replace(store.url, "file:///store").replace(f'"{__version__}"', '"VERSION"', 1))


def test_the_same_store_gives_the_same_bytes(tmp_path: Path) -> None:
    store = three_levels(tmp_path)
    first, second = (collect(store) for _ in range(2))
    assert report_markdown(first) == report_markdown(second)
    assert to_json(report_json(first)) == to_json(report_json(second))


def test_without_a_choice_every_level_that_has_a_run_in_the_levels_order(tmp_path: Path) -> None:
    store = three_levels(tmp_path)
    add_unfinished(store, "llama1b-c1-unsloth-v1", "C1", "FAILED", "no space left")
    assert [e.level for e in collect(store).entries] == ["A1", "A2", "B1", "C1"]
    assert [e.level for e in collect(store, levels=["B1", "A1"]).entries] == ["A1", "B1"]


def test_the_newest_run_is_the_last_submitted_not_the_highest_version(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    add_complete(store, "llama1b-b1-unsloth-v9", "B1", A1)
    add_complete(store, "smollm2-b1-peft-v1", "B1", B1, at=LATER)
    (entry,) = collect(store).entries
    assert entry.result is not None
    assert entry.result.run == "smollm2-b1-peft-v1"


def test_of_runs_submitted_in_one_second_the_higher_version_is_newer(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    for version in (2, 10, 9):
        add_complete(store, f"llama1b-b1-unsloth-v{version}", "B1", B1)
    (entry,) = collect(store).entries
    assert entry.newest == "llama1b-b1-unsloth-v10"


def test_a_level_whose_newest_run_failed_is_shown_by_the_older_one_and_says_so(tmp_path: Path) -> None:
    report = collect(all_states(tmp_path), levels=["A2"])
    (entry,) = report.entries
    assert entry.result is not None
    assert (entry.newest, entry.state, entry.result.run) == ("llama1b-a2-unsloth-v2", "FAILED", "llama1b-a2-unsloth-v1")
    text = report_markdown(report)
    assert "`llama1b-a2-unsloth-v2`: **failed**: stage train was killed by the system" in text
    assert "The figures below are those of the older run `llama1b-a2-unsloth-v1`." in text
    assert "A2 is shown with the figures of an older run; the newest run: failed." in text


def test_a_run_that_failed_before_a_newer_complete_one_is_not_mentioned(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    add_unfinished(store, "llama1b-b1-unsloth-v1", "B1", "FAILED", "old trouble")
    add_complete(store, "llama1b-b1-unsloth-v2", "B1", B1, at=LATER)
    assert "old trouble" not in report_markdown(collect(store))


def test_a_level_asked_for_that_has_no_run_is_missing(tmp_path: Path) -> None:
    report = collect(three_levels(tmp_path), levels=["B1", "C1"])
    assert [(e.level, e.state) for e in report.entries] == [("B1", "SUCCEEDED"), ("C1", MISSING)]
    assert "Without figures: C1 (missing)." in report_markdown(report)


def test_a_run_that_was_claimed_but_never_started_is_visible(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    add_spec(store, "llama1b-b1-unsloth-v1", "B1")
    (entry,) = collect(store).entries
    assert entry.state == "UNKNOWN"
    assert "never started" in entry.reason


def test_runs_named_are_compared_under_their_names_where_they_share_a_level(tmp_path: Path) -> None:
    store = three_levels(tmp_path)
    add_complete(store, "llama1b-b1-unsloth-v2", "B1", B1, at=LATER, training__epochs=3)
    names = ["llama1b-b1-unsloth-v2", "llama1b-b1-unsloth-v1"]
    text = report_markdown(collect(store, runs=names))
    assert re.search(r"^\| Metric +\| llama1b-b1-unsloth-v1 \| llama1b-b1-unsloth-v2 \|$", text, re.MULTILINE)
    assert "| `training.epochs` | `10`                  | `3`                   |" in text
    both = collect(store, runs=["llama1b-b1-unsloth-v2"], levels=["B1", "A1"])
    assert [e.newest for e in both.entries] == ["llama1b-a1-unsloth-v1", "llama1b-b1-unsloth-v2"]


def test_a_run_whose_name_has_no_level_is_found_by_its_spec(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    add_complete(store, "my-own-name", "B1", B1)
    assert [e.newest for e in collect(store, levels=["B1"]).entries] == ["my-own-name"]


def spoiled(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """B1's metrics with one key replaced, or removed (value ``...``)."""
    made = copy.deepcopy(metrics("llama1b-b1-unsloth-v2", "B1", B1))
    node = made
    for part in path[:-1]:
        node = node[part]
    if value is ...:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return made


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("train", "steps"), ..., "train.steps: missing"),
        (("tuned",), ..., "tuned: missing"),
        (("tuned", "full", "loss"), "0.4", "tuned.full.loss: must be a valid number"),
        (("tuned", "full", "loss"), None, "tuned.full.loss: must be a valid number"),
        (("data", "train_examples"), -1, "data.train_examples: must be greater than or equal to 0"),
        (("log",), {}, "log: must be a valid array"),
        (("log",), [{"epoch": 1.0}], "log.0.step: missing"),
        (("best",), [], "best: must be"),
        (("reduction", "full"), 0.5, "reduction.full: must be"),
        (("machine",), {"cpu": 3}, "machine.cpu: must be a valid string"),
    ],
)
def test_metrics_that_are_not_as_expected_are_named_and_the_older_run_is_used(
    tmp_path: Path, path: tuple[str, ...], value: Any, said: str
) -> None:
    store = three_levels(tmp_path)
    add_complete(store, "llama1b-b1-unsloth-v2", "B1", B1, at=LATER)
    store.put_json("runs/llama1b-b1-unsloth-v2/metrics.json", spoiled(path, value))
    report = collect(store, levels=["B1"])
    (entry,) = report.entries
    assert entry.state == "SUCCEEDED"
    problem = "metrics.json of llama1b-b1-unsloth-v2 cannot be read, so the run is left out of the report: "
    assert entry.reason.startswith(problem)
    assert said in entry.reason
    assert entry.result is not None
    assert entry.result.run == "llama1b-b1-unsloth-v1"
    assert problem in report_markdown(report)


@pytest.mark.parametrize("name", [layout.METRICS, layout.SPEC, layout.MANIFEST])
@pytest.mark.parametrize("data", [b"{", b"[]", b"\xff", b"null", b'{"x": NaN}', b'"\\ud800"'])
def test_an_object_that_is_damaged_leaves_the_other_levels_alone(tmp_path: Path, name: str, data: bytes) -> None:
    store = three_levels(tmp_path)
    store.put(layout.run_key("llama1b-b1-unsloth-v1", name), data)
    report = collect(store)
    assert [bool(e.result) for e in report.entries] == [True, True, False]
    assert report.entries[2].reason.startswith(
        f"{name} of llama1b-b1-unsloth-v1 cannot be read, so the run is left out"
    )
    assert re.search(r"^\| Metric +\| +A1 \| +A2 \|$", report_markdown(report), re.MULTILINE)
    to_json(report_json(report))


def test_nan_anywhere_in_the_metrics_is_unreadable_not_a_crash(tmp_path: Path) -> None:
    store = three_levels(tmp_path)
    made = json.dumps(spoiled(("log",), [{"step": 1, "epoch": 0.1, "gradient_norm": float("nan")}]))
    store.put("runs/llama1b-b1-unsloth-v1/metrics.json", made.encode())
    (entry,) = collect(store, levels=["B1"]).entries
    assert entry.reason.startswith("metrics.json of llama1b-b1-unsloth-v1 cannot be read, so the run is left out")


def test_metrics_without_the_later_keys_and_with_unknown_ones_are_read(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    made = add_complete(store, "llama1b-a1-unsloth-v1", "A1", A1)
    del made["attempts"]
    made["new_in_a_later_version"] = {"anything": [1]}
    store.put_json("runs/llama1b-a1-unsloth-v1/metrics.json", made)
    assert collect(store).entries[0].result is not None


def test_a_run_without_evaluations_has_no_best_checkpoint(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    made = add_complete(store, "llama1b-a1-unsloth-v1", "A1", A1)
    made["best"], made["log"] = None, [e for e in made["log"] if "eval_loss" not in e]
    store.put_json("runs/llama1b-a1-unsloth-v1/metrics.json", made)
    text = report_markdown(collect(store))
    assert "There was no evaluation during training" in text
    assert "| Best eval loss                                |     – |" in text


def test_an_empty_log_is_no_crash(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    made = add_complete(store, "llama1b-a1-unsloth-v1", "A1", A1)
    store.put_json("runs/llama1b-a1-unsloth-v1/metrics.json", {**made, "log": [], "best": None})
    assert "#### Loss progression" in report_markdown(collect(store))


def test_a_long_progression_keeps_the_first_the_best_and_the_last_evaluation(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    made = add_complete(store, "llama1b-a1-unsloth-v1", "A1", A1)
    log = [{"step": s, "epoch": s / 10, "eval_loss": 1.0 if s == 333 else 2.0} for s in range(1, 1001)]
    store.put_json("runs/llama1b-a1-unsloth-v1/metrics.json", {**made, "log": log, "best": log[332]})
    text = report_markdown(collect(store))
    assert "16 of 1,000 evaluations are shown" in text
    assert "first evaluation" in text
    assert "|  33.30 |   333 |          – |  **1.00** | best" in text
    assert "last evaluation" in text


def test_fine_tuning_that_made_it_worse_is_said(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    add_complete(store, "llama1b-a1-unsloth-v1", "A1", replace(A1, response=(0.5, 0.6)))
    text = report_markdown(collect(store))
    assert "**Fine-tuning did not lower the loss** over: Response only." in text
    assert "**−20.0%**" in text


def test_a_part_of_the_evaluation_set_is_said(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    made = add_complete(store, "llama1b-a1-unsloth-v1", "A1", A1)
    store.put_json("runs/llama1b-a1-unsloth-v1/metrics.json", {**made, "evaluation": {"examples": 8, "batch_size": 8}})
    text = report_markdown(collect(store))
    assert "on 8 of the 20 evaluation examples" in text
    assert (
        "on only some of the evaluation examples: A1: 8 of 20 (limited by the setting `evaluation.max_examples`)."
        in text
    )


def test_batches_that_did_not_fit_and_several_gpus_are_said(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    made = add_complete(store, "llama1b-b1-unsloth-v1", "B1", B1)
    failed = [{"step": 1, "batch_size": 8}, {"step": 7, "batch_size": 4}]
    train = {"batch_size": 2, "gradient_accumulation_steps": 16, "gpus": 2, "out_of_memory": failed}
    store.put_json("runs/llama1b-b1-unsloth-v1/metrics.json", {**made, "train": {**made["train"], **train}})
    text = report_markdown(collect(store))
    assert (
        "- **Out of memory:** at step 1 with a batch of 8 examples, at step 7 with a batch of 4 examples; "
        "training continued with 2 x 16, the same effective batch size\n" in text
    )
    assert "- **Hardware:** 2 x NVIDIA RTX 4090" in text


def test_settings_that_need_a_gpu_are_not_claimed_where_there_was_none(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    for level, gpu in (("A1", None), ("B1", "NVIDIA RTX 4090")):
        run = f"llama1b-{level.lower()}-unsloth-v1"
        made = add_complete(store, run, level, A1, training__optimizer="adamw_8bit")
        machine = {"cpu": "AMD EPYC", "threads": 2, "gpu": gpu}
        store.put_json(f"runs/{run}/metrics.json", {**made, "machine": machine})
    without, with_gpu = (report_markdown(collect(store, levels=[level])) for level in ("A1", "B1"))
    assert "model.load_in_4bit = true # without a GPU: not quantized\n" in without
    assert 'training.optimizer = "adamw_8bit" # without a GPU: adamw\n' in without
    assert "AMD EPYC, 2 threads, no GPU" in without
    assert "without a GPU" not in with_gpu


def test_leakage_is_a_warning_only_where_there_is_some(tmp_path: Path) -> None:
    store = three_levels(tmp_path)
    clean, leaky = (report_markdown(collect(store, levels=[level])) for level in ("A1", "B1"))
    assert "Leakage: no evaluation sentence occurs in the training set" in clean
    assert "⚠" not in clean
    assert "**Leakage: 99.0% of the evaluation sentences occur word for word in the training set.**" in leaky
    assert "The figures below measure recall as well as generalisation" in leaky
    assert "nearly so: with" not in clean + leaky


def test_near_leakage_is_a_warning_of_its_own(tmp_path: Path) -> None:
    store = three_levels(tmp_path)
    key = layout.run_key("llama1b-a1-unsloth-v1", layout.METRICS)
    made = store.get_json(key)
    store.put_json(key, {**made, "leakage": {**made["leakage"], "near_sentences_percent": 12.5}})
    text = report_markdown(collect(store, levels=["A1"]))
    assert "⚠ 12.5% of the evaluation sentences occur in the training set word for word or nearly so" in text
    assert re.search(r"\| … seen word for word or nearly so *\| *12\.5% \|", text)


def test_the_first_published_b1_figures_are_all_there(tmp_path: Path) -> None:
    """1,800 examples of the published run, with its losses, times and epochs."""
    text = report_markdown(collect(three_levels(tmp_path), levels=["B1"]))
    for published in (
        "1,800 examples (90.0%)",
        "200 examples (10.0%)",
        "806",
        "6 min 42 s (402.4 s)",
        "290 (10.00 epochs)",
        "**Train samples/sec:** 44.73",
        "NVIDIA RTX 4090 24 GB",
        "|  0.35 |   10 |       1.82 |         – | first training loss",
        "|  1.74 |   50 |          – |      0.61 | first evaluation",
        "|  6.92 |  200 |          – |  **0.43** | best",
        "Training loss: 1.82 → 0.34, 81.3% lower.",
        "Step 200 (epoch 6.92), with an evaluation loss of **0.426**",
        "| First report's protocol |     2.34 |  0.73 | **68.7%** |               10.34 |             2.08 | ",
    ):
        assert published in text


def test_foreign_text_cannot_break_out(tmp_path: Path) -> None:
    """Messages, models and settings from elsewhere stay text: no row, no heading, no HTML, no terminal control."""
    evil = "x | y\n# heading\n<script>alert(1)</script> `code` \x1b[31m"
    store = three_levels(tmp_path)
    made = metrics("llama1b-b1-unsloth-v1", "B1", B1)
    made |= {
        "model": evil,
        "backend": evil,
        "machine": {"cpu": evil, "gpu": None, "threads": 2},
        "versions": {evil: evil},
    }
    store.put_json("runs/llama1b-b1-unsloth-v1/metrics.json", made)
    add_spec(store, "llama1b-b1-unsloth-v1", "B1", model__name=evil, data__source=evil, data__split_by=evil)
    add_unfinished(store, "llama1b-c1-unsloth-v1", "C1", "FAILED", evil)
    text = report_markdown(collect(store))
    assert "\n# heading" not in text
    assert "\x1b" not in text
    html = MarkdownIt("commonmark").enable("table").render(text)
    assert "<script" not in html
    assert html.count("<h1>") == 1
    assert html.count("<h2>") == 8  # verdicts, losses, overview, comparison, A1, A2, B1, C1
    assert "model.name = " in html


def test_what_a_failed_job_printed_last_is_shown_as_it_is(tmp_path: Path) -> None:
    (complete,) = collect(three_levels(tmp_path), levels=["A1"]).entries
    state = RunState("llama1b-b1-unsloth-v1", "B1", State.FAILED, "it died\nThe end of its output:\n*boom*\x1b[0m")
    entry = Entry("B1", state.run, "FAILED", state.reason, passed=(state,))
    text = report_markdown(Report("file:///store", (complete, entry)))
    assert text.endswith(
        "> ⚠ `llama1b-b1-unsloth-v1`: **failed**: it died\n\n"
        "    The end of its output:\n    *boom*\N{REPLACEMENT CHARACTER}[0m\n"
    )


@pytest.mark.slow
def test_reporting_loads_no_training_library(tmp_path: Path) -> None:
    three_levels(tmp_path)
    code = (
        "import sys; from cefr_batch.cli.main import main\n"
        "assert main(['report', '--store', sys.argv[1]]) == 0\n"
        "heavy = {'torch', 'transformers', 'trl', 'peft', 'datasets', 'unsloth', 'matplotlib', 'boto3', 'kubernetes'}\n"
        "print(sorted(heavy & {name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "## Comparison" in done.stdout


def test_b1_is_the_best_of_every_marked_row_as_published(tmp_path: Path) -> None:
    text = report_markdown(collect(three_levels(tmp_path)))
    comparison = text[text.index("## Comparison") : text.index("★ the best")]
    assert comparison.count("** ★ |\n") == comparison.count("★ |") == 8
