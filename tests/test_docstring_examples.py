"""The examples in docstrings of public classes do what they show."""

from __future__ import annotations

import doctest
import inspect
from pathlib import Path

import nibabel
import numpy as np
import pytest

import medsam2


def run_example(kind: type, names: dict[str, object], replaced: tuple[str, str] = ("", "")) -> None:
    """Run the example of a class; fails with what came instead of what is shown."""
    text = (inspect.getdoc(kind) or "").replace(*replaced)
    example = doctest.DocTestParser().get_doctest(text, names, kind.__name__, None, None)
    assert len(example.examples) > 3, "the class has no example"
    told: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS, verbose=False)
    runner.run(example, out=told.append)
    assert runner.failures == 0, "".join(told)


@pytest.mark.parametrize("kind", [medsam2.Predictor, medsam2.Session, medsam2.VideoSession])
def test_examples_run(kind: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grey = np.random.default_rng(0).integers(0, 60, (24, 64, 80)).astype(np.int16)
    grey[8:18, 26:45, 31:50] += 150
    medsam2.write(medsam2.Volume.from_array(grey, (0.8, 0.8, 2.5)), tmp_path / "scan.nii.gz")
    monkeypatch.chdir(tmp_path)
    run_example(kind, {"medsam2": medsam2, "nibabel": nibabel, "np": np})


def test_an_example_that_is_wrong_fails() -> None:
    class Wrong:
        """Add.

        >>> 1 + 1
        2
        >>> 1 + 2
        4
        >>> a = 1
        >>> b = 1
        """

    with pytest.raises(AssertionError, match=r"Expected:\n\s+4"):
        run_example(Wrong, {})
