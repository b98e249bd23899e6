"""Files of packages from npm: fetched when they are needed, and checked against the digests here."""

from __future__ import annotations

import base64
import hashlib
import io
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

from medsam2.errors import InputError, in_a_line

_PATIENCE_S = 600
_LARGEST_FILE = 64 * 2**20


@dataclass(frozen=True, kw_only=True)
class Package:
    """A version of a package, and which of its files are used."""

    name: str
    version: str
    sha512: str
    """Of the archive, in base64, as npm writes it behind `sha512-`."""
    licence: str
    files: Mapping[str, str]
    """Path in the package -> name here."""

    @property
    def archive(self) -> str:
        """The file that `npm pack` writes."""
        return f"{self.name}-{self.version}.tgz"


ONNX_RUNTIME = Package(
    name="onnxruntime-web",
    version="1.30.0",
    sha512="q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
    licence="MIT",
    files=MappingProxyType(
        {
            "dist/ort.wasm.min.mjs": "ort.wasm.min.mjs",
            "dist/ort-wasm-simd-threaded.mjs": "ort-wasm-simd-threaded.mjs",
            "dist/ort-wasm-simd-threaded.wasm": "ort-wasm-simd-threaded.wasm",
        }
    ),
)
"""Runs the network in WebAssembly, with SIMD and threads."""

DCMJS = Package(
    name="dcmjs",
    version="0.51.1",
    sha512="6hJbygOiWvIZHtAh/uRkNU119q3SE/+76lMvq9g3bGq8wky66sHGxJMjB2g/86ewOYmVMrAaIr4Q8tcJEQlwJg==",
    licence="MIT",
    files=MappingProxyType({"build/dcmjs.min.js": "dcmjs.min.js", "License.txt": "dcmjs-licence.txt"}),
)
"""Reads DICOM and writes DICOM SEG."""

PACKAGES = (ONNX_RUNTIME, DCMJS)


def package_files(package: Package, archives: Path | None) -> dict[str, bytes]:
    """Return the used files of a package by their names here.

    Args:
        package: One of `PACKAGES`.
        archives: A folder with the archives that `npm pack` writes; None to have npm fetch them.

    Raises:
        InputError: There is no npm or no archive, the archive is another one, or it lacks a file.
    """
    content = _fetched(package) if archives is None else _found(package, archives)
    digest = base64.b64encode(hashlib.sha512(content).digest()).decode()
    if digest != package.sha512:
        raise InputError(
            f"{package.archive} has the SHA-512 {digest}, and {package.sha512} is expected; it is another "
            "version, or damaged"
        )
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return {name: _member(archive, path, package) for path, name in package.files.items()}


def _found(package: Package, folder: Path) -> bytes:
    try:
        return (folder / package.archive).read_bytes()
    except OSError as error:
        raise InputError(
            f"{folder / package.archive}: {error.strerror or error}; "
            f"`npm pack {package.name}@{package.version}` writes it"
        ) from error


def _fetched(package: Package) -> bytes:
    npm = shutil.which("npm")
    wanted = f"{package.name}@{package.version}"
    elsewhere = (
        f"write {package.archive} by `npm pack {wanted}` on another machine, and name its folder with "
        "--runtime-files"
    )
    if npm is None:
        raise InputError(
            f"npm is not installed, and fetches {wanted} (it comes with Node.js); or {elsewhere}"
        )
    with TemporaryDirectory() as folder:
        command = [npm, "pack", wanted, "--silent", "--ignore-scripts", "--pack-destination", folder]
        try:
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, check=False, timeout=_PATIENCE_S
            )
        except subprocess.TimeoutExpired as error:
            raise InputError(f"npm did not fetch {wanted} in {_PATIENCE_S} s; {elsewhere}") from error
        path = Path(folder) / package.archive
        if done.returncode or not path.is_file():
            why = in_a_line(done.stderr.strip() or done.stdout.strip() or f"it ended with {done.returncode}")
            raise InputError(f"npm could not fetch {wanted}: {why}; {elsewhere}")
        return path.read_bytes()


def _member(archive: tarfile.TarFile, path: str, package: Package) -> bytes:
    try:
        member = archive.getmember(f"package/{path}")
    except KeyError as error:
        raise InputError(f"{package.archive} lacks the file {path}") from error
    stream = archive.extractfile(member) if member.size <= _LARGEST_FILE else None
    if stream is None:
        raise InputError(f"{package.archive}: {path} is no file, or larger than {_LARGEST_FILE >> 20} MiB")
    return stream.read()
