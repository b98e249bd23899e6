"""Ask a DICOMweb archive for series and segmentations, and store segmentations there."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

import pydicom
import requests
from dicomweb_client import DICOMwebClient

from medsam2.errors import InputError
from medsam2.proxies import proxy_for
from medsam2.serving.http_errors import ArchiveFailed, TooLarge, TooSlow
from medsam2.serving.settings import MIB

SEGMENTATION = "SEG"
MAX_SERIES = 5000
"""Number of series of one modality that are listed at most."""

_CONNECT_S = 10.0
_AS_STORED = (("application/dicom", "*"),)
_UID = re.compile(r"[0-9.]{1,64}")
# Attributes in DICOM's JSON.
_STUDY, _SERIES, _INSTANCE, _MODALITY = "0020000D", "0020000E", "00080018", "00080060"
_NUM_INSTANCES = "00201209"
_REFERENCED_SERIES, _CONTENT_DATE, _CONTENT_TIME = "00081115", "00080023", "00080033"

logger = logging.getLogger(__name__)

_Json = Mapping[str, Mapping[str, object]]


@dataclass(frozen=True, kw_only=True)
class Address:
    """The URL of an archive, and the login for it."""

    url: str
    """Without user and password, and without a slash at the end."""
    host: str
    login: tuple[str, str] | None

    @classmethod
    def of(cls, url: str) -> Address:
        """Take a URL apart.

        Raises:
            InputError: It is not one.
        """
        try:
            parts = urlsplit(url)
            if not parts.hostname or parts.port == 0:
                raise ValueError
        except ValueError:
            # The message does not repeat the URL: it may hold a password.
            raise InputError(
                "the URL of the studies is not one of a DICOMweb archive; https://HOST/PATH is expected"
            ) from None
        login = None
        if parts.username is not None:
            login = unquote(parts.username), unquote(parts.password or "")
        host = parts.netloc.rpartition("@")[2]
        base = urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))
        return cls(url=base, host=host, login=login)


@dataclass(frozen=True, kw_only=True)
class Series:
    """A series as an archive lists it."""

    study_uid: str
    series_uid: str
    modality: str
    num_instances: int


@dataclass(frozen=True, kw_only=True)
class Segmentation:
    """A DICOM segmentation, and the series that it was drawn on."""

    study_uid: str
    series_uid: str
    instance_uid: str
    source_uid: str
    made: str
    """Date and time, so that a later one is sorted behind an earlier one."""


@contextmanager
def _archive_errors() -> Iterator[None]:
    """Turn every failure into an error of the archive, without its address or its answer."""
    try:
        yield
    except requests.Timeout:
        raise TooSlow("the archive did not answer in time") from None
    except requests.HTTPError as error:
        status = error.response.status_code if error.response is not None else "an error"
        raise ArchiveFailed(f"the archive answers {status}") from error
    except (requests.RequestException, ValueError, KeyError, IndexError, AttributeError, EOFError) as error:
        # The client fails in many ways on answers that DICOMweb does not allow.
        raise ArchiveFailed(
            f"the archive does not answer as a DICOMweb archive: {type(error).__name__}"
        ) from error


class Archive:
    """One archive; each call is one or more requests to it.

    Every call raises `TooSlow` where the archive does not answer in time, `ArchiveFailed` where it refuses
    or does not answer as a DICOMweb archive.
    """

    def __init__(self, address: Address, *, timeout_s: float) -> None:
        session = requests.Session()
        session.auth = address.login or requests.utils.get_netrc_auth(address.url)
        if proxy_for(address.url) is None:
            # No proxy for an archive on this machine; the environment's certificates count all the same.
            found = session.merge_environment_settings(address.url, {}, None, None, None)
            session.verify, session.trust_env = found["verify"], False
        self._client = DICOMwebClient(address.url, session=session, timeout=(_CONNECT_S, timeout_s))
        self._client.set_http_retry_params(retry=False)

    @_archive_errors()
    def list_series(self, modality: str) -> list[Series]:
        """Series of a modality, at most `MAX_SERIES`."""
        found = self._client.search_for_series(limit=MAX_SERIES, search_filters={"Modality": modality})
        if len(found) >= MAX_SERIES:
            logger.warning("the archive has more %s series than the %d that are listed", modality, MAX_SERIES)
        return sorted(map(_series, found), key=lambda one: one.series_uid)

    @_archive_errors()
    def find_series(self, series_uid: str) -> Series | None:
        """A series by its UID, or None."""
        if not _UID.fullmatch(series_uid):
            return None
        found = self._client.search_for_series(search_filters={"SeriesInstanceUID": series_uid})
        return _series(found[0]) if found else None

    @_archive_errors()
    def list_segmentations(self, study_uid: str | None = None) -> list[Series]:
        """Series of segmentations, of one study or of all."""
        found = self._client.search_for_series(
            study_instance_uid=study_uid,
            limit=MAX_SERIES,
            search_filters={"Modality": SEGMENTATION},
        )
        listed = [_series(one, study_uid=study_uid or "") for one in found]
        return [one for one in listed if one.modality == SEGMENTATION]

    @_archive_errors()
    def describe_segmentation(self, series: Series) -> Segmentation | None:
        """The series that a segmentation refers to, from its header; None if it does not say."""
        headers = self._client.retrieve_series_metadata(series.study_uid, series.series_uid)
        for header in headers:
            source = _first(_items(header, _REFERENCED_SERIES), _SERIES)
            if source:
                return Segmentation(
                    study_uid=series.study_uid,
                    series_uid=series.series_uid,
                    instance_uid=_text(header, _INSTANCE),
                    source_uid=source,
                    made=f"{_text(header, _CONTENT_DATE)} {_text(header, _CONTENT_TIME)}",
                )
        return None

    @_archive_errors()
    def fetch_series(self, series: Series, folder: Path, max_volume: int) -> None:
        """Write the files of a series into a folder, under names of ours.

        Args:
            series: What to fetch.
            folder: An empty one.
            max_volume: MiB that are taken.

        Raises:
            TooLarge: It is larger.
            ArchiveFailed: The archive does not answer as a DICOMweb archive.
        """
        num_bytes = 0
        instances = self._client.iter_series(series.study_uid, series.series_uid, _AS_STORED)
        for number, instance in enumerate(instances):
            path = folder / f"{number:05d}.dcm"
            instance.save_as(path, enforce_file_format=True)
            num_bytes += path.stat().st_size
            if num_bytes > max_volume * MIB:
                raise TooLarge(f"the series is larger than the {max_volume} MiB that are taken")

    @_archive_errors()
    def fetch_segmentation(self, segmentation: Segmentation, path: Path) -> None:
        """Write a segmentation to a file."""
        instance = self._client.retrieve_instance(
            segmentation.study_uid, segmentation.series_uid, segmentation.instance_uid, _AS_STORED
        )
        instance.save_as(path, enforce_file_format=True)

    @_archive_errors()
    def store(self, path: Path) -> None:
        """Store a file of ours."""
        answer = self._client.store_instances([pydicom.dcmread(path)])
        if answer.get("FailedSOPSequence"):
            raise ArchiveFailed("the archive did not take the segmentation")

    @_archive_errors()
    def delete_instance(self, segmentation: Segmentation) -> None:
        """Delete a segmentation, which many archives refuse."""
        self._client.delete_instance(
            segmentation.study_uid, segmentation.series_uid, segmentation.instance_uid
        )


def _series(found: _Json, *, study_uid: str = "") -> Series:
    count = _text(found, _NUM_INSTANCES)
    return Series(
        study_uid=_text(found, _STUDY) or study_uid,
        series_uid=_text(found, _SERIES),
        modality=_text(found, _MODALITY),
        num_instances=int(count) if count.isdecimal() else 0,
    )


def _items(found: _Json, tag: str) -> list[_Json]:
    values = found.get(tag, {}).get("Value")
    return [one for one in values if isinstance(one, dict)] if isinstance(values, list) else []


def _first(found: list[_Json], tag: str) -> str:
    return _text(found[0], tag) if found else ""


def _text(found: _Json, tag: str) -> str:
    values = found.get(tag, {}).get("Value")
    return str(values[0]) if isinstance(values, list) and values else ""
