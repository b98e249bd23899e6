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
from medsam2.serving.http_errors import Fault
from medsam2.serving.settings import MIB

MODALITIES = ("CT", "MR")
SEGMENTATION = "SEG"
MAX_SERIES = 5000
"""Of one modality that are listed."""

_CONNECT_S = 10.0
_AS_STORED = (("application/dicom", "*"),)
_UID = re.compile(r"[0-9.]{1,64}")
# Attributes in DICOM's JSON.
_STUDY, _SERIES, _INSTANCE, _MODALITY = "0020000D", "0020000E", "00080018", "00080060"
_NUM_INSTANCES, _DESCRIPTION = "00201209", "0008103E"
_REFERENCED_SERIES, _CONTENT_DATE, _CONTENT_TIME = "00081115", "00080023", "00080033"

logger = logging.getLogger(__name__)

_Json = Mapping[str, Mapping[str, object]]


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where an archive is, and who asks."""

    url: str
    """Without user and password, and without a slash at the end."""
    host: str
    login: tuple[str, str] | None

    @classmethod
    def of(cls, url: str) -> Address:
        """Take a URL apart.

        Raises:
            InputError: It is none.
        """
        try:
            parts = urlsplit(url)
            if not parts.hostname or parts.port == 0:
                raise ValueError
        except ValueError:
            # Not in its own words: they may hold a password.
            raise InputError("the studies' URL is none of a DICOMweb archive; https://HOST/PATH is") from None
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
    description: str


@dataclass(frozen=True, kw_only=True)
class Segmentation:
    """A DICOM segmentation, and the series that it was drawn on."""

    study_uid: str
    series_uid: str
    instance_uid: str
    source_uid: str
    made: str
    """Date and time, in an order of letters."""


class Archive:
    """One archive; each call is one or more requests to it."""

    def __init__(self, address: Address, *, timeout_s: float) -> None:
        session = requests.Session()
        session.auth = address.login or requests.utils.get_netrc_auth(address.url)
        if proxy_for(address.url) is None:
            # An archive on this machine is asked directly, with the environment's certificates all the same.
            found = session.merge_environment_settings(address.url, {}, None, None, None)
            session.verify, session.trust_env = found["verify"], False
        self._client = DICOMwebClient(address.url, session=session, timeout=(_CONNECT_S, timeout_s))
        self._client.set_http_retry_params(retry=False)

    def list_series(self, modality: str) -> list[Series]:
        """Series of a modality, at most `MAX_SERIES`.

        Raises:
            Fault: 502, the archive does not answer as one.
        """
        with _archive_faults():
            found = self._client.search_for_series(
                limit=MAX_SERIES, fields=[_DESCRIPTION], search_filters={"Modality": modality}
            )
            if len(found) >= MAX_SERIES:
                logger.warning(
                    "the archive has more %s series than the %d that are listed", modality, MAX_SERIES
                )
            return sorted(map(_series, found), key=lambda one: one.series_uid)

    def find_series(self, series_uid: str) -> Series | None:
        """A series by its UID, or None.

        Raises:
            Fault: 502, the archive does not answer as one.
        """
        if not _UID.fullmatch(series_uid):
            return None
        with _archive_faults():
            found = self._client.search_for_series(
                fields=[_DESCRIPTION], search_filters={"SeriesInstanceUID": series_uid}
            )
            return _series(found[0]) if found else None

    def list_segmentations(self, study_uid: str | None = None) -> list[Series]:
        """Series of segmentations, of one study or of all.

        Raises:
            Fault: 502, the archive does not answer as one.
        """
        with _archive_faults():
            found = self._client.search_for_series(
                study_instance_uid=study_uid,
                limit=MAX_SERIES,
                search_filters={"Modality": SEGMENTATION},
            )
            listed = [_series(one, study_uid=study_uid or "") for one in found]
        return [one for one in listed if one.modality == SEGMENTATION]

    def describe_segmentation(self, series: Series) -> Segmentation | None:
        """What a segmentation refers to, from its header; None if it does not say.

        Raises:
            Fault: 502, the archive does not answer as one.
        """
        with _archive_faults():
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

    def fetch_series(self, series: Series, folder: Path, max_volume: int) -> None:
        """Write a series' files into a folder, under names of ours.

        Args:
            series: What to fetch.
            folder: An empty one.
            max_volume: MiB that are taken.

        Raises:
            Fault: 413, it is larger; 502, the archive does not answer as one.
        """
        num_bytes = 0
        with _archive_faults():
            instances = self._client.iter_series(series.study_uid, series.series_uid, _AS_STORED)
            for number, instance in enumerate(instances):
                path = folder / f"{number:05d}.dcm"
                instance.save_as(path, enforce_file_format=True)
                num_bytes += path.stat().st_size
                if num_bytes > max_volume * MIB:
                    raise Fault(413, f"the series is larger than the {max_volume} MiB that are taken")

    def fetch_segmentation(self, segmentation: Segmentation, path: Path) -> None:
        """Write a segmentation to a file.

        Raises:
            Fault: 502, the archive does not answer as one.
        """
        with _archive_faults():
            instance = self._client.retrieve_instance(
                segmentation.study_uid, segmentation.series_uid, segmentation.instance_uid, _AS_STORED
            )
            instance.save_as(path, enforce_file_format=True)

    def store(self, path: Path) -> None:
        """Store a file of ours.

        Raises:
            Fault: 502, the archive does not take it.
        """
        with _archive_faults():
            answer = self._client.store_instances([pydicom.dcmread(path)])
            if answer.get("FailedSOPSequence"):
                raise Fault(502, "the archive did not take the segmentation")

    def delete_instance(self, segmentation: Segmentation) -> None:
        """Delete a segmentation.

        Raises:
            Fault: 502, the archive does not do that; many do not.
        """
        with _archive_faults():
            self._client.delete_instance(
                segmentation.study_uid, segmentation.series_uid, segmentation.instance_uid
            )


@contextmanager
def _archive_faults() -> Iterator[None]:
    """Say of whatever goes wrong that it is the archive's, in words without its address or its answer."""
    try:
        yield
    except requests.Timeout:
        raise Fault(504, "the archive did not answer in time") from None
    except requests.HTTPError as error:
        status = error.response.status_code if error.response is not None else "an error"
        raise Fault(502, f"the archive answers {status}") from error
    except (requests.RequestException, ValueError, KeyError, IndexError, AttributeError, EOFError) as error:
        # What an archive should not say makes its client stumble in many ways.
        raise Fault(502, f"the archive does not answer as one: {type(error).__name__}") from error


def _series(found: _Json, *, study_uid: str = "") -> Series:
    count = _text(found, _NUM_INSTANCES)
    return Series(
        study_uid=_text(found, _STUDY) or study_uid,
        series_uid=_text(found, _SERIES),
        modality=_text(found, _MODALITY),
        num_instances=int(count) if count.isdecimal() else 0,
        description=_text(found, _DESCRIPTION),
    )


def _items(found: _Json, tag: str) -> list[_Json]:
    values = found.get(tag, {}).get("Value")
    return [one for one in values if isinstance(one, dict)] if isinstance(values, list) else []


def _first(found: list[_Json], tag: str) -> str:
    return _text(found[0], tag) if found else ""


def _text(found: _Json, tag: str) -> str:
    values = found.get(tag, {}).get("Value")
    return str(values[0]) if isinstance(values, list) and values else ""
