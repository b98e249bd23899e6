"""Weights on this machine or on the Hugging Face hub: found, or fetched once and verified."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from importlib import resources
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import EntryNotFoundError, OfflineModeIsEnabled

from medsam2.errors import CheckpointError
from medsam2.weights import SHIPPED_NAME, SPECS, WeightsSpec

HOME_VARIABLE = "MEDSAM2_HOME"
DEFAULT_HOME = "~/.medsam2"
SUFFIXES = (".safetensors", ".pt", ".pth")
MODEL_FILE, CONFIG_FILE, CARD_FILE = "model.safetensors", "config.json", "README.md"
"""The files of a folder, or a repository, as the hub expects them."""
# SAM 2.1 Large with its optimiser is under 3 GB: what is larger is no checkpoint of these networks.
MAX_BYTES = 4 << 30

_SHA256 = re.compile(r"[0-9a-f]{64}")
_REPOSITORY = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w.-]+))?(?:/(.+))?")
_LICENCE = re.compile(r"^license:[ \t]*(\S+)", re.MULTILINE)

logger = logging.getLogger(__name__)


def shipped_path() -> Path:
    """Where the weights that come with the package lie."""
    return Path(str(resources.files("medsam2") / "shipped" / f"{SHIPPED_NAME}.safetensors"))


def weights_folder() -> Path:
    """Where fetched weights are kept: `weights` in MEDSAM2_HOME, which is `~/.medsam2` if not set.

    Raises:
        CheckpointError: There is no home: an unknown user without HOME, as in some containers.
    """
    named = os.environ.get(HOME_VARIABLE)
    try:
        return Path(named or DEFAULT_HOME).expanduser() / "weights"
    except RuntimeError as error:
        whose = f"{HOME_VARIABLE}={named} names no" if named else "this user has no"
        raise CheckpointError(
            f"{whose} home folder, so there is no place for weights; set {HOME_VARIABLE} to a folder for them"
        ) from error


def locate(spec: WeightsSpec) -> Path | None:
    """Find weights on this machine: in the package, in our folder or in the Hugging Face hub's cache.

    Raises:
        CheckpointError: There is no folder of ours, or it may not be looked into.
    """
    if spec.repository is None:
        return shipped_path() if shipped_path().is_file() else None
    kept = weights_folder() / spec.filename
    try:
        if kept.is_file():
            return kept
    except PermissionError as error:
        raise CheckpointError(
            f"{kept.parent} may not be looked into; set {HOME_VARIABLE} to another folder for weights"
        ) from error
    cached = huggingface_hub.try_to_load_from_cache(spec.repository, spec.filename)
    return Path(cached) if isinstance(cached, str) else None


def fetch(spec: WeightsSpec) -> Path:
    """Find weights on this machine or download them, and verify them where a digest is known.

    Raises:
        CheckpointError: They are damaged, or they are not here and cannot be had.
    """
    path = locate(spec)
    if path is None:
        return _download(spec)
    return _verified(path, spec.sha256 or _recorded_digest(path))


def file_digest(path: Path) -> str:
    """Give the SHA-256 of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _verified(path: Path, expected: str | None) -> Path:
    """Return a file whose SHA-256 is the expected one, or of which none is known."""
    if expected is not None and (digest := file_digest(path)) != expected:
        raise CheckpointError(
            f"{path} is damaged: its SHA-256 is {digest}, not {expected}; delete it and fetch it again"
        )
    return path


def fetch_address(address: str) -> Path:
    """Find weights of a repository in the hub's cache, or download them there, with their card.

    What is in the cache is taken as it is, without asking the hub, so that a mask can be made again. Another
    revision gives newer weights.

    Args:
        address: `hf://OWNER/NAME`, whose file is `model.safetensors`, or `hf://OWNER/NAME/FILE`; with a
            commit, branch or tag `hf://OWNER/NAME@REVISION`.

    Raises:
        CheckpointError: This is no such address, or the weights are damaged, or not here and cannot be had.
    """
    named = _REPOSITORY.fullmatch(address)
    if named is None:
        raise CheckpointError(f"{address!r} is no address on the hub; hf://OWNER/NAME is expected")
    repository, revision, filename = named[1], named[2], named[3] or MODEL_FILE
    if not filename.endswith(SUFFIXES):
        raise CheckpointError(f"{address}: weights end in {', '.join(SUFFIXES)}, and {filename} does not")
    cached = huggingface_hub.try_to_load_from_cache(repository, filename, revision=revision)
    if not isinstance(cached, str):
        cached = _download_address(address, repository, filename, revision)
    return _verified(Path(cached), _as_digest(Path(cached).resolve().name))


