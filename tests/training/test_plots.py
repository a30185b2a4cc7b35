"""The five figures: size, resolution, stable bytes, and what they show."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from cefr_batch.records import layout
from cefr_batch.records.losses import Loss, Losses, TokenLoss
from cefr_batch.records.training import BestCheckpoint, LogEntry
from cefr_batch.training import plots
from cefr_batch.training.plots import untrained_loss, write_plots

BEST = BestCheckpoint(step=200, epoch=6.92, eval_loss=0.426)


def full_log() -> list[LogEntry]:
    log = [
        LogEntry(step=s, epoch=s / 29, loss=0.34 + 14.8 / s, learning_rate=2e-4 / s, gradient_norm=0.5)
        for s in range(10, 300, 10)
    ]
    evaluated = {50: 0.61, 100: 0.45, 150: 0.43, 200: 0.426, 250: 0.44}
    return log + [LogEntry(step=s, epoch=s / 29, eval_loss=loss) for s, loss in evaluated.items()]


@pytest.mark.slow
def test_five_figures_for_screens_and_for_print(tmp_path: Path) -> None:
    files = write_plots(full_log(), BEST, 1.795, tmp_path / "plots")
    assert [f.name for f in files] == [f"{name}.{kind}" for name in layout.PLOT_NAMES for kind in ("png", "svg", "pdf")]
    assert sorted(p.name for p in (tmp_path / "plots").iterdir()) == sorted(f.name for f in files)
    for file in files:
        if file.suffix == ".svg":
            assert ElementTree.parse(file).getroot().tag == "{http://www.w3.org/2000/svg}svg"
            continue
        if file.suffix == ".pdf":
            data = file.read_bytes()
            assert data.startswith(b"%PDF-")
            assert b"/Type3" not in data.replace(b" ", b""), "publishers refuse Type 3 fonts"
            continue
        with Image.open(file) as image:
            assert image.format == "PNG"
            assert image.info["dpi"] == pytest.approx((300, 300), abs=0.01)
            assert image.size == (2100, 1350)


@pytest.mark.slow
def test_the_same_log_gives_the_same_bytes_also_in_another_process(tmp_path: Path) -> None:
    here = write_plots(full_log(), BEST, 1.795, tmp_path / "a")
    code = (
        "import sys, pickle; from pathlib import Path; from cefr_batch.training.plots import write_plots;"
        "write_plots(*pickle.loads(bytes.fromhex(sys.argv[1])), 1.795, Path(sys.argv[2]))"
    )
    arguments = [pickle.dumps((full_log(), BEST)).hex(), str(tmp_path / "b")]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True)
    for file in here:
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
        assert b"Software" not in file.read_bytes()


def texts(name: str, log: list[LogEntry], best: BestCheckpoint | None, untrained: float | None = None) -> list[str]:
    from matplotlib.text import Text

    figure = plots._draw(name, log, best, untrained)
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
    figure = plots._draw("training_loss", full_log(), BEST, None)
    figure.canvas.draw()
    (axes,) = figure.axes
    (epochs,) = axes.child_axes
    assert epochs.get_xlim()[1] == pytest.approx(axes.get_xlim()[1] / 29)


@pytest.mark.slow
@pytest.mark.parametrize(
    "log", [[], [LogEntry(step=1, epoch=0.1)], [LogEntry(step=1, epoch=0.1, loss=None), LogEntry(step=2, epoch=0.2)]]
)
def test_a_curve_without_points_says_so(log: list[LogEntry], tmp_path: Path) -> None:
    assert len(write_plots(log, None, None, tmp_path)) == 3 * len(layout.PLOT_NAMES)
    for name in layout.PLOT_NAMES:
        assert "no data" in texts(name, log, None)


@pytest.mark.slow
def test_one_point_is_drawn_not_lost(tmp_path: Path) -> None:
    log = [LogEntry(step=10, epoch=0.35, loss=1.82)]
    assert "no data" not in texts("training_loss", log, None)
    assert "no data" in texts("eval_loss", log, None)
    write_plots(log, None, None, tmp_path)


def test_the_untrained_model_is_drawn_where_evaluation_is_shown_and_no_run_is_named() -> None:
    for name in layout.PLOT_NAMES:
        shown = texts(name, full_log(), BEST, 1.795)
        assert ("untrained model: 1.795" in shown) == (name in ("eval_loss", "combined_loss"))
        assert plots._PLOTS[name][0] in shown, "the title is the heading alone"
        assert len([one for one in shown if "\n" in one]) == 0
    figure = plots._draw("eval_loss", full_log(), BEST, 1.795)
    (line,) = [one for one in figure.axes[0].get_lines() if str(one.get_label()).startswith("untrained")]
    assert np.asarray(line.get_ydata()).tolist() == [1.795, 1.795]


def test_the_untrained_loss_is_over_the_tokens_that_are_trained() -> None:
    losses = Losses(
        full=TokenLoss.of(1.8, 9), response=TokenLoss.of(2.0, 4), seed_protocol=Loss(loss=2.3, perplexity=10)
    )
    assert (untrained_loss(losses, "all"), untrained_loss(losses, None), untrained_loss(losses, "response")) == (
        1.8,
        1.8,
        2.0,
    )


@pytest.mark.slow
def test_importing_plots_does_not_load_matplotlib_and_drawing_does_not_load_pyplot(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; import cefr_batch.training.plots as p;"
        "assert 'matplotlib' not in sys.modules; p.write_plots([], None, None, Path(sys.argv[1]));"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
