"""Every model on every level's examples: each figure computed again by NumPy alone, and what is said of it."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.report_stores import A1, A2, B1, PARTS, SHA, add_complete, add_examples

from cefr_batch.records import layout
from cefr_batch.report.check import check_report
from cefr_batch.report.collect import collect
from cefr_batch.report.matrix import matrix
from cefr_batch.report.pictures import pictures
from cefr_batch.report.render import html_report, markdown_report
from cefr_batch.report.write import render
from cefr_batch.store.local import LocalStore

LEVELS = {"A1": A1, "A2": A2, "B1": B1}
RUNS = {level: f"llama1b-{level.lower()}-unsloth-v1" for level in LEVELS}
N = 40
Values = NDArray[np.float64]


class Planted:
    """Three levels: each model is best on its own examples, and B1 is worse than the base model on those of A1."""

    def __init__(self, folder: Path) -> None:
        self.store = LocalStore(folder)
        random = np.random.default_rng(7)
        self.noise = {level: random.normal(0, 10, N) for level in LEVELS}
        self.nll: dict[tuple[str, str], Values] = {}
        for level in LEVELS:
            self.nll["base", level] = 300 + self.noise[level]
            for model in LEVELS:
                mean = 100 if model == level else 340 if (model, level) == ("B1", "A1") else 180
                self.nll[model, level] = mean + self.noise[level] + random.normal(0, 5, N)
        for level, figures in LEVELS.items():
            add_complete(self.store, RUNS[level], level, figures)
            add_examples(self.store, RUNS[level], self.nll["base", level], self.nll[level, level], SHA[level])

    def cross(self, model: str, level: str, n: int = N, tokens: int = 100, label: str = "") -> dict[str, Any]:
        """Store the evaluation of a level's model on another level's examples."""
        sums = [float(value) for value in self.nll[model, level][:n]]
        return self.add(model, "tuned", label or level, SHA[level], sums, tokens)

    def add(self, of: str, model: str, label: str, sha256: str, sums: list[float], tokens: int = 100) -> dict[str, Any]:
        mean = {"loss": sum(sums) / tokens / len(sums), "perplexity": 1.0}
        task = {"model": model, "label": label, "dataset": "d" * 64, "eval_sha256": sha256, "examples": len(sums)}
        record = {
            "run": RUNS[of],
            "task": {**task, "answered": 0},
            "losses": {
                **{part: {**mean, "tokens": tokens * len(sums)} for part in ("full", "response")},
                "seed_protocol": mean,
            },
            "scores": [{"nll": dict.fromkeys(PARTS, x), "tokens": dict.fromkeys(PARTS, tokens)} for x in sums],
            "seconds": 1.0,
            "code_version": "0",
            "complete_at": "2026-01-01T00:00:00+00:00",
        }
        name = f"{model}-on-{label.lower().replace('.', '-')}-{len(sums)}"
        self.store.put_json(layout.run_key(RUNS[of], layout.evaluation_name(name)), record)
        return record

    def cross_all(self) -> Planted:
        for model in LEVELS:
            for level in set(LEVELS) - {model}:
                self.cross(model, level)
        return self

    def json(self) -> Any:
        return json.loads(render(collect(self.store), "json", "en"))

    def markdown(self) -> str:
        return markdown_report(collect(self.store), "en")


@pytest.fixture
def planted(tmp_path: Path) -> Planted:
    return Planted(tmp_path / "store")


def interval_by_numpy(apart: Values, tokens: Values, sha256: str) -> tuple[float, float]:
    """The 95 % interval of sum(apart) / sum(tokens): 10,000 resamples of the examples, percentiles widened for few."""
    n = len(apart)
    key = hashlib.sha256(repr((sha256, n)).encode()).digest()
    chosen = np.random.default_rng([20251026, *key]).integers(0, n, (10_000, n))
    drawn = apart[chosen].sum(axis=1) / tokens[chosen].sum(axis=1)
    z, f = NormalDist().inv_cdf(0.975), n - 1
    t = z + (z**3 + z) / 4 / f + (5 * z**5 + 16 * z**3 + 3 * z) / 96 / f**2
    t += (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384 / f**3
    tail = 100 * NormalDist().cdf(-t * np.sqrt(n / f))
    low, high = np.percentile(drawn, (tail, 100 - tail))
    return round(float(low), 6), round(float(high), 6)


def test_every_figure_is_recomputed_by_numpy_alone(planted: Planted) -> None:
    found = planted.cross_all().json()["matrix"]
    assert found["columns"] == ["A1", "A2", "B1"]
    assert [(row["model"], row["base"]) for row in found["rows"]] == [
        ("A1", False), ("A2", False), ("B1", False), ("", True),
    ]  # fmt: skip
    tokens = np.full(N, 100.0)
    for row in found["rows"]:
        for level, cell in zip(found["columns"], row["cells"], strict=True):
            model = row["model"] or "base"
            assert (cell["own"], cell["examples"]) == (model == level, N)
            for part in ("response", "full"):
                nll = planted.nll[model, level]
                assert cell[part]["loss"] == pytest.approx(nll.sum() / tokens.sum(), abs=1e-9)
                others = {"to_own": level if model != level else None, "to_base": "base" if model != "base" else None}
                for name, other in others.items():
                    if other is None:
                        assert cell[part][name] is None
                        continue
                    apart = nll - planted.nll[other, level]
                    assert cell[part][name]["nats"] == pytest.approx(apart.sum() / tokens.sum(), abs=1e-9)
                    limits = interval_by_numpy(apart, tokens, SHA[level])
                    assert tuple(cell[part][name]["interval_95_percent"].values()) == pytest.approx(limits, abs=1e-9)
                    assert cell[part][name]["examples"] == N


def test_without_an_evaluation_on_another_set_there_is_no_matrix(planted: Planted) -> None:
    assert matrix(collect(planted.store)) is None
    assert "matrix" not in planted.json()
    assert "Every model on every level" not in planted.markdown()
    planted.add("B1", "tuned", "B1", SHA["B1"], [100.0] * N)  # its own again
    assert matrix(collect(planted.store)) is None


def test_what_is_said_follows_from_the_figures(planted: Planted) -> None:
    planted.cross_all()
    text = " ".join(planted.markdown().split())
    next_best = (planted.nll["A2", "A1"] - planted.nll["A1", "A1"]).sum() / 100 / N
    best = "On A1's examples the A1 model is the best: the next, that of A2, has a response loss"
    assert f"{best} {next_best:.3f} nats higher" in text
    lost = (planted.nll["B1", "A1"] - planted.nll["base", "A1"]).sum() / 100 / N
    assert (
        f"The B1 model lost something: its response loss is higher than before fine-tuning on A1 by {lost:.3f} (+"
        in text
    )
    assert "The A2 model lost something" not in text
    assert "No model is worse" not in text


def test_a_difference_within_noise_is_no_difference_and_a_better_stranger_is_named(planted: Planted) -> None:
    random = np.random.default_rng(1)
    planted.nll["A2", "A1"] = planted.nll["A1", "A1"] + random.normal(0, 5, N) * np.where(np.arange(N) % 2, 1, -1)
    planted.nll["A2", "A1"] -= (planted.nll["A2", "A1"] - planted.nll["A1", "A1"]).mean()
    planted.nll["B1", "A1"] = planted.nll["A1", "A1"] + 30
    planted.nll["A1", "B1"] = planted.nll["B1", "B1"] - 40 + np.arange(N) % 2 - 0.5
    for model, level in (("A2", "A1"), ("B1", "A1"), ("A1", "B1")):
        planted.cross(model, level)
    text = " ".join(planted.markdown().split())
    assert "On A1's examples the A2 model does as well as the A1 model, as far as these examples tell" in text
    assert "On B1's examples the A1 model is better than the B1 model: its response loss is 0.400 nats lower" in text
    assert "No model is worse on the examples of another level than it was before fine-tuning" in text


def test_fewer_examples_are_compared_with_the_first_ones_of_the_own_model(planted: Planted) -> None:
    planted.cross("A1", "B1", n=12)
    (row,) = [row for row in planted.json()["matrix"]["rows"] if row["model"] == "A1"]
    cell = row["cells"][2]
    apart = (planted.nll["A1", "B1"] - planted.nll["B1", "B1"])[:12]
    assert (cell["examples"], cell["response"]["to_own"]["examples"]) == (12, 12)
    assert cell["response"]["to_own"]["nats"] == pytest.approx(apart.sum() / 1200, abs=1e-9)
    assert "Not all models were evaluated on the same number of examples" in planted.markdown()
    planted.cross("A1", "B1")  # the evaluation with the most examples counts
    (row,) = [row for row in planted.json()["matrix"]["rows"] if row["model"] == "A1"]
    assert row["cells"][2]["examples"] == N


def test_one_example_has_no_interval(planted: Planted) -> None:
    planted.cross("A1", "B1", n=1)
    (row,) = [row for row in planted.json()["matrix"]["rows"] if row["model"] == "A1"]
    assert row["cells"][2]["response"]["to_own"]["interval_95_percent"] is None
    assert "there are too few examples to tell by how much" in " ".join(planted.markdown().split())


def test_models_that_do_not_predict_the_same_tokens_are_not_compared(planted: Planted) -> None:
    planted.cross("A1", "B1", tokens=90)
    (row,) = [row for row in planted.json()["matrix"]["rows"] if row["model"] == "A1"]
    assert row["cells"][2]["response"]["loss"] > 0
    assert row["cells"][2]["response"]["to_own"] is row["cells"][2]["response"]["to_base"] is None


def test_runs_of_two_base_models_have_a_row_for_each(planted: Planted) -> None:
    planted.cross_all()
    key = layout.run_key(RUNS["B1"], layout.METRICS)
    planted.store.put_json(key, {**planted.store.get_json(key), "model": "other/model"})
    rows = planted.json()["matrix"]["rows"]
    assert [row["model"] for row in rows if row["base"]] == [
        "unsloth/Llama-3.2-1B-Instruct (main, alpaca)",
        "other/model (main, alpaca)",
    ]
    a1 = rows[0]["cells"][2]["response"]
    assert a1["to_own"]
    assert a1["to_base"] is None  # only the other base model was evaluated there
    planted.add("A1", "base", "B1", SHA["B1"], [float(x) for x in planted.nll["base", "B1"]])
    assert planted.json()["matrix"]["rows"][0]["cells"][2]["response"]["to_base"]


def test_a_file_of_one_s_own_is_a_column_without_a_model_of_its_own(planted: Planted) -> None:
    planted.add("A1", "tuned", "exam.json", "e" * 64, [150.0, 160.0, 155.0])
    planted.add("A1", "base", "exam.json", "e" * 64, [250.0, 265.0, 240.0])
    found = planted.json()["matrix"]
    assert found["columns"] == ["A1", "A2", "B1", "exam.json"]
    cell = found["rows"][0]["cells"][3]
    assert cell["response"]["to_own"] is None
    assert cell["response"]["to_base"]["nats"] == pytest.approx(-290 / 300, abs=1e-9)
    assert found["rows"][1]["cells"][3] is None
    assert "on exam.json" in planted.markdown()


def test_a_damaged_evaluation_leaves_a_gap_and_the_run_in_the_report(
    planted: Planted, caplog: pytest.LogCaptureFixture
) -> None:
    planted.cross_all()
    key = layout.run_key(RUNS["A1"], layout.evaluation_name(f"tuned-on-b1-{N}"))
    planted.store.put(key, b"{")
    with caplog.at_level(logging.WARNING):
        found = planted.json()
    assert found["matrix"]["rows"][0]["cells"][2] is None
    assert [level["label"] for level in found["levels"]] == ["A1", "A2", "B1"]
    assert "it is left out of the report" in caplog.text


def test_the_matrix_is_checked_with_the_report_and_a_changed_evaluation_is_named(
    planted: Planted, tmp_path: Path
) -> None:
    file = tmp_path / "report.json"
    file.write_bytes(render(collect(planted.cross_all().store), "json", "en"))
    planted.add("A1", "tuned", "later.json", "e" * 64, [1.0, 2.0])  # after the report
    found = check_report(planted.store, file)
    assert (found.objects, found.differences) == ((), ())
    stated = json.loads(file.read_text())
    stated["matrix"]["rows"][0]["cells"][1]["full"]["to_own"]["nats"] += 1e-6
    file.write_text(json.dumps(stated))
    (difference,) = check_report(planted.store, file).differences
    assert difference.place == "matrix.rows[0].cells[1].full.to_own.nats"
    key = layout.run_key(RUNS["A1"], layout.evaluation_name(f"tuned-on-a2-{N}"))
    planted.store.put(key, planted.store.get(key).replace(b"2026", b"2027"))
    (wrong,) = check_report(planted.store, file).objects
    assert key in wrong


def test_the_page_colours_cells_and_its_policy_stays(planted: Planted) -> None:
    page = html_report(collect(planted.cross_all().store), "en")
    section = page[page.index('id="matrix"') :]
    section = section[: section.index("</section>")]
    assert 'class="number heat' in section
    assert " style=" not in page
    assert "The B1 model lost something" in section


def test_the_turkish_report_says_it_in_turkish(planted: Planted) -> None:
    text = " ".join(markdown_report(collect(planted.cross_all().store), "tr").split())
    for english in ("on every level", "lost something", "is the best", "Response loss", "Base model", "Each row is"):
        assert english not in text
    assert "Her model, her düzeyin örneklerinde" in text


@pytest.mark.slow
def test_the_heat_map_is_drawn_at_300_dpi(planted: Planted) -> None:
    from io import BytesIO

    from matplotlib.image import imread

    drawn = pictures(collect(planted.cross_all().store), "en")["cross_evaluation.png"]
    height, width = imread(BytesIO(drawn)).shape[:2]
    assert (width, height) == (round(300 * (1.8 + 1.1 * 3)), round(300 * (1.2 + 0.42 * 4)))
    assert drawn == pictures(collect(planted.store), "en")["cross_evaluation.png"]
    assert "![Response loss of every model on every level's examples](cross_evaluation.png)" in markdown_report(
        collect(planted.store), "en", ["cross_evaluation.png"]
    )
