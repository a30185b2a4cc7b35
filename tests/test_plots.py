"""The five figures: size, resolution, stable bytes, and what they show."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cefr_batch import layout, plots
from cefr_batch.plots import write_level_plots, write_plots

BEST = {"step": 200, "epoch": 6.92, "eval_loss": 0.426}


def full_log() -> list[dict[str, Any]]:
    log: list[dict[str, Any]] = [
        {"step": s, "epoch": s / 29, "loss": 0.34 + 14.8 / s, "learning_rate": 2e-4 / s, "gradient_norm": 0.5}
        for s in range(10, 300, 10)
    ]
    evaluated = {50: 0.61, 100: 0.45, 150: 0.43, 200: 0.426, 250: 0.44}
    return log + [{"step": s, "epoch": s / 29, "eval_loss": loss} for s, loss in evaluated.items()]


def test_five_png_files_at_300_dpi(tmp_path: Path) -> None:
    files = write_plots(full_log(), BEST, "llama1b-b1-unsloth-v1", tmp_path / "plots")
    assert [f.name for f in files] == [f"{name}.png" for name in layout.PLOT_NAMES]
    assert sorted(p.name for p in (tmp_path / "plots").iterdir()) == sorted(f.name for f in files)
    for file in files:
        with Image.open(file) as image:
            assert image.format == "PNG"
            assert image.info["dpi"] == pytest.approx((300, 300), abs=0.01)
            assert image.size == (2100, 1350)


def test_the_same_log_gives_the_same_bytes_also_in_another_process(tmp_path: Path) -> None:
    here = write_plots(full_log(), BEST, "run", tmp_path / "a")
    code = (
        "import sys, json; from pathlib import Path; from cefr_batch.plots import write_plots;"
        "write_plots(json.loads(sys.argv[1]), json.loads(sys.argv[2]), 'run', Path(sys.argv[3]))"
    )
    arguments = [json.dumps(full_log()), json.dumps(BEST), str(tmp_path / "b")]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True)
    for file in here:
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
        assert b"Software" not in file.read_bytes()


def texts(name: str, log: list[dict[str, Any]], best: dict[str, Any] | None, title: str = "run") -> list[str]:
    from matplotlib.text import Text

    figure = plots._draw(name, log, best, title)
    return [t.get_text() for t in figure.findobj(Text) if isinstance(t, Text) and t.get_text()]


@pytest.mark.parametrize("name", ["eval_loss", "combined_loss"])
def test_the_best_checkpoint_is_marked_where_evaluation_is_shown(name: str) -> None:
    assert "best checkpoint: 0.426 at step 200" in texts(name, full_log(), BEST)
    assert not any("best" in t for t in texts(name, full_log(), None))


def test_the_axes_say_step_and_epoch() -> None:
    for name in layout.PLOT_NAMES:
        shown = texts(name, full_log(), BEST)
        assert "optimizer step" in shown
        assert "epoch" in shown


def test_the_epoch_axis_agrees_with_the_log() -> None:
    figure = plots._draw("training_loss", full_log(), BEST, "run")
    figure.canvas.draw()
    (axes,) = figure.axes
    (epochs,) = axes.child_axes
    assert epochs.get_xlim()[1] == pytest.approx(axes.get_xlim()[1] / 29)


@pytest.mark.parametrize(
    "log", [[], [{"step": 1, "epoch": 0.1}], [{"step": 1, "loss": None}, {"step": 2, "loss": math.nan}]]
)
def test_a_curve_without_points_says_so(log: list[dict[str, Any]], tmp_path: Path) -> None:
    assert len(write_plots(log, None, "run", tmp_path)) == len(layout.PLOT_NAMES)
    for name in layout.PLOT_NAMES:
        assert "no data" in texts(name, log, None)


def test_one_point_is_drawn_not_lost(tmp_path: Path) -> None:
    log = [{"step": 10, "epoch": 0.35, "loss": 1.82}]
    assert "no data" not in texts("training_loss", log, None)
    assert "no data" in texts("eval_loss", log, None)
    write_plots(log, None, "run", tmp_path)


def test_a_title_is_text_not_mathematics(tmp_path: Path) -> None:
    write_plots([], None, r"$\frac{1 unfinished", tmp_path)


def test_importing_plots_does_not_load_matplotlib_and_drawing_does_not_load_pyplot(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; import cefr_batch.plots as p;"
        "assert 'matplotlib' not in sys.modules; p.write_plots([], None, 'x', Path(sys.argv[1]));"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


# All levels.

LEVELS: dict[str, list[dict[str, Any]]] = {
    "A1": [{"step": s, "loss": 2.0 / s, "eval_loss": None} for s in (1, 2, 4)],
    "B1": [{"step": s, "loss": 1.0 / s, "eval_loss": 3.0 / s} for s in (10, 20)],
    "$x": [{"step": 5, "loss": None, "eval_loss": 1.0}],
    "C1": [],
}


def test_pictures_of_all_levels_at_300_dpi_with_the_same_bytes_each_time(tmp_path: Path) -> None:
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        write_level_plots(LEVELS, tmp_path / place / "grid.png", tmp_path / place / "overlay.png")
    for name in ("grid.png", "overlay.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        with Image.open(tmp_path / "a" / name) as image:
            assert image.info["dpi"] == pytest.approx((300, 300), abs=0.01)


def test_the_grid_has_a_chart_for_each_level_and_one_scale() -> None:
    figure = plots._level_grid(LEVELS)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in shown] == list(LEVELS)
    assert len({axes.get_xlim() for axes in shown}) == len({axes.get_ylim() for axes in shown}) == 1
    assert shown[0].get_xlim()[1] >= 20
    assert shown[0].get_ylim()[1] >= 2.0


def test_the_overlay_has_a_curve_for_each_level_that_was_evaluated() -> None:
    figure = plots._level_overlay(LEVELS)
    assert [line.get_label() for line in figure.axes[0].get_lines()] == ["B1", r"\$x"]
    assert [np.asarray(line.get_ydata()).tolist() for line in figure.axes[0].get_lines()] == [[0.3, 0.15], [1.0]]
