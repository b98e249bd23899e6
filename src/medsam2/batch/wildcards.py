"""Find images by a pattern; what its stars stand for is the case."""

from __future__ import annotations

import re
from glob import glob
from pathlib import Path

from medsam2.batch.storage import is_url, list_urls
from medsam2.errors import InputError

_WILD = re.compile(r"\*\*/|(?:\*|\?|\[[^\]]+\])+")


def find_images(pattern: str) -> dict[str, str]:
    """Return case to image, sorted by image.

    Args:
        pattern: As shells have it, `scans/*/ct.nii.gz`, `**/` for any folders; or a URL of storage that can
            list what it holds. Of several stars the parts are joined by `_`; `**/` is not part of the name.

    Raises:
        InputError: The pattern has no star, nothing matches it, or two images are the same case.
    """
    if not _WILD.search(pattern.replace("**/", "")):
        raise InputError(f"--glob {pattern}: has no star to tell cases apart, such as scans/*/ct.nii.gz")
    named = _expression(pattern)
    paths = list_urls(pattern) if is_url(pattern) else sorted(glob(pattern, recursive=True))
    found: dict[str, str] = {}
    for path in paths:
        match = named.fullmatch(path)
        case = "_".join(match.groups()) if match else Path(path).name
        if case in found:
            raise InputError(f"--glob {pattern}: {found[case]} and {path} are both called {case!r}")
        found[case] = path
    if not found:
        raise InputError(f"--glob {pattern}: matches no file")
    return found


def _expression(pattern: str) -> re.Pattern[str]:
    """The pattern as an expression with a group for each star."""
    parts: list[str] = []
    end = 0
    for wild in _WILD.finditer(pattern):
        parts += [re.escape(pattern[end : wild.start()]), "(?:.*/)?" if wild[0] == "**/" else "([^/]*)"]
        end = wild.end()
    return re.compile("".join((*parts, re.escape(pattern[end:]))))