def _download_address(address: str, repository: str, filename: str, revision: str | None) -> str:
    try:
        url = huggingface_hub.hf_hub_url(repository, filename, revision=revision)
        check_size(Path(filename), huggingface_hub.get_hf_file_metadata(url).size or 0)
        licence = "not said"
        for companion in (CARD_FILE, CONFIG_FILE):
            try:
                beside = huggingface_hub.hf_hub_download(repository, companion, revision=revision)
            except EntryNotFoundError:
                continue
            found = _LICENCE.search(Path(beside).read_text(encoding="utf-8", errors="replace"))
            if companion == CARD_FILE and found is not None:
                licence = found[1]
        logger.warning("fetching the weights %s (licence: %s)", address, licence)
        return huggingface_hub.hf_hub_download(repository, filename, revision=revision)
    except CheckpointError:
        raise
    except Exception as error:  # the hub's client raises its HTTP library's errors, and that library changes
        raise CheckpointError(
            f"the weights {address} are not on this machine and cannot be fetched ({_reason(error)}); "
            f"copy {filename} and the files beside it from the repository {repository} on the Hugging Face "
            "hub into a folder, and name that folder"
        ) from error


def _download(spec: WeightsSpec) -> Path:
    """Download into our folder; what is broken off is taken up again at the next try."""
    if spec.repository is None:
        raise CheckpointError(f"the weights {spec.name!r} are missing from this installation of medsam2")
    path = weights_folder() / spec.filename
    try:
        url = huggingface_hub.hf_hub_url(spec.repository, spec.filename)
        metadata = huggingface_hub.get_hf_file_metadata(url)
        check_size(path, metadata.size or 0)
        _make_folder(path.parent)
        # A warning, so that the licence is seen by whoever did not ask for log lines.
        logger.warning("fetching the weights %s from %s (licence: %s)", spec.name, spec.origin, spec.licence)
        # The same commit as the metadata's, so that the digest is this file's.
        huggingface_hub.hf_hub_download(
            spec.repository, spec.filename, revision=metadata.commit_hash, local_dir=path.parent
        )
    except CheckpointError:
        raise
    except Exception as error:  # the hub's client raises its HTTP library's errors, and that library changes
        raise CheckpointError(_how_to_copy(spec, path, error)) from error
    digest = file_digest(path)
    expected = spec.sha256 or _as_digest(metadata.etag or "")
    if expected is not None and digest != expected:
        path.unlink()
        raise CheckpointError(
            f"what came from {spec.origin} is damaged: its SHA-256 is {digest}, not {expected}; try again"
        )
    if expected is None:
        logger.warning("the hub gives no SHA-256 of %s, so it could not be verified", spec.origin)
    _record_path(path).write_text(f"{digest}  {path.name}\n", encoding="utf-8")
    return path


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(
            f"cannot keep weights in {folder} ({error.strerror}); set {HOME_VARIABLE} to another folder"
        ) from error


def _how_to_copy(spec: WeightsSpec, path: Path, error: Exception) -> str:
    return (
        f"the weights {spec.name!r} are not on this machine and cannot be fetched ({_reason(error)}); "
        f"copy {spec.filename} from the repository {spec.repository} on the Hugging Face hub to {path}"
    )


def _reason(error: Exception) -> str:
    detail = next(iter(str(error).splitlines()), "") or type(error).__name__
    return "HF_HUB_OFFLINE is set" if isinstance(error, OfflineModeIsEnabled) else detail.rstrip(".")


def _record_path(path: Path) -> Path:
    """Where a digest is kept, in the format of `sha256sum --check`."""
    return path.with_name(f"{path.name}.sha256")


def _recorded_digest(path: Path) -> str | None:
    try:
        return _as_digest(_record_path(path).read_text(encoding="utf-8").partition(" ")[0])
    except (OSError, UnicodeDecodeError):
        # In the hub's own cache the file is a link to a blob that is called by its digest.
        return _as_digest(path.resolve().name)


def _as_digest(text: str) -> str | None:
    return text if _SHA256.fullmatch(text) else None


def card_for_hub(card: str | None, name: str | None) -> str:
    """Give a model card the table that the hub reads at its beginning, unless it has one.

    Args:
        card: As Markdown; None for a short one.
        name: Of the weights; the licence and the origin are written where `SPECS` knows them.
    """
    spec = SPECS.get(name or "")
    if card is None:
        known = (
            "" if spec is None else f"\n{spec.description}. Origin: {spec.origin}. Licence: {spec.licence}.\n"
        )
        card = f"# {name or 'Weights'}\n{known}\nLoad them with `medsam2.load(FOLDER)`.\n"
    if card.startswith("---\n"):
        return card
    licence = [] if spec is None else [f"license: {spec.licence.partition(';')[0].lower()}"]
    table = [*licence, "library_name: medsam2", "pipeline_tag: image-segmentation", "tags: [medical]"]
    return "\n".join(("---", *table, "---", "", card))


def check_size(path: Path, num_bytes: int) -> None:
    """Refuse what is too large for weights, before it fills the memory or the disk.

    Raises:
        CheckpointError: It is.
    """
    if num_bytes > MAX_BYTES:
        raise CheckpointError(
            f"{path} has {num_bytes:,} bytes and is no checkpoint of these networks, "
            f"which have at most {MAX_BYTES:,}"
        )
