"""Pieces of a page: tables, figures, and numbers as people read them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape


def in_words(seconds: float) -> str:
    """Write seconds as minutes and seconds."""
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60:02d} s"


def day(text: str) -> str:
    """Write an ISO 8601 moment in UTC as date and minute."""
    return escape(f"{text[:10]} {text[11:16]} UTC")


def counted(count: int, noun: str) -> str:
    """Write a number of things."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write rows of text under their heads."""
    head = "".join(f"<th>{escape(text)}</th>" for text in header)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in rows)
    return (
        f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'
    )


def figure(svg: str, caption: str) -> str:
    """Put a drawing into a page as an image: a browser runs nothing inside, whatever a case is called."""
    return image(f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}", caption)


def image(source: str, caption: str) -> str:
    """Put a picture with its caption into a page.

    Args:
        source: A URL that needs no network, `data:`.
        caption: Shown below it, and read out in its place.
    """
    text = escape(caption)
    return f'<figure><img src="{source}" alt="{text}"><figcaption>{text}</figcaption></figure>'
