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
from medsam2.model.network import ABSENT_LOGIT
from medsam2.tracking import cues
from medsam2.tracking.carried import DISTANCE_UNIT, LEAST_OVERLAP
from medsam2.tracking.planes import click_radius
from medsam2.tracking.policies import CONDITIONING_CODE, NUM_RECENT
from medsam2.tracking.step import MASK_PROMPT_LOGIT


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
    def cues_of(origin: str, reference: str, inside: str) -> list[Step]:
        shown = {"reference": reference, "inside": inside, "current": "grey"}
        return [
            call(parts["grey_likeness"], likeness=f"grey_like_{origin}", **shown),
            call(parts["context_likeness"], likeness=f"context_like_{origin}", **shown),
        ]

    planes = work(
        "Stack the planes in the order of `planes`. A plane that nothing is known of is zeros.",
        planes="(1, 16, image_size, image_size)",
    )
    remember = [
        work("Keep the mask's probability.", probability="sigmoid of mask_logits"),
        call(parts["cell_shares"]),
        call(parts["memory_writer"]),
        call(
            parts["object_pointer"],
            "Keep memory and pointer for the slices that follow, rounded as memories_are_rounded_to says. "
            "The mask is what lies above mask_threshold when mask_logits are brought to the slice's pixels.",
        ),
    ]
    show = work(
        "Cut the view out of the slice and of its two neighbours, black beyond the slice's edge. Set the "
        "window to 0..255 and cut fractions off. Resample to the network's side by Pillow's bilinear filter "
        "for 8 bits, which joins pixels where the view is larger. Divide by 255. Beyond the first and the "
        "last slice, that slice is shown.",
        grey="(1, image_size, image_size)",
        before="the slice that the walk comes from; of a prompted slice, the one of the lower index",
        beyond="the slice on the other side",
    )
    draw = work(
        "Draw the prompt in pixels of the view: the box as ones, a click as a disc of click_radius. "
        "The plane is_prompted is ones.",
        box="(1, image_size, image_size) of 0 and 1",
        clicks_inside="the same",
        clicks_outside="the same",
    )
    alone = [planes, call(parts["encoder"]), call(parts["without_memory"]), call(parts["decoder"])]
    rough = work("Where prior is nowhere above 0.5, the box takes its place.", rough="prior or box")
    walked = [
        *cues_of("key", "key_slice", "key_mask"),
        *cues_of("before", "before", "carried"),
        call(
            parts["match_patches"], reference="before", inside="carried", current="grey", moved="matched",
            quality="match_quality",
        ),
        planes,
        call(parts["encoder"]),
        work(
            "Stack what is kept: the prompted slice with prompted_code, then the recent_memories last slices "
            "from the farthest to the nearest, the one just passed with code 0. A memory comes with its "
            "pointer, and the distance of its slice in units of distance_unit slices.",
            spatial="(1, M, 64, grid, grid)",
            codes="(M,)",
            squares="(M, 3)",
            pointers="(1, M, 64)",
            distances="(M,)",
        ),
        call(parts["memory_reader"]),
        call(parts["decoder"]),
    ]  # fmt: skip
    bring = {
        "carried": "probability of the mask of the slice before",
        "key_slice": "greys of the prompted slice that is nearest; of two as near, the lower one",
        "key_mask": "probability of its mask",
    }
    correct = (
        "The prior is the probability of the slice's mask as it is, in its view. Widen the view by "
        "view_growth until it covers the prompt; where it did not reach before, the logit is absent_logit."
    )
    place = work(
        "Place a square view on the middle of the prompt, view_over_box times as wide as its longest side, "
        "rounded, and least_view_side at least. It is at most as wide as the slice's longer side, and moves "
        "to lie in the slice where it can."
    )
    follow = work(
        "Let the view follow the mask of the slice before. Its best side is that of a view placed on the "
        "mask. Within view_is_kept_within of the side that it has, that one stays; and if the middles are at "
        "most view_most_drift of it apart, the view stays. Else place a view of the best side on the mask, "
        "but let the side grow or shrink by view_growth at most."
    )
    merge = work(
        "Keep the mask as it was but for each new click, in their order. Of a click inside, take over the "
        "logits of those 8-connected parts of what was added that lie at the clicked cells or beside them. "
        "Of one outside, take over those of what was removed. The clicked cells are those that the clicked "
        "pixel is interpolated from; they get plus or minus clicked_logit if they are not on the click's "
        "side.",
        mask_logits="(1, 1, image_size, image_size)",
    )
    best_dice = work(
        "Take the logarithm of overlap, or of least_overlap where that is more, off each logit: what is "
        "above 0 then is the mask with the highest expected Dice.",
        mask_logits="(1, 1, image_size, image_size)",
    )
    return {
        "prompted_slice": [place, show, draw, *cues_of("key", "grey", "box"), *alone, best_dice, *remember],
        "clicked_slice": [
            work(
                "Clicks alone do not tell how large the object is. Look from near to far: run prompted_slice "
                "to its decoder in squares around the middle of the clicks. The side of the first is "
                "view_over_box / 2 times the longest side of the box around the clicks, and least_view_side "
                "at least; each further one is look_growth times as large. The last side is the slice's "
                "longer one. Choose the answer with the largest overlap, which is 0 for an empty mask; of "
                "equals, the nearest look.",
                best="the chosen mask_logits and their view",
            ),
            work(
                "Place a view on the chosen mask as on a box. If it is the view of the chosen look, that "
                "answer is the result, and the calls up to the decoder are left out. Else bring the mask to "
                "it through the slice's pixels; where the look did not reach, the logit is absent_logit.",
                prior="probability of the chosen mask in the closer view",
            ),
            show,
            draw,
            rough,
            *cues_of("key", "grey", "rough"),
            *alone,
            best_dice,
            *remember,
        ],
        "drawn_slice": [
            work(
                "Place a view on the drawn mask as on a box, and resample the mask to it bilinearly, with "
                "antialiasing; what is 0.5 at least is 1.",
                prior="(1, image_size, image_size) of 0 and 1",
            ),
            show,
            draw,
            rough,
            *cues_of("key", "grey", "rough"),
            *alone,
            work(
                "The drawn mask is the result, and a memory is made of it.",
                mask_logits="mask_prompt_logit where prior is 1, and its negative elsewhere",
            ),
            *remember,
        ],
        "next_slice": [
            follow,
            show,
            work(
                "Bring the mask of the slice before, and the prompted slice with its mask, to today's view; "
                "where a view did not reach, the logit is absent_logit.",
                prior="probability of the mask of the slice before",
                **bring,
            ),
            *walked,
            work(
                "Drop connected parts of the mask that do not touch the mask of the slice before: their "
                "logits become out_of_reach_logit. If the mask reaches an edge of the view that is not the "
                "slice's, widen the view by view_growth and begin anew, most_view_growths times at most.",
                mask_logits="(1, 1, image_size, image_size)",
            ),
            *remember,
        ],
        "corrected_slice": [
            work(f"A prompted slice gets more clicks. {correct}", prior="(1, image_size, image_size)"),
            show,
            draw,
            rough,
            *cues_of("key", "grey", "rough"),
            *alone,
            merge,
            *remember,
        ],
        "corrected_next_slice": [
            work(
                "A slice gets its first clicks after it was found from others. If nothing is known of it, it "
                "is found now, from the nearest slice that shows the object: by next_slice, with "
                f"without_memory in the place of memory_reader. {correct}",
                prior="(1, image_size, image_size)",
            ),
            show,
            draw,
            work(
                "Bring the other masks to the view, as for next_slice. If the slice before is not known, "
                "its planes are zeros.",
                **bring,
            ),
            *walked,
            merge,
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
            "look_growth": zoom.LOOK_GROWTH,
            "absent_logit": ABSENT_LOGIT,
            "mask_prompt_logit": MASK_PROMPT_LOGIT,
            "clicked_logit": carried_track.CLICKED_LOGIT,
            "least_overlap": LEAST_OVERLAP,
            "recent_memories": NUM_RECENT,
            "prompted_code": CONDITIONING_CODE,
            "distance_unit": DISTANCE_UNIT,
            "memories_are_rounded_to": "bfloat16",
        },
        parts=parts,
        procedures=_procedures({part.name: part for part in parts}),
    )
