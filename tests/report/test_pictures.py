"""Must show: the pictures of all levels, in the report's language, with what a publication needs."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from support.report_stores import A1, B1, add_complete, three_levels

from cefr_batch.i18n.language import Language
from cefr_batch.records.level_figures import LevelFigures, TextLevels, WithInterval
from cefr_batch.report.collect import Result, collect
from cefr_batch.report.pictures import level_distributions, level_grid, level_overlay, pictures
from cefr_batch.store.local import LocalStore


@pytest.fixture
def levels(tmp_path: Path) -> dict[str, Result]:
    """A1 with no evaluation, B1 with some, one whose name is half a formula, and one without curves."""
    store = LocalStore(tmp_path / "store")
    for level, figures in (("A1", replace(A1, eval_losses=())), ("B1", B1)):
        add_complete(store, f"llama1b-{level.lower()}-unsloth-v1", level, figures)
    found = {entry.level: entry.results[0] for entry in collect(store).entries if entry.results}
    empty = found["B1"].metrics.model_copy(update={"log": [], "best": None})
    return {"A1": found["A1"], "B1": found["B1"], "$x": found["B1"], "C1": replace(found["B1"], metrics=empty)}


def texts(figure: Figure) -> set[str]:
    return {text.get_text() for text in figure.findobj(Text) if isinstance(text, Text) and text.get_text()}


@pytest.mark.slow
def test_the_same_bytes_each_time_at_300_dpi_and_for_print(tmp_path: Path) -> None:
    report = collect(three_levels(tmp_path))
    drawn, again, turkish = (pictures(report, language) for language in ("en", "en", "tr"))
    assert sorted(drawn) == [f"levels_{of}.{kind}" for of in ("grid", "overlay") for kind in ("pdf", "png", "svg")]
    for name, data in drawn.items():
        assert data == again[name] != turkish[name], name
    with Image.open(BytesIO(drawn["levels_grid.png"])) as image:
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.01)
    assert ElementTree.fromstring(drawn["levels_grid.svg"]).tag == "{http://www.w3.org/2000/svg}svg"
    assert drawn["levels_grid.pdf"].startswith(b"%PDF-")


def test_the_grid_has_a_chart_for_each_level_and_one_scale(levels: dict[str, Result]) -> None:
    figure = level_grid(levels, Language("en"))
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in shown] == list(levels)
    assert len({axes.get_xlim() for axes in shown}) == len({axes.get_ylim() for axes in shown}) == 1
    assert shown[0].get_xlim()[1] >= 290
    assert shown[0].get_ylim()[1] >= 1.951


def test_the_grid_marks_the_best_checkpoint_and_the_untrained_model(levels: dict[str, Result]) -> None:
    figure = level_grid(levels, Language("en"))
    lines = {str(line.get_label()): line for line in figure.axes[1].get_lines()}
    assert set(lines) == {"training loss", "evaluation loss", "untrained model", "best checkpoint"}
    best = levels["B1"].metrics.best
    assert best
    assert [*lines["best checkpoint"].get_data()] == [[best.step], [best.eval_loss]]
    assert np.asarray(lines["untrained model"].get_ydata()).tolist() == [1.795, 1.795]


def test_the_overlay_has_a_curve_for_each_level_that_was_evaluated(levels: dict[str, Result]) -> None:
    figure = level_overlay(levels, Language("en"))
    labels = [str(line.get_label()) for line in figure.axes[0].get_lines()]
    assert [label for label in labels if not label.startswith("_")] == ["B1", "untrained model", r"\$x"]
    assert "no data" in texts(level_overlay({"C1": levels["C1"]}, Language("en")))


@pytest.mark.slow
@pytest.mark.parametrize("language", ["en", "tr"])
@pytest.mark.parametrize("number", range(1, 6))
def test_the_distributions_have_a_legend_that_is_whole_and_covers_nothing(number: int, language: str) -> None:
    none = WithInterval(value=0.0)
    sentences = TextLevels(
        texts=20, measured_texts=20, units=20, sentences=20, mean=none, level_percent={},
        histogram=[20] + [0] * 19, rmse=none, within_half_percent=none, within_one_percent=none,
    )  # fmt: skip
    levels = {
        level: LevelFigures(target=level, written=sentences, references=sentences, gap=None)
        for level in ("A1", "A2", "B1", "B2", "C1")[:number]
    }
    if number > 1:  # of the first level, the references could not be measured
        levels["A1"] = LevelFigures(target="A1", written=sentences, references=None, gap=None)
    figure = level_distributions(levels, Language(language))
    figure.canvas.draw()
    (legend,) = figure.legends
    assert len(legend.get_texts()) == 2
    box, shown = legend.get_window_extent(), [axes for axes in figure.axes if axes.get_visible()]
    assert len(shown) == number
    titles = [text for text in figure.texts if text.get_text()]
    assert len(titles) == 2
    for one in (box, *(title.get_window_extent() for title in titles)):
        assert 0 <= one.x0 <= one.x1 <= figure.bbox.width
        assert 0 <= one.y0 <= one.y1 <= figure.bbox.height
    covered = [part.get_window_extent() for part in (*titles, *shown, *(axes.title for axes in shown))]
    assert not box.count_overlaps(covered)


@pytest.mark.slow
def test_a_turkish_report_has_turkish_pictures(levels: dict[str, Result]) -> None:
    for draw in (level_grid, level_overlay):
        figure = draw(levels, Language("tr"))
        figure.canvas.draw()
        shown = texts(figure)
        assert {"optimizasyon adımı", "kayıp (token başına nat)", "eğitilmemiş model"} <= shown
        assert not shown & texts(draw(levels, Language("en"))) - {"A1", "B1", "C1", "$x", r"\$x"} - _NUMBERS
        assert any("," in text for text in shown), "decimals have commas"
        assert not any("." in text for text in shown)


_NUMBERS = {str(number) for number in range(1000)}
