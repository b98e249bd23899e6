"""The official network in parts: what each computes, and in which order they are run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from medsam2.inference.features import PIXEL_MEAN, PIXEL_STD
from medsam2.inference.onnx import shared_values
from medsam2.inference.onnx.chain import Chain, Part, Step, Value, call, work
from medsam2.model.config import HIGH_RES_DIVISORS, NUM_MASK_TOKENS, ModelConfig
from medsam2.model.mask_decoder import STABILITY_DELTA, STABILITY_THRESHOLD, stable_candidate
from medsam2.model.network import ABSENT_LOGIT, ImageFeatures, Network, PromptEmbedding
from medsam2.tracking.policies import CONDITIONING_CODE, MAX_POINTERS, NUM_RECENT
from medsam2.tracking.step import (
    MASK_PROMPT_LOGIT,
    MAX_POINTS_FOR_CANDIDATES,
    PREVIOUS_LOGIT_LIMIT,
)

FULL_LOGIT = 1000.0  # its sigmoid is 1 in float32, that of its negative 0


def encode_image(network: Network, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`image_encoder`."""
    features = network.encode_image(image)
    return features.level0, features.level1, features.level2


def encode_prompts(
    network: Network, points: Tensor, labels: Tensor, mask_logits: Tensor, has_mask: Tensor
) -> tuple[Tensor, Tensor]:
    """`prompt_encoder`."""
    encoder = network.sam_prompt_encoder
    sparse = encoder.encode_points(points, labels.long())
    earlier = encoder.encode_mask(mask_logits, points.shape[0])
    nothing = encoder.no_mask_embed.weight[:, :, None, None]
    return sparse, torch.where(has_mask[:, None, None, None], earlier, nothing)


def decode_masks(
    network: Network, level0: Tensor, level1: Tensor, conditioned: Tensor, sparse: Tensor, dense: Tensor
) -> tuple[Tensor, ...]:
    """`mask_decoder`."""
    features = ImageFeatures(level0=level0, level1=level1, level2=conditioned)
    prompts = PromptEmbedding(sparse=sparse, dense=dense)
    decoded = network.decode_candidates(features, conditioned, prompts)
    stable = stable_candidate(decoded.mask_logits, decoded.iou)
    return decoded.mask_logits, decoded.iou, decoded.tokens, decoded.object_logits, stable


def encode_memory(
    network: Network, level2: Tensor, mask_logits: Tensor, object_logits: Tensor, is_prompted: Tensor
) -> Tensor:
    """`memory_encoder`; masks of any size, so that a caller need not enlarge them."""
    size = network.config.image_size
    logits = F.interpolate(mask_logits, size=(size, size), mode="bilinear", align_corners=False)
    full = torch.where(logits > 0, FULL_LOGIT, -FULL_LOGIT)
    features = ImageFeatures(level0=level2, level1=level2, level2=level2)
    chosen = torch.where(is_prompted[:, None, None, None], full, logits)
    return network.encode_memory(features, chosen, object_logits, binarise=False)


COMPUTES: Mapping[str, Callable[..., Any]] = {
    "image_encoder": encode_image,
    "prompt_encoder": encode_prompts,
    "mask_decoder": decode_masks,
    "memory_attention": Network.with_memory,
    "without_memory": Network.without_memory,
    "memory_encoder": encode_memory,
    "object_pointer": Network.point_at,
    "drawn_mask": Network.mask_as_prompt,
}
"""What each part computes of the network and its inputs."""


