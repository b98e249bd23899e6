"""The compact network and its classical cues in parts: what each computes, and which runs when."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from medsam2.inference import carried_track, zoom
from medsam2.inference.onnx import shared_values
from medsam2.inference.onnx.chain import Chain, Part, Step, Value, call, work
from medsam2.model.compact.body import CompactFeatures
from medsam2.model.compact.config import CompactConfig
from medsam2.model.compact.memory import cell_shares
from medsam2.model.compact.network import PLANES, CompactNetwork
from medsam2.model.config import MEMORY_DIM
from medsam2.tracking import cues
from medsam2.tracking.carried import DISTANCE_UNIT
from medsam2.tracking.planes import click_radius
from medsam2.tracking.policies import CONDITIONING_CODE, NUM_RECENT


def encode(network: CompactNetwork, planes: Tensor) -> tuple[Tensor, ...]:
    """`encoder`."""
    features = network.encode_image(planes)
    return features.fine, *features.levels, features.level2


def decode(
    network: CompactNetwork,
    fine: Tensor,
    level2x: Tensor,
    level4x: Tensor,
    level8x: Tensor,
    conditioned: Tensor,
) -> tuple[Tensor, ...]:
    """`decoder`, with the heads."""
    features = CompactFeatures(fine=fine, levels=(level2x, level4x, level8x), level2=conditioned)
    answer = network.decode(features, conditioned)
    return answer.mask_logits, answer.overlap, answer.object_logits, answer.pooled, answer.seen


def share_cells(network: CompactNetwork, probability: Tensor) -> Tensor:
    """`cell_shares`."""
    return cell_shares(probability, network.config.grid_size)


COMPUTES: Mapping[str, Callable[..., Any]] = {
    "grey_likeness": lambda _, *shown: cues.grey_likeness(*shown),
    "context_likeness": lambda _, *shown: cues.context_likeness(*shown),
    "match_patches": lambda _, *shown: cues.match_patches(*shown),
    "encoder": encode,
    "memory_reader": CompactNetwork.with_memory,
    "without_memory": CompactNetwork.without_memory,
    "decoder": decode,
    "cell_shares": share_cells,
    "memory_writer": CompactNetwork.encode_memory,
    "object_pointer": CompactNetwork.point_at,
}
"""What each part computes of the network and its inputs."""


def _parts(config: CompactConfig) -> tuple[Part, ...]:
    size, side = config.image_size, config.grid_size
    c2, c4, c8, c16, c32 = config.channels
    view = ("batch", size, size)
    shown = (
        Value(name="reference", shape=view, says="greys 0 to 1 of a slice whose mask is known"),
        Value(name="inside", shape=view, says="its mask, 0 to 1"),
        Value(name="current", shape=view, says="greys 0 to 1 of the slice at hand"),
    )
    fine = Value(name="fine", shape=("batch", config.fine_channels, size, size), says="features, stride 1")
    levels = tuple(
        Value(name=f"level{stride}x", shape=("batch", width, size // stride, size // stride),
              says=f"features, stride {stride}")
        for stride, width in ((2, c2), (4, c4), (8, c8))
    )  # fmt: skip
    level2, conditioned = shared_values.level2_before(c16, side), shared_values.level2_after(c16, side)
    pooled = Value(name="pooled", shape=("batch", c32 + c8), says="what the object pointer is made of")
    seen = Value(name="seen", shape=level2.shape, says="what a memory is made of")
    shares = Value(
        name="shares", shape=("batch", 2, side, side), says="mean and largest probability of cells"
    )
    return (
        Part(
            name="grey_likeness",
            says="tells how much more each grey belongs to the inside than to the outside of a known mask",
            inputs=shown,
            outputs=(Value(name="likeness", shape=view, says="-1 to 1"),),
        ),
        Part(
            name="context_likeness",
            says="tells the same of pairs of a grey and the mean of its surroundings",
            inputs=shown,
            outputs=(Value(name="likeness", shape=view, says="-1 to 1"),),
        ),
        Part(
            name="match_patches",
            says="carries a mask over from the neighbouring slice, patch by patch",
            inputs=shown,
            outputs=(
                Value(name="moved", shape=view, says="the mask as its patches have moved, 0 to 1"),
                Value(name="quality", shape=view, says="how well the patches fit, 0 to 1"),
            ),
        ),
        Part(
            name="encoder",
            says="encodes a slice together with what it is shown beside",
            inputs=(
                Value(name="planes", shape=("batch", len(PLANES), size, size), says="see constants.planes"),
            ),
            outputs=(fine, *levels, level2),
        ),
        Part(
            name="memory_reader",
            says="looks back at any number of slices, of one object or of several with the same slices",
            inputs=(
                level2,
                shared_values.spatial(side),
                shared_values.CODES,
                Value(
                    name="squares",
                    shape=("memories", 3),
                    says="left, top and side of each memory's view in sides of today's; 0, 0, 1 for the same",
                ),
                shared_values.pointers(MEMORY_DIM),
                shared_values.distances("distance_unit"),
            ),
            outputs=(conditioned,),
        ),
        Part(
            name="without_memory",
            says="takes the place of memory_reader where there is nothing to look back at",
            inputs=(level2,),
            outputs=(conditioned,),
        ),
        Part(
            name="decoder",
            says="finds the object in the slice",
            inputs=(fine, *levels, conditioned),
            outputs=(
                Value(name="mask_logits", shape=("batch", 1, size, size), says="above 0 inside the object"),
                Value(name="overlap", shape=("batch", 1), says="predicted overlap with the truth, 0 to 1"),
                shared_values.OBJECT_LOGITS,
                pooled,
                seen,
            ),
        ),
        Part(
            name="cell_shares",
            says="brings a mask to the cells of a memory",
            inputs=(
                Value(
                    name="probability", shape=("batch", 1, size, size), says="sigmoid of the mask's logits"
                ),
            ),
            outputs=(shares,),
        ),
        Part(
            name="memory_writer",
            says="turns a slice and its mask into a memory",
            inputs=(seen, shares),
            outputs=(shared_values.memory(side),),
        ),
        Part(
            name="object_pointer",
            says="turns what was found into an object pointer",
            inputs=(pooled,),
            outputs=(shared_values.pointer(MEMORY_DIM),),
        ),
    )


def _procedures(parts: dict[str, Part]) -> dict[str, list[Step]]:
    def cue(name: str, reference: str, inside: str, **made: str) -> Step:
        return call(parts[name], reference=reference, inside=inside, current="grey", **made)

    planes = work(
        "Stack the planes in the order of constants.planes. A plane that nothing is known of is zeros.",
        planes="(1, 16, image_size, image_size)",
    )
    remember = [
        work("Keep the mask's probability.", probability="sigmoid of mask_logits"),
        call(parts["cell_shares"]),
        call(parts["memory_writer"]),
        call(parts["object_pointer"], "Keep memory and pointer for the slices that follow."),
    ]
    show = work(
        "Cut the view out of the slice and of its two neighbours, set the window to 0..1, and resample them "
        "bilinearly to the network's side.",
        grey="(1, image_size, image_size)",
        before="the slice that the walk comes from",
        beyond="the slice on the other side",
    )
    return {
        "prompted_slice": [
            show,
            work(
                "Draw the prompt in pixels of the view: the box as ones, a click as a disc of click_radius. "
                "The plane is_prompted is ones.",
                box="(1, image_size, image_size) of 0 and 1",
                clicks_inside="the same",
                clicks_outside="the same",
            ),
            cue("grey_likeness", "grey", "box", likeness="grey_like_key"),
            cue("context_likeness", "grey", "box", likeness="context_like_key"),
            planes,
            call(parts["encoder"]),
            call(parts["without_memory"]),
            call(parts["decoder"]),
            *remember,
        ],
        "next_slice": [
            show,
            work(
                "Bring the mask of the slice before, and the prompted slice with its mask, to today's view.",
                prior="probability of the mask of the slice before",
                key_slice="greys of the prompted slice",
                key_mask="probability of its mask",
            ),
            cue("grey_likeness", "key_slice", "key_mask", likeness="grey_like_key"),
            cue("grey_likeness", "before", "prior", likeness="grey_like_before"),
            cue("context_likeness", "key_slice", "key_mask", likeness="context_like_key"),
            cue("context_likeness", "before", "prior", likeness="context_like_before"),
            cue("match_patches", "before", "prior", moved="matched", quality="match_quality"),
            planes,
            call(parts["encoder"]),
            work(
                "Stack what is kept: the prompted slice with code 6, then the last six slices from the "
                "farthest to the nearest, the one just passed with code 0. A memory comes with its pointer.",
                spatial="(1, M, 64, grid, grid)",
                codes="(M,)",
                squares="(M, 3)",
                pointers="(1, M, 64)",
                distances="(M,)",
            ),
            call(parts["memory_reader"]),
            call(parts["decoder"]),
            work(
                "Drop connected parts of the mask that do not touch the mask of the slice before: their "
                "logits become out_of_reach_logit.",
                mask_logits="(1, 1, image_size, image_size)",
            ),
            *remember,
        ],
    }


def compact_chain(config: CompactConfig) -> Chain:
    """Say which parts a compact network has, and how to run them."""
    parts = _parts(config)
    return Chain(
        network="compact",
        config=dataclasses.asdict(config),
        constants={
            "image_size": config.image_size,
            "planes": list(PLANES),
            "mask_threshold": 0.0,
            "out_of_reach_logit": carried_track.OUT_OF_REACH_LOGIT,
            "click_radius": click_radius(config.image_size),
            "view_over_box": zoom.CLOSE_ZOOM,
            "least_view_side": zoom.CLOSE_SIDE,
            "view_growth": zoom.GROWTH,
            "most_view_growths": carried_track.MOST_GROWTHS,
            "view_is_kept_within": list(zoom.SAME_SIDE),
            "view_most_drift": zoom.MOST_DRIFT,
            "recent_memories": NUM_RECENT,
            "prompted_code": CONDITIONING_CODE,
            "distance_unit": DISTANCE_UNIT,
            "memories_are_rounded_to": "bfloat16",
        },
        parts=parts,
        procedures=_procedures({part.name: part for part in parts}),
    )
