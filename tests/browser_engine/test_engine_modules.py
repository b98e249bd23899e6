"""The engine's modules stand alone: they run in a page, in a worker and in Node."""

from __future__ import annotations

import re

import pytest
from engine_runs import ENGINE

MODULES = {path.name: path.read_text(encoding="utf-8") for path in sorted(ENGINE.glob("*.js"))}
MAX_LINES = 400
MAX_WIDTH = 120
OF_PAGES = re.compile(r"\b(document|localStorage|fetch|navigator|self|process|require)\b(?!\s*[:\]])")


def _code(text: str) -> str:
    return re.sub(r"/\*.*?\*/|//[^\n]*", "", text, flags=re.DOTALL)


@pytest.mark.parametrize("name", MODULES)
def test_modules_need_nothing_but_each_other(name: str) -> None:
    code = _code(MODULES[name])
    assert set(re.findall(r'from\s+"([^"]+)"', code)) <= {f"./{other}" for other in MODULES}
    assert OF_PAGES.findall(code) == []


def test_no_module_needs_itself_through_others() -> None:
    left = {name: set(re.findall(r'from\s+"\./([^"]+)"', _code(text))) for name, text in MODULES.items()}
    while free := {name for name, others in left.items() if others.isdisjoint(left)}:
        left = {name: others for name, others in left.items() if name not in free}
    assert left == {}


@pytest.mark.parametrize("name", MODULES)
def test_modules_can_be_read(name: str) -> None:
    lines = MODULES[name].splitlines()
    assert lines[0].startswith("/**")
    assert len(lines) <= MAX_LINES
    assert [line for line in lines if len(line) > MAX_WIDTH] == []
