"""`medsam2 video`: a prompt on a frame of a video becomes a mask of every frame."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from medsam2.cli.messages import say, with_progress
from medsam2.cli.options import (
    HeadedCommand,
    device_option,
    grouped,
    heading,
    json_option,
    memory_option,
    precision_option,
    runtime_option,
    weights_option,
)
from medsam2.errors import PromptError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from medsam2.imaging.video.read import Video
    from medsam2.inference.video import VideoSession
    from medsam2.measure.cardiac import Beat

OBJECT = 1
CURVE = "area_curve.png"


@dataclass(frozen=True, kw_only=True)
class VideoPrompts:
    """The prompts of one object, as they are given."""

    frames: Sequence[int]
    boxes: Sequence[tuple[float, float, float, float]]
    points: Sequence[tuple[float, float, int]]
    mask: Path | None


_prompt_options = grouped(
    "prompts",
    VideoPrompts,
    heading("Prompt"),
    click.option(
        "--frame", "frames", type=int, multiple=True, required=True, metavar="K",
        help="Frame the prompt lies in, from 0. Repeat it, each with its --box, to prompt several frames.",
    ),
    click.option(
        "--box", "boxes", type=float, nargs=4, multiple=True, metavar="X0 Y0 X1 Y1", help="Box in pixels."
    ),
    click.option(
        "--point", "points", type=(float, float, int), multiple=True, metavar="X Y LABEL",
        help="Click: 1 inside, 0 outside. May be repeated.",
    ),
    click.option("--mask", type=click.Path(path_type=Path), help="Mask of the frame, for example a picture."),
)  # fmt: skip


@click.command(cls=HeadedCommand)
@click.argument("path", metavar="VIDEO", type=click.Path(path_type=Path))
@_prompt_options
@heading("Output")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="New folder for results."
)
@click.option("--fps", type=float, help="Frames per second, where the video does not say it.")
@click.option("--png", is_flag=True, help="Also write a PNG mask of each frame.")
@click.option("--nifti", is_flag=True, help="Also write all masks as one NIfTI stack.")
@click.option("--cardiac", is_flag=True, help="Find heartbeats in the area and draw its curve.")
@json_option
@heading("Model")
@weights_option
@memory_option
@device_option
@precision_option
@runtime_option
def video(
    path: Path,
    output: Path,
    prompts: VideoPrompts,
    fps: float | None,
    png: bool,
    nifti: bool,
    cardiac: bool,
    weights: str,
    memory: str,
    device: str,
    precision: str,
    runtime: str,
    as_json: bool,
) -> None:
    """Follow a structure through a video.

    VIDEO is an MP4, MOV, AVI, MKV, WebM or GIF file, a multi-frame DICOM file or a folder of PNG or JPEG
    frames. The prompt is a box, points or a mask on one frame; the structure is followed from it in both
    directions. The folder gets an overlay and a mask video and a table of areas.
    """
    from medsam2.imaging.replacing import check_new_folder, filling
    from medsam2.imaging.video.frames import ASSUMED_FPS
    from medsam2.imaging.video.outputs import VideoOutputs, check_stack
    from medsam2.imaging.video.read import open_video
    from medsam2.inference.options import InferenceOptions
    from medsam2.inference.predictor import load

    check_new_folder(output)
    _check_prompts(prompts)
    with open_video(path, fps=fps) as opened:
        check_stack(len(opened), nifti)
        if opened.fps is None:
            say(f"{path}: does not say its rate; times are those of {ASSUMED_FPS:g} a second (--fps)")
        predictor = load(weights, device=device, precision=precision, runtime=runtime)
        session = predictor.video(opened, options=InferenceOptions(memory=memory))
        _prompt(session, prompts)
        started = time.perf_counter()
        with filling(output) as folder:
            with VideoOutputs(folder, opened, pictures=png, stack=nifti) as outputs:
                for one in with_progress(session.propagate(), "frames", session.shape[0]):
                    outputs.write(one.index, one.labels, one.scores)
            seconds = time.perf_counter() - started
            areas_px = outputs.areas_px[OBJECT]
            beats = _find_beats(opened, areas_px, folder / CURVE) if cardiac else None
    facts: dict[str, object] = {
        "video": str(path),
        "output": str(output),
        "weights": weights,
        "frames": len(areas_px),
        "frames_with_object": int((areas_px > 0).sum()),
        "video_fps": opened.fps,
        "pixel_mm": opened.pixel_mm,
        "seconds": round(seconds, 2),
        "frames_per_second": round(len(areas_px) / seconds, 2),
    }
    if beats is not None:
        facts |= _beat_facts(beats, opened)
    if as_json:
        click.echo(json.dumps(facts))
        return
    for sentence in _sentences(facts, beats):
        click.echo(sentence)


def _check_prompts(prompts: VideoPrompts) -> None:
    num_frames, num_boxes = len(prompts.frames), len(prompts.boxes)
    if not num_boxes and not prompts.points and prompts.mask is None:
        raise PromptError("say what to follow: --box X0 Y0 X1 Y1, --point X Y 1 or --mask FILE")
    if num_frames > 1 and (prompts.points or prompts.mask is not None or num_boxes != num_frames):
        raise PromptError(
            f"several frames need a --box each and nothing else: there are {num_frames} frames and "
            f"{num_boxes} boxes"
        )
    if num_frames == 1 and num_boxes > 1:
        raise PromptError(f"a frame has one box, not {num_boxes}: repeat --frame with each")


def _prompt(session: VideoSession, prompts: VideoPrompts) -> None:
    for frame, box in zip(prompts.frames, prompts.boxes or (None,), strict=True):
        session.add(
            OBJECT,
            frame=frame,
            box=box,
            points=[(x, y) for x, y, _ in prompts.points],
            labels=[label for _, _, label in prompts.points],
            mask=None if prompts.mask is None else _mask_of(prompts.mask, frame, session),
        )


def _mask_of(path: Path, frame: int, session: VideoSession) -> npt.NDArray[np.generic]:
    """The frame's mask out of a picture, or out of a stack of all frames."""
    from medsam2.imaging.io import read

    masks = read(path).array
    num_frames, height, width = session.shape
    if masks.shape == (1, height, width):
        return masks[0]
    if masks.shape == session.shape and 0 <= frame < num_frames:
        return masks[frame]
    raise PromptError(f"{path}: has shape {masks.shape}, a frame of the video (y, x) = ({height}, {width})")


