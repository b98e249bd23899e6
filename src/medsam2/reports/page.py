"""Fill a page's template. A page stands alone: no script, no other file, no network."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from medsam2.errors import InputError
from medsam2.imaging.replacing import replacing

if TYPE_CHECKING:
    from jinja2 import Environment

PAGE = "report.html"
"""The file name of every page."""

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""What a browser may load for a page: nothing but the pictures and styles that are inside it."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture inside a page. A browser runs nothing in it, whatever a case is called."""

    source: str
    """A `data:` URL."""
    caption: str
    """Shown below the picture, and read out in its place."""


def svg_picture(svg: str, caption: str) -> Picture:
    """Return a chart for a page."""
    return _picture("svg+xml", svg.encode(), caption)


def png_picture(content: bytes, caption: str) -> Picture:
    """Return a PNG for a page."""
    return _picture("png", content, caption)


def jpeg_picture(image: Image.Image, caption: str) -> Picture:
    """Compress an image for a page: a JPEG takes a third of a PNG."""
    buffer = io.BytesIO()
    # Colours keep their resolution, or thin outlines would fade.
    image.save(buffer, format="JPEG", quality=85, subsampling=0, optimize=True)
    return _picture("jpeg", buffer.getvalue(), caption)


def _picture(kind: str, content: bytes, caption: str) -> Picture:
    return Picture(source=f"data:image/{kind};base64,{base64.b64encode(content).decode()}", caption=caption)


def render(template: str, **values: object) -> str:
    """Fill a template. Every value is escaped: names of files, cases and labels come from strangers.

    Args:
        template: Name of a file in `templates/`, without its ending.
        values: Everything that the template names.
    """
    return _templates().get_template(f"{template}.html").render(policy=POLICY, **values)


def write_page(folder: Path, template: str, **values: object) -> Path:
    """Write a page into a folder; an earlier one is replaced once the new one is whole.

    Returns:
        The page.

    Raises:
        InputError: It cannot be written.
    """
    path = folder / PAGE
    write_text(path, render(template, **values))
    return path


def write_text(path: Path, text: str) -> None:
    """Write a text; an earlier file is replaced once the new one is whole.

    Raises:
        InputError: It cannot be written.
    """
    with replacing(path, ".part") as temporary:
        # A file name that is no valid Unicode must not cost a report.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def make_folder(folder: Path) -> None:
    """Make the folder of a report, before the work is done that fills it.

    Raises:
        InputError: It is a file, or cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made a folder: {error.strerror or error}") from error


@cache
def _templates() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("medsam2.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
