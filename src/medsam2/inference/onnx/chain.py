"""How the parts of an exported network belong together: what `chain.json` says."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medsam2.errors import InputError

FORMAT = 1
"""Version of the files. It grows when a part, its inputs or its outputs change."""
CHAIN_FILE = "chain.json"


@dataclass(frozen=True, kw_only=True)
class Value:
    """An input or an output of a part."""

    name: str
    shape: tuple[int | str, ...]
    """Numbers are fixed, names are free: `batch` and `memories`, for example."""
    says: str
    """What it is, with its units."""
    dtype: str = "float32"
    """`float32`, `int32`, `int64` or `bool`."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One ONNX file."""

    name: str
    says: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]

    @property
    def file(self) -> str:
        """Its name in the folder."""
        return f"{self.name}.onnx"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of a procedure: a part that is run, or work that the caller does."""

    part: str | None = None
    """None for the caller's own work, which `says` describes."""
    says: str = ""
    inputs: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Input of the part, and the value that it gets."""
    outputs: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Output of the part, or sentence of the caller's work, by the name of the value that is made."""


def call(part: Part, says: str = "", /, **renamed: str) -> Step:
    """Run a part; its inputs and outputs have their own names as values, unless they are renamed."""
    return Step(
        part=part.name,
        says=says,
        inputs={one.name: renamed.get(one.name, one.name) for one in part.inputs},
        outputs={renamed.get(one.name, one.name): one.name for one in part.outputs},
    )


def work(says: str, /, **made: str) -> Step:
    """Work of the caller, and what each value is that it makes."""
    return Step(says=says, outputs=made)


@dataclass(frozen=True, kw_only=True)
class Chain:
    """Everything that a caller of the parts must know."""

    network: str
    """`compact` or `official`."""
    config: Mapping[str, Any]
    """The network's shapes, as its dataclass has them."""
    constants: Mapping[str, Any]
    parts: tuple[Part, ...]
    procedures: Mapping[str, Sequence[Step]]
    """What to run in which order, for each kind of slice."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where the weights of an export come from."""

    name: str
    """Name or file of the weights, without folders."""
    sha256: str
    licence: str | None = None


def write_chain(chain: Chain, folder: Path, *, origin: Origin, precision: str, opset: int) -> None:
    """Write `chain.json` beside the parts."""
    parts = [
        {"name": part.name, "file": part.file, "bytes": (folder / part.file).stat().st_size}
        | {key: value for key, value in dataclasses.asdict(part).items() if key != "name"}
        for part in chain.parts
    ]
    facts = {
        "format": FORMAT,
        "network": chain.network,
        "weights": dataclasses.asdict(origin),
        "stored_as": precision,
        "opset": opset,
        "config": dict(chain.config),
        "constants": dict(chain.constants),
        "parts": parts,
        "procedures": {
            name: [_step_facts(step) for step in steps] for name, steps in chain.procedures.items()
        },
    }
    text = json.dumps(facts, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    (folder / CHAIN_FILE).write_text(text, encoding="utf-8")


def _step_facts(step: Step) -> dict[str, Any]:
    """Only what there is: the caller's own work has neither a part nor inputs."""
    return {key: value for key, value in dataclasses.asdict(step).items() if value}


def read_facts(folder: Path) -> dict[str, Any]:
    """Read `chain.json` of a folder.

    Raises:
        InputError: There is none, or it is damaged or of another version.
    """
    path = folder / CHAIN_FILE
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"{folder}: holds no {CHAIN_FILE}; a folder of parts is made by `medsam2 export onnx`"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON") from error
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        found = facts.get("format") if isinstance(facts, dict) else None
        raise InputError(
            f"{path}: has format {found!r}, and this version reads {FORMAT}; export the network again"
        )
    return facts


def weights_digest(folder: Path) -> str:
    """Give the SHA-256 of the weights that the parts of a folder were made of.

    Raises:
        InputError: The folder holds no parts.
    """
    return str(read_facts(folder)["weights"]["sha256"])
