"""matplotlib as it is used here: figures without pyplot's global state, saved for screens and for print. It loads when the
first figure is made."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 300
FORMATS = ("png", "svg", "pdf")
# No versions and dates in the files: the same figure gives the same bytes.
_METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
_SETTINGS: Any = {"svg.hashsalt": "cefr-batch", "pdf.fonttype": 42}  # 42: TrueType, which publishers ask for


@contextmanager
def own_style() -> Iterator[None]:
    """matplotlib's defaults, whatever the user's matplotlibrc says."""
    from matplotlib import rc_context, style

    with style.context("default"), rc_context(_SETTINGS):
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty one, in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def saved(name: str, figure: Figure) -> dict[str, bytes]:
    """The figure in each of ``FORMATS`` under its file's name; pixels at 300 DPI. In ``own_style``."""
    files = {}
    for kind in FORMATS:
        data = io.BytesIO()
        figure.savefig(data, dpi=DPI, format=kind, metadata=_METADATA[kind])
        files[f"{name}.{kind}"] = data.getvalue()
    return files
