"""One case from its rows to its mask: fetch, read, prompt, follow, measure, write."""

from __future__ import annotations

import logging
import re
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from io import BytesIO
from pathlib import Path

from medsam2.batch.cases import Case, Row, is_mask, place_of
from medsam2.batch.records import BatchSettings, CaseRecord, Failure, ObjectRecord, Task
from medsam2.batch.storage import at_hand, is_url, shown
from medsam2.errors import InputError, MedSAM2Error, UnsupportedFormat
from medsam2.imaging.dicom.header import Source
from medsam2.imaging.dicom.read import series_files
from medsam2.imaging.outputs.write import NEEDS_SOURCE, SUFFIXES, write_labels
from medsam2.inference.job import Job, Outcome, open_job
from medsam2.inference.predictor import Predictor, load
from medsam2.inference.prompting import objects_of
from medsam2.inference.record import watched_memory
from medsam2.inference.runtime import InferenceOptions
from medsam2.measure.preview import write_preview
from medsam2.prompts.files import claim_of
from medsam2.prompts.statements import Prompts, number_objects

PREVIEW = ".png"
_FRAME_WORDS = re.compile(r"name it by frame=0 \.\.\.")  # what `imaging` says to callers from Python

_logger = logging.getLogger(__name__)


def open_predictor(settings: BatchSettings) -> Predictor:
    """Load the weights, once for all cases of a process.

    Raises:
        CheckpointError: They are missing or damaged.
        InputError: There is no such device or precision here.
    """
    return load(settings.weights, device=settings.device, precision=settings.precision)


def attempt(task: Task, predictor: Predictor, settings: BatchSettings, masks: Path) -> CaseRecord | Failure:
    """Segment a case; whatever goes wrong with it is a sentence.

    Args:
        task: The case.
        predictor: From `open_predictor`.
        settings: For all cases.
        masks: Folder for the mask.
    """
    try:
        return segment_case(task, predictor, settings, masks)
    except MedSAM2Error as error:
        return Failure(case=task.case.name, error=str(error))
    # Any library may raise anything about one file of a million; the others go on.
    except Exception as error:
        _logger.info("case %s failed", task.case.name, exc_info=error)
        return Failure(case=task.case.name, error=f"failed unexpectedly, {type(error).__name__}: {error}")


def segment_case(task: Task, predictor: Predictor, settings: BatchSettings, masks: Path) -> CaseRecord:
    """Segment a case and write its mask.

    Args:
        task: The case.
        predictor: From `open_predictor`.
        settings: For all cases.
        masks: Folder for the mask.

    Returns:
        What to keep beside the mask.

    Raises:
        MedSAM2Error: Something about it is not usable, in a sentence.
    """
    started = time.perf_counter()
    case = task.case
    with ExitStack() as stack:
        noted = stack.enter_context(warnings.catch_warnings(record=True))
        warnings.simplefilter("always")
        with watched_memory() as peak:
            image = stack.enter_context(at_hand(case.place, settings.max_download_mib))
            prompts = _prompts(case, settings, stack)
            try:
                opened = open_job(_job(case, image, prompts, settings), predictor)
                source = _source(case, image, settings)
            except MedSAM2Error as error:
                raise _about(error, case, image) from error
            for _ in opened.propagate():
                pass
            outcome = opened.outcome()
            files = _write(outcome, case, source, settings, masks)
    notes = [str(one.message) for one in noted if issubclass(one.category, UserWarning)]
    record, window = outcome.record, outcome.session.window
    return CaseRecord(
        case=case.name,
        image=case.image,
        fingerprint=task.fingerprint,
        files=files,
        objects=tuple(_measured(outcome)),
        num_slices=record.num_slices,
        visited=record.visited,
        seconds=round(time.perf_counter() - started, 3),
        peak_mib=None if peak.mib is None else round(peak.mib, 1),
        window=(window.lower, window.upper),
        device=record.device,
        precision=record.precision,
        threads=record.threads,
        weights=settings.weights,
        versions={"medsam2": record.versions.medsam2, "torch": record.versions.torch},
        notes=tuple(([] if window.note is None else [window.note]) + notes),
    )


