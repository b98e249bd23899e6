"""`medsam2 doctor`: what this installation is, what it lacks, and whether a server answers, on one screen."""

from __future__ import annotations

import json
import platform
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import click

from medsam2.cli.options import json_option
from medsam2.errors import CheckpointError, MedSAM2Error
from medsam2.proxies import proxies_in_use
from medsam2.weights import SPECS

PACKAGES = ("torch", "numpy", "nibabel", "SimpleITK", "pydicom", "safetensors", "huggingface-hub")
FOR_DEVELOPERS = ("dev", "docs")
SERVER_TIMEOUT_S = 10.0
GIB = 2**30

_REQUIREMENT = re.compile(r"([\w.-]+)(?:\[([\w,-]+)\])?.*extra == ['\"]([\w-]+)['\"]")


@click.command()
@click.option(
    "--server", metavar="URL", help="Also ask whether this server answers, http://127.0.0.1:8000 for example."
)
@json_option
def doctor(server: str | None, as_json: bool) -> None:
    """Say what is installed, what is missing and what is chosen here.

    Asks nobody over the network but the server that you name. Send the output with a report of a problem.
    """
    facts: dict[str, object] = {
        "medsam2": metadata.version("medsam2"),
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": {name: version_of(name) for name in PACKAGES},
        **machine_facts(),
        "extras": missing_packages(),
        "weights": {name: weights_path(name) for name in SPECS},
        "free_gib": free_space(),
        "proxies": [str(proxy) for proxy in proxies_in_use()],
        "server": None if server is None else server_facts(server),
    }
    if as_json:
        click.echo(json.dumps(facts, indent=2))
    else:
        for line in screen(facts):
            click.echo(line)
    if server is not None and not _table(facts["server"])["answers"]:
        raise click.exceptions.Exit(1)


def version_of(package: str) -> str | None:
    """Give the version of an installed package; None if it is not there."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def machine_facts() -> dict[str, object]:
    """Describe the processor, and what `auto` stands for here."""
    import torch

    from medsam2.inference.precision import FEATURES, choose, this_machine
    from medsam2.inference.runtime import find_device

    device = find_device("auto")
    choice = choose(this_machine(device))
    found = this_machine(torch.device("cpu")).features
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "processor": {
            "architecture": platform.machine(),
            "features": [name for name in FEATURES if name in found],
            "threads": torch.get_num_threads(),
        },
        "gpus": gpus,
        "device": device.type,
        "precision": choice.precision,
        "precision_reason": choice.reason,
    }


def missing_packages() -> dict[str, list[str]]:
    """List for each extra what it needs and what is not installed."""
    needed: dict[str, list[str]] = {}
    ours: dict[str, list[str]] = {}
    for line in metadata.requires("medsam2") or ():
        if (found := _REQUIREMENT.match(line)) is not None:
            name, inner, extra = found.groups()
            if name == "medsam2":
                ours.setdefault(extra, []).extend((inner or "").split(","))
            else:
                needed.setdefault(extra, []).append(name)
    for extra, others in ours.items():
        needed.setdefault(extra, []).extend(name for other in others for name in needed.get(other, ()))
    return {
        extra: sorted({name for name in names if version_of(name) is None})
        for extra, names in sorted(needed.items())
        if extra not in FOR_DEVELOPERS
    }


def weights_path(name: str) -> str | None:
    """Say where weights with a name are; None if they are not on this machine."""
    from medsam2.hub import locate

    try:
        path = locate(SPECS[name])
    except CheckpointError as error:
        return str(error)
    return None if path is None else str(path)


def free_space() -> dict[str, float]:
    """Measure the room where weights and large volumes go, in GiB."""
    from medsam2.hub import weights_folder

    places = {"temporary files": Path(tempfile.gettempdir()), "this folder": Path.cwd()}
    with suppress(CheckpointError):  # which is said with the weights
        places["weights"] = weights_folder()
    free = {}
    for what, place in places.items():
        there = next(folder for folder in (place, *place.parents) if folder.exists())
        free[f"{what}, {place}"] = round(shutil.disk_usage(there).free / GIB, 1)
    return free


def server_facts(url: str) -> dict[str, object]:
    """Ask a server whether it is ready."""
    from medsam2 import Client

    try:
        with Client(url, timeout_s=SERVER_TIMEOUT_S) as client:
            client.check()
    except MedSAM2Error as error:
        return {"url": url, "answers": False, "says": str(error)}
    return {"url": url, "answers": True, "says": "ready"}


def screen(facts: Mapping[str, object]) -> Sequence[str]:
    """Write the facts as lines for people."""
    packages, processor = _table(facts["packages"]), _table(facts["processor"])
    extras, weights, free = _table(facts["extras"]), _table(facts["weights"]), _table(facts["free_gib"])
    features, gpus, proxies = (
        _listed(part) for part in (processor["features"], facts["gpus"], facts["proxies"])
    )
    lacking = {name: _listed(missing) for name, missing in extras.items() if missing}
    complete = [name for name in extras if name not in lacking]
    rows = [
        ("medsam2", f"{facts['medsam2']}, Python {facts['python']}, {facts['system']}"),
        ("packages", ", ".join(f"{name} {version or 'MISSING'}" for name, version in packages.items())),
        ("processor", f"{processor['architecture']}, {features or 'no features that matter'}"),
        ("GPU", gpus or "none"),
        ("chosen", f"{facts['device']}, {processor['threads']} threads, {facts['precision_reason']}"),
        ("extras", f"complete: {', '.join(complete) or 'none'}"),
        *(
            ("", f"{name}: {missing} missing (pip install 'medsam2[{name}]')")
            for name, missing in lacking.items()
        ),
        ("weights", ", ".join(name for name, path in weights.items() if path is not None) or "NONE"),
        ("", f"not here: {', '.join(name for name, path in weights.items() if path is None) or 'none'}"),
        *(
            ("disk" if n == 0 else "", f"{gib:g} GiB free: {place}")
            for n, (place, gib) in enumerate(free.items())
        ),
        ("proxies", proxies or "none"),
    ]
    if facts["server"] is not None:
        server = _table(facts["server"])
        rows.append(
            ("server", f"{server['url']} {'answers' if server['answers'] else 'FAILS'}: {server['says']}")
        )
    return [f"{name:<10} {text}" for name, text in rows]


def _table(part: object) -> Mapping[str, object]:
    assert isinstance(part, Mapping)
    return part


def _listed(part: object) -> str:
    assert isinstance(part, Sequence)
    return ", ".join(map(str, part))