def _find_beats(opened: Video, areas_px: npt.NDArray[np.int64], picture: Path) -> list[Beat]:
    """Find the beats and draw the curve they are in."""
    from medsam2.measure.cardiac import draw_curve, find_beats

    beats = find_beats(areas_px, opened.times_s)
    pixel_mm2 = _pixel_mm2(opened)
    unit, scale = ("pixels", 1.0) if pixel_mm2 is None else ("mm2", pixel_mm2)
    draw_curve(areas_px * scale, opened.times_s, unit, beats).save(picture, format="PNG")
    return beats


def _beat_facts(beats: Sequence[Beat], opened: Video) -> dict[str, object]:
    from statistics import fmean

    pixel_mm2 = _pixel_mm2(opened)
    rows = []
    for beat in beats:
        row: dict[str, object] = {
            "end_diastole_frame": beat.end_diastole,
            "end_systole_frame": beat.end_systole,
            "end_diastole_seconds": round(float(opened.times_s[beat.end_diastole]), 4),
            "end_systole_seconds": round(float(opened.times_s[beat.end_systole]), 4),
            "end_diastolic_area_px": beat.area_end_diastole,
            "end_systolic_area_px": beat.area_end_systole,
            "fractional_area_change": round(beat.fractional_area_change, 4),
        }
        if pixel_mm2 is not None:
            row["end_diastolic_area_mm2"] = round(beat.area_end_diastole * pixel_mm2, 1)
            row["end_systolic_area_mm2"] = round(beat.area_end_systole * pixel_mm2, 1)
        rows.append(row)
    mean = round(fmean(beat.fractional_area_change for beat in beats), 4) if beats else None
    return {"beats": rows, "fractional_area_change": mean}


def _pixel_mm2(opened: Video) -> float | None:
    return None if opened.pixel_mm is None else opened.pixel_mm[0] * opened.pixel_mm[1]


def _sentences(facts: dict[str, object], beats: Sequence[Beat] | None) -> Iterator[str]:
    yield (
        f"{facts['output']}: {facts['frames_with_object']} of {facts['frames']} frames have the structure, "
        f"{facts['seconds']:.1f} s, {facts['frames_per_second']:.1f} frames per second"
    )
    if beats is None:
        return
    if not beats:
        yield "no heartbeat is found in the area"
    for beat in beats:
        yield (
            f"end-diastole in frame {beat.end_diastole}, end-systole in frame {beat.end_systole}, "
            f"fractional area change {100 * beat.fractional_area_change:.0f} %"
        )