def _prompts(case: Case, settings: BatchSettings, stack: ExitStack) -> Prompts:
    """The prompts and windows in the rows of a case; masks that they name are fetched."""
    read_rows = [
        claim_of(_with_local_masks(row, case, settings, stack), row.where, folder=case.folder)
        for row in case.rows
    ]
    windows = tuple(dict.fromkeys(window for _, window in read_rows if window is not None))
    return Prompts(objects=number_objects(claim for claim, _ in read_rows), windows=windows)


def _with_local_masks(
    row: Row, case: Case, settings: BatchSettings, stack: ExitStack
) -> Mapping[str, object]:
    def local(values: Mapping[str, object]) -> dict[str, object]:
        return {key: fetched(key, value) for key, value in values.items()}

    def fetched(key: str, value: object) -> object:
        if key == "prompts" and isinstance(value, list):
            return [local(part) if isinstance(part, dict) else part for part in value]
        if not is_mask(key) or not isinstance(value, str) or not is_url(value):
            return value
        return str(stack.enter_context(at_hand(place_of(value, case.folder), settings.max_download_mib)))

    return local(row.values)


def _job(case: Case, image: Path, prompts: Prompts, settings: BatchSettings) -> Job:
    return Job(
        image=image,
        objects=partial(objects_of, prompts, case.rows[0].where),
        frame=settings.frame if case.frame is None else case.frame,
        series=case.series or settings.series,
        window=None if prompts.windows else settings.window,
        plane=case.plane or settings.plane,
        options=InferenceOptions(
            memory=settings.memory, keep_component=settings.keep_component, stop_after=settings.stop_after
        ),
    )


def _source(case: Case, image: Path, settings: BatchSettings) -> Source | None:
    """The DICOM series that a mask refers to, in the order of its slices; None if it refers to none."""
    if settings.output_type not in NEEDS_SOURCE:
        return None
    from pydicom import dcmread

    if case.source is not None and is_url(case.source):
        raise InputError(f"{shown(case.source)}: a source is a folder or a file on a disk, not a URL")
    frame = settings.frame if case.frame is None else case.frame
    if case.source is not None:
        files = series_files(Path(case.source))
    else:
        try:
            files = series_files(image, case.series or settings.series, frame=frame)
        except UnsupportedFormat as error:
            raise UnsupportedFormat(
                f"{error}; {settings.output_type} refers to a DICOM series: give it in a column `source`"
            ) from error
    return [dcmread(BytesIO(one)) if isinstance(one, bytes) else one for one in files]


def _write(
    outcome: Outcome, case: Case, source: Source | None, settings: BatchSettings, masks: Path
) -> tuple[str, ...]:
    """Write the mask and the picture of a case, and return their names."""
    extra = []
    if settings.preview:
        picture = masks / f"{case.name}{PREVIEW}"
        write_preview(outcome.session.object(next(iter(outcome.names))).picture(), picture)
        extra.append(picture.name)
    written = write_labels(
        outcome.labels,
        masks / f"{case.name}{SUFFIXES[settings.output_type][0]}",
        kind=settings.output_type,
        names={number: name for number, name in outcome.names.items() if name is not None},
        source=source,
        weights=settings.weights,
    )
    return (*(path.name for path in written), *extra)


def _measured(outcome: Outcome) -> Iterator[ObjectRecord]:
    for number, sizes in outcome.measurements.items():
        yield ObjectRecord(
            number=number,
            name=outcome.names[number],
            volume_ml=round(sizes["volume_ml"], 6),
            longest_diameter_mm=round(sizes["longest_diameter_mm"], 3),
            num_slices=int(sizes["num_slices"]),
        )


def _about(error: MedSAM2Error, case: Case, image: Path) -> MedSAM2Error:
    """Let a message name the image's URL, not the file it was downloaded to, and the column for a frame."""
    text = str(error).replace(str(image), shown(case.place))
    return type(error)(_FRAME_WORDS.sub("name it in a column `frame` or by --frame N", text))