def _parts(config: ModelConfig) -> tuple[Part, ...]:
    size, side, mask, dim = config.image_size, config.grid_size, config.mask_size, config.hidden_dim
    c0, c1 = (dim // divisor for divisor in HIGH_RES_DIVISORS)
    level0 = Value(name="level0", shape=("batch", c0, mask, mask), says="features at a stride of 4")
    level1 = Value(name="level1", shape=("batch", c1, mask // 2, mask // 2), says="features, stride 8")
    level2, conditioned = shared_values.level2_before(dim, side), shared_values.level2_after(dim, side)
    sparse = Value(name="sparse", shape=("batch", "tokens", dim), says="prompt tokens, one more than points")
    dense = Value(name="dense", shape=level2.shape, says="prompt map")
    return (
        Part(
            name="image_encoder",
            says="encodes a slice once, for all objects in it",
            inputs=(
                Value(
                    name="image",
                    shape=("batch", 3, size, size),
                    says="(grey / 255 - pixel_mean) / pixel_std in each channel, grey 0 to 255 of the window",
                ),
            ),
            outputs=(level0, level1, level2),
        ),
        Part(
            name="prompt_encoder",
            says="encodes clicks, boxes and an earlier mask",
            inputs=(
                Value(name="points", shape=("batch", "points", 2), says="(x, y) in pixels of the image"),
                Value(
                    name="labels",
                    shape=("batch", "points"),
                    dtype="int32",
                    says="0 outside, 1 inside, 2 and 3 the corners of a box, -1 no point",
                ),
                Value(name="previous", shape=("batch", 1, mask, mask), says="logits of an earlier mask"),
                Value(name="has_previous", shape=(1,), dtype="bool", says="whether `previous` counts"),
            ),
            outputs=(sparse, dense),
        ),
        Part(
            name="mask_decoder",
            says="finds the object: one mask for clear prompts, three for one click or none",
            inputs=(level0, level1, conditioned, sparse, dense),
            outputs=(
                Value(
                    name="candidates",
                    shape=("batch", NUM_MASK_TOKENS, mask, mask),
                    says="mask logits: 0 for clear prompts, 1 to 3 for ambiguous ones",
                ),
                Value(name="iou", shape=("batch", NUM_MASK_TOKENS), says="predicted overlap with the truth"),
                Value(name="tokens", shape=("batch", NUM_MASK_TOKENS, dim), says="tokens of the candidates"),
                shared_values.OBJECT_LOGITS,
                Value(
                    name="stable_index",
                    shape=("batch",),
                    dtype="int64",
                    says="0, or the best of candidates 1 to 3 where candidate 0 is unstable",
                ),
            ),
        ),
        Part(
            name="memory_attention",
            says="looks back at any number of slices",
            inputs=(
                level2,
                shared_values.spatial(side),
                shared_values.CODES,
                shared_values.pointers(dim),
                shared_values.distances("pointer_unit"),
            ),
            outputs=(conditioned,),
        ),
        Part(
            name="without_memory",
            says="takes the place of memory_attention on a slice that is prompted before any tracking",
            inputs=(level2,),
            outputs=(conditioned,),
        ),
        Part(
            name="memory_encoder",
            says="turns a slice and its mask into a memory",
            inputs=(
                level2,
                Value(
                    name="mask_logits", shape=("batch", 1, "rows", "columns"), says="the mask, of any size"
                ),
                shared_values.OBJECT_LOGITS,
                Value(
                    name="is_prompted", shape=(1,), dtype="bool", says="whether a prompt lies on the slice"
                ),
            ),
            outputs=(shared_values.memory(side),),
        ),
        Part(
            name="object_pointer",
            says="turns the chosen candidate's token into an object pointer",
            inputs=(
                Value(name="token", shape=("batch", dim), says="of the chosen candidate"),
                Value(
                    name="is_present",
                    shape=("batch", 1),
                    dtype="bool",
                    says="whether object_logits is above 0",
                ),
            ),
            outputs=(shared_values.pointer(dim),),
        ),
        Part(
            name="drawn_mask",
            says="brings a mask that a user has drawn to the size of an earlier mask",
            inputs=(Value(name="mask", shape=("batch", 1, size, size), says="0 and 1"),),
            outputs=(
                Value(name="mask_prompt", shape=("batch", 1, mask, mask), says="takes the place of previous"),
            ),
        ),
    )


def _procedures(parts: dict[str, Part]) -> dict[str, list[Step]]:
    choose = work(
        "Choose among the candidates. With at most one point: the one of 1 to 3 with the largest iou, and "
        "its token. With more: the one of stable_index, and token 0. Where object_logits is not above 0, the "
        "mask is absent_logit everywhere.",
        mask_logits="the chosen candidate, (batch, 1, mask_size, mask_size); a pixel above 0 is the object's",
        token="the chosen token, (batch, channels)",
        is_present="object_logits > 0",
    )
    decode = [
        call(parts["prompt_encoder"]),
        call(parts["mask_decoder"]),
        choose,
        call(parts["object_pointer"]),
    ]
    read = work(
        "Cut the view out of the slice, set the window to 0..255, resample it to the network's side and "
        "normalise it.",
        image="(1, 3, image_size, image_size)",
    )
    prompt = work(
        "Bring the prompt to pixels of the image. A box is two points with labels 2 and 3. Without an "
        "earlier mask `previous` is zeros; an earlier one is limited to plus and minus previous_logit_limit.",
        points="(1, N, 2)",
        labels="(1, N)",
        previous="(1, 1, mask_size, mask_size)",
        has_previous="(1,)",
    )
    remember = call(parts["memory_encoder"], "Keep memory and pointer for the slices that follow.")
    look_back = work(
        "Stack what is kept: every prompted slice with code 6, then the last six slices from the farthest to "
        "the nearest, the one just passed with code 0. Pointers: of prompted slices that lie behind and of "
        "the last fifteen slices.",
        spatial="(1, M, 64, grid, grid)",
        codes="(M,)",
        pointers="(1, P, channels)",
        distances="(P,)",
    )
    nothing = work(
        "No prompt: one point (0, 0) with label -1, and no earlier mask.",
        points="(1, 1, 2) of zeros",
        labels="(1, 1) of -1",
        previous="(1, 1, mask_size, mask_size) of zeros",
        has_previous="false",
    )
    encode = call(parts["image_encoder"])
    prompted = work("A prompt lies on this slice.", is_prompted="true")
    tracked = work("No prompt lies on this slice.", is_prompted="false")
    return {
        "prompted_slice": [read, encode, prompt, call(parts["without_memory"]), *decode, prompted, remember],
        "next_slice": [
            read,
            encode,
            look_back,
            call(parts["memory_attention"]),
            nothing,
            *decode,
            tracked,
            remember,
        ],
        "drawn_slice": [
            read,
            encode,
            work("Bring the drawn mask to pixels of the image.", mask="(1, 1, image_size, image_size)"),
            call(parts["drawn_mask"], mask_prompt="previous"),
            work(
                "No points.",
                points="(1, 1, 2) of zeros",
                labels="(1, 1) of -1",
                has_previous="true",
                conditioned="level2 itself",
            ),
            call(parts["prompt_encoder"]),
            call(parts["mask_decoder"]),
            work(
                "The drawn mask is the result. The decoder only gives the token.",
                token="token 0",
                is_present="object_logits > 0, and the drawn mask is not empty",
                mask_logits="mask_prompt_logit inside and its negative outside",
            ),
            call(parts["object_pointer"]),
            prompted,
            remember,
        ],
    }


def official_chain(config: ModelConfig) -> Chain:
    """Say which parts an official network has, and how to run them."""
    parts = _parts(config)
    return Chain(
        network="official",
        config=dataclasses.asdict(config),
        constants={
            "image_size": config.image_size,
            "mask_size": config.mask_size,
            "pixel_mean": list(PIXEL_MEAN),
            "pixel_std": list(PIXEL_STD),
            "mask_threshold": 0.0,
            "absent_logit": ABSENT_LOGIT,
            "previous_logit_limit": PREVIOUS_LOGIT_LIMIT,
            "mask_prompt_logit": MASK_PROMPT_LOGIT,
            "most_points_for_candidates": MAX_POINTS_FOR_CANDIDATES,
            "stability_delta": STABILITY_DELTA,
            "stability_threshold": STABILITY_THRESHOLD,
            "recent_memories": NUM_RECENT,
            "prompted_code": CONDITIONING_CODE,
            "most_pointers": MAX_POINTERS,
            "pointer_unit": "min(number of slices, most_pointers) - 1",
            "memories_are_rounded_to": "bfloat16",
        },
        parts=parts,
        procedures=_procedures({part.name: part for part in parts}),
    )
