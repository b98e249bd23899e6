"""Which window a viewer's image is shown to the network in: the address names it, or the server's setting."""

from __future__ import annotations

import re

from starlette.requests import Request

from medsam2.errors import InputError
from medsam2.imaging.intensity import WINDOW_PRESETS
from medsam2.serving.settings import ServerSettings
from medsam2.serving.viewers.paths import NAME

WindowChoice = str | tuple[float, float] | None
_NUMBERS = re.compile(r"(-?\d+(?:\.\d+)?),(-?\d+(?:\.\d+)?)")


def read_window(request: Request, settings: ServerSettings) -> WindowChoice:
    """The window that an address names, as `/viewers/lung` or `/viewers/-1000,400`; else the server's.

    Raises:
        InputError: The smaller number does not come first.
    """
    name = str(request.path_params.get(NAME, ""))
    return named_window(name) or named_window(settings.viewer_window)


def named_window(name: str) -> WindowChoice:
    """A window by the name of a preset, or by two numbers; None for all other names.

    Raises:
        InputError: The smaller number does not come first.
    """
    if name.lower() in WINDOW_PRESETS:
        return name.lower()
    numbers = _NUMBERS.fullmatch(name)
    if numbers is None:
        return None
    lower, upper = map(float, numbers.groups())
    if lower >= upper:
        raise InputError(f"the window {name} begins above its end; the smaller number comes first")
    return lower, upper


def check_window(name: str) -> None:
    """Refuse a setting that names no window.

    Raises:
        InputError: It does not.
    """
    if name and named_window(name) is None:
        names = ", ".join(WINDOW_PRESETS)
        raise InputError(f"MEDSAM2_VIEWER_WINDOW is {name!r}; LOWER,UPPER or one of {names} is expected")
