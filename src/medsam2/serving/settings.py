"""The settings of a server: options come first, then variables MEDSAM2_*, then the defaults."""

from __future__ import annotations

import ipaddress
import os
import site
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from medsam2.errors import InputError
from medsam2.serving.schemas import sentence_about

MIB = 2**20
_SECRETS = ("MEDSAM2_API_KEY", "MEDSAM2_STUDIES")

_Names = Annotated[tuple[str, ...], NoDecode]
_Count = Annotated[int, Field(ge=1)]
_Seconds = Annotated[float, Field(gt=0)]


class ServerSettings(BaseSettings):
    """What can be chosen about a server; each field is also a variable, for example `MEDSAM2_PORT`."""

    model_config = SettingsConfigDict(
        env_prefix="MEDSAM2_", env_ignore_empty=True, frozen=True, extra="forbid", hide_input_in_errors=True
    )

    host: str = "127.0.0.1"
    """Address to listen on. An address that other machines can reach needs `api_key` or `insecure`."""
    port: int = Field(default=8000, ge=0, le=65535)
    """0 takes a free one."""
    weights: str = "compact"
    """Name or file."""
    device: str = "auto"
    precision: str = "auto"
    runtime: str = "torch"
    """What computes the network: torch, or onnx for ONNX Runtime."""

    studies: str = ""
    """Folder of images, or URL of a DICOMweb archive, that viewers with MONAI Label's plug-in work on. A URL
    with `USER:PASSWORD@` belongs in the environment."""

    viewer_window: str = ""
    """Window of scans that nnInteractive's viewers and ITK-SNAP send without one: a preset's name, or
    `LOWER,UPPER`. Set it in the environment; in nnInteractive's viewers an address can name another one."""

    api_key: SecretStr | None = None
    """Callers send it as `Authorization: Bearer KEY`. Set it in the environment; others can see options."""
    insecure: bool = False
    """Serve everybody who reaches the address, without a key."""
    allowed_hosts: _Names = ()
    """Names of this server that the `Host` header may contain, besides its addresses and `localhost`."""
    allowed_origins: _Names = ()
    """Web sites whose pages may call this server from a browser, for example `https://viewer.example`."""
    allow_urls: _Names = ()
    """Hosts, as HOST or HOST:PORT, from which images may be fetched. Without one, no URL is fetched."""

    queue: int = Field(default=8, ge=0)
    """Requests that may wait while another one is at work."""
    max_body: _Count = 512
    """Largest body of a request, as sent and unpacked, and largest fetched file, in MiB."""
    max_volume: _Count = 2048
    """Largest volume in one file, in MiB."""
    max_rows: _Count = 64
    memory_budget: _Count = 4096
    """Memory in MiB that bodies, voxels and masks of all requests and sessions may take together."""
    max_connections: _Count = 512

    folder: Path | None = None
    """Sessions may open files in this folder, by their path from it, and no other file of this machine."""
    max_sessions: _Count = 16
    """Sessions that may be open at once. Their volumes and masks count in `memory_budget`."""
    session_idle_s: _Seconds = 1800.0
    """A session ends after this time without a request."""

    readers: _Count = 2
    """Processes that read files."""
    reader_memory: _Count = 3072
    """Memory in MiB that one of them may take."""

    header_timeout_s: _Seconds = 10.0
    body_timeout_s: _Seconds = 120.0
    send_timeout_s: _Seconds = 60.0
    """Time for a caller to take the next part of its answer."""
    fetch_timeout_s: _Seconds = 30.0
    read_timeout_s: _Seconds = 60.0
    """Time to read one file."""
    interim_s: _Seconds = 15.0
    """Viewers that would give up are told this often that work goes on (HTTP 102)."""
    answer_timeout_s: _Seconds = 300.0
    """Time from the end of the request to the last mask, including the time in the queue."""

    @field_validator("allowed_hosts", "allowed_origins", "allow_urls", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        """Split a variable's text at commas and spaces."""
        return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value

    @field_validator("allowed_hosts", "allowed_origins", "allow_urls")
    @classmethod
    def _named(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if "*" in name:
                raise ValueError(f"{name!r} stands for everybody: list each name")
        return tuple(name.lower().rstrip("/") for name in names)

    @field_validator("folder")
    @classmethod
    def _is_there(cls, folder: Path | None) -> Path | None:
        if folder is not None and not folder.is_dir():
            raise ValueError(f"there is no folder {str(folder)!r}")
        return folder

    @model_validator(mode="after")
    def _is_guarded(self) -> Self:
        if not (is_loopback(self.host) or self.key or self.insecure):
            raise ValueError(
                f"{self.host} can be reached from other machines: set MEDSAM2_API_KEY, or say --insecure "
                "to serve everybody without a key"
            )
        return self

    @property
    def key(self) -> bytes | None:
        """The key in the bytes of a header, or None where no key is needed."""
        key = self.api_key.get_secret_value().strip() if self.api_key else ""
        return key.encode() or None


def load_settings(given: Mapping[str, object]) -> ServerSettings:
    """Take the given values that are not None, then the environment, then the defaults.

    Raises:
        InputError: A value is not usable; the message names the field and what is expected.
    """
    chosen = {name: value for name, value in given.items() if value is not None}
    try:
        return ServerSettings.model_validate(ServerSettings(**chosen).model_dump())  # type: ignore[arg-type]
    except ValidationError as error:
        raise InputError(sentence_about(ServerSettings, error, _spelled)) from None


def is_loopback(host: str) -> bool:
    """Whether an address or name stands for this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def reader_environment() -> dict[str, str]:
    """The environment of a process that reads files which are not trusted: no passwords, one thread."""
    kept = {name: value for name, value in os.environ.items() if name.upper() not in _SECRETS}
    home = str(Path(__file__).parents[2])
    if home not in site.getsitepackages():
        # A platform may have added this package to its own path only, which a new process does not have.
        kept["PYTHONPATH"] = os.pathsep.join(filter(None, (home, kept.get("PYTHONPATH"))))
    # Each thread of a linear algebra library would take a part of the limited memory.
    return {**kept, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def _spelled(field: str) -> str:
    return f"--{field.replace('_', '-')} (MEDSAM2_{field.upper()})"
