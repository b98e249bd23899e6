"""Draw a chart as SVG with matplotlib, which is imported when the first chart is drawn."""

from __future__ import annotations

import importlib
import io
import warnings
from collections.abc import Callable
from threading import Lock
from typing import TYPE_CHECKING, Any

from medsam2.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE = "#1f5fa8", "#c8561b"
"""The two things that a chart compares. They differ in grey as well."""

_STYLE: dict[Any, Any] = {
    # The same numbers give the same file.
    "svg.hashsalt": "medsam2",
    # Letters stay letters: the browser's fonts have those of every language.
    "svg.fonttype": "none",
    # A case may be called "a$b$".
    "text.parse_math": False,
    "font.size": 9,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
# The style is set for the whole process while a chart is drawn, and a server draws in several threads.
_ONE_AT_A_TIME = Lock()


def check_matplotlib() -> None:
    """Make sure that charts can be drawn.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise InputError(
            "a report with charts needs matplotlib: pip install 'medsam2[evaluate]' or 'medsam2[annotate]'"
        ) from error


def draw_svg(paint: Callable[[Figure], None], width: float, height: float) -> str:
    """Draw a chart.

    Args:
        paint: Fills an empty figure.
        width: In inches.
        height: In inches.

    Returns:
        SVG; the same for the same numbers.

    Raises:
        InputError: matplotlib is not installed.
    """
    check_matplotlib()
    import matplotlib as mpl
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    with _ONE_AT_A_TIME, mpl.rc_context(_STYLE), warnings.catch_warnings():
        # It measures letters with its own font, which lacks some that the browser will have.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure = Figure(figsize=(width, height), layout="constrained")
        paint(figure)
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def panels(figure: Figure, count: int, *, shares_y: bool = False) -> list[Axes]:
    """Divide a figure into panels side by side."""
    return list(figure.subplots(1, count, sharey=shares_y, squeeze=False)[0])
