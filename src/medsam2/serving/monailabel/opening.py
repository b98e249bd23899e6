"""Open the datastore that an operator names."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from medsam2.errors import InputError
from medsam2.serving.monailabel.folder import FolderStudies
from medsam2.serving.monailabel.studies import Studies
from medsam2.serving.service import Service

_SCHEMES = ("http://", "https://")
_PACKAGES = ("dicomweb_client", "highdicom", "requests")


def open_studies(place: str, service: Service) -> Studies:
    """Open a folder, or name an archive.

    Args:
        place: A folder, or a DICOMweb URL.
        service: For what an archive's series need while they are here.

    Raises:
        InputError: See `check_studies`.
    """
    if not _is_url(place):
        return FolderStudies(Path(place))
    _require_packages()
    from medsam2.serving.monailabel.archive import ArchiveStudies

    return ArchiveStudies(place, service)


def check_studies(place: str) -> None:
    """Refuse what cannot be opened, before weights are loaded. Whether an archive answers is seen later.

    Raises:
        InputError: The folder is not there or its index cannot be used, the URL is none, or a package for
            archives is missing.
    """
    if _is_url(place):
        _require_packages()
        from medsam2.serving.monailabel.dicomweb import Address

        Address.of(place)
    elif place:
        FolderStudies(Path(place))


def _is_url(place: str) -> bool:
    return place.lower().startswith(_SCHEMES)


def _require_packages() -> None:
    try:
        for name in _PACKAGES:
            import_module(name)
    except ModuleNotFoundError as error:
        raise InputError(
            f"a DICOMweb archive needs the package {error.name}: pip install 'medsam2[dicomweb]'"
        ) from error
