"""Open the datastore that an operator names."""

from __future__ import annotations

from pathlib import Path

from medsam2.serving.monailabel.folder import FolderStudies
from medsam2.serving.monailabel.studies import Studies
from medsam2.serving.service import Service


def open_studies(place: str, service: Service) -> Studies:
    """Open a folder.

    Raises:
        InputError: See `check_studies`.
    """
    return FolderStudies(Path(place))


def check_studies(place: str) -> None:
    """Refuse what cannot be opened, before weights are loaded.

    Raises:
        InputError: The folder is not there or its index cannot be used.
    """
    if place:
        FolderStudies(Path(place))
