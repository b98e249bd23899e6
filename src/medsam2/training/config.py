"""A training run as values, read from a TOML recipe by one strict loader."""

from __future__ import annotations

import dataclasses
import tomllib
import types
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import TypeVar, get_args, get_origin, get_type_hints

from medsam2.errors import InputError
from medsam2.model.compact.config import CompactConfig
from medsam2.model.config import PRESETS

T = TypeVar("T")

PARTS = ("image_encoder", "memory_attention", "memory_encoder", "sam_prompt_encoder", "sam_mask_decoder")
"""Parts of the official network that can be frozen."""


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Random changes to the official network's clips, beside flips, turns and greys; by default none."""

    by_modality: bool = False
    """Change greys with MONAI as the modality would: a bias field in MR, noise in CT, and so on."""
    rotation_degrees: float = 0.0
    """Largest rotation of a clip in the plane."""
    shear_degrees: float = 0.0
    """Largest shear of a clip along x."""
    scale: tuple[float, float] = (1.0, 1.0)
    """Magnification of a clip, drawn evenly from this range."""
    moving_share: float = 0.0
    """Share of clips whose slices move one by one, as with breathing or a hand-held probe."""
    moving_shift: float = 0.02
    """Largest shift of such a slice, as a part of the input's side."""
    moving_degrees: float = 3.0
    """Largest rotation of such a slice."""
    return_share: float = 0.0
    """Share of clips that turn round in the middle and come back, as a heart beats."""

    def __post_init__(self) -> None:
        _check_shares(self, "moving_share", "return_share")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise InputError(f"augment: scale is a range of numbers above 0, not {list(self.scale)}")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What the clips are cut from and how."""

    stacks: int = 500
    """Generated stacks to learn from; those prepared from scans are counted (`stack_files.use_stacks`)."""
    validation_stacks: int = 24
    """Stacks to validate on; their seeds come after the others."""
    first_seed: int = 0
    """Seed of the first stack."""
    zoom: tuple[float, float] = (2.0, 4.5)
    """Side of the view over the longest side of the object's box, drawn evenly from this range."""
    min_side: tuple[int, int] = (56, 128)
    """Smallest side of the view in pixels of the stack, drawn evenly from this range."""
    single_share: float = 0.0
    """Share of steps with single prompted slices of more objects, as many slices as the clips would have;
    for the compact network. Without it, it would see one prompted slice in each clip."""
    far_share: float = 0.0
    """Share of clips seen from further away, as a first click is; for the compact network."""
    far_zoom: tuple[float, float] = (4.0, 8.0)
    """Side of their view over the longest side of the object's box."""
    center_shift: float = 0.08
    """Largest shift of the view from the box's middle, as a part of its side."""
    min_area: int = 12
    """Pixels an object must have in the slice that is prompted."""
    whole_slices: bool = False
    """Show whole slices, as for the official network, and not a square around the object."""
    painted_share: float = 0.4
    """Share of clips from painted stacks, where there are any; for the compact network."""
    still_share: float = 0.12
    """Share of clips from stills, where there are any; for the compact network."""
    leave_out: tuple[str, ...] = ()
    """Data sets to train without, to measure how far the others help with them; for the compact network."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        _check_shares(self, "single_share", "far_share", "painted_share", "still_share")
        if self.painted_share + self.still_share > 1:
            raise InputError(
                "painted_share and still_share are shares of the same clips; their sum is 1 at most, "
                f"not {self.painted_share:g} and {self.still_share:g}"
            )


@dataclass(frozen=True, kw_only=True)
class PromptConfig:
    """What the simulated user does."""

    point_share: float = 0.12
    """Share of batches that begin with a click; of clips, where the network is the compact one."""
    mask_share: float = 0.12
    """Share that begins with a drawn mask; the rest begin with a box."""
    box_noise: float = 0.1
    """Largest shift of a box's end, as a part of its side."""
    correction_share: float = 0.25
    """Share of prompted slices that get corrections after the first result."""
    late_correction_share: float = 0.1
    """Share of tracked slices that get a correcting click."""
    disturbed_share: float = 0.0
    """Share of tracked slices for which the mask of the slice before is corrected, grown, shrunk or shifted;
    for the compact network."""
    lost_share: float = 0.0
    """Share of tracked slices for which the mask of the slice before is withheld: only the memory bank tells
    where the object is, or that it has ended; for the compact network."""
    closer_share: float = 0.0
    """Share of batches whose views close in on the objects in the middle of the clips; for the compact
    network."""
    max_corrections: int = 3
    """Correcting clicks at most."""
    second_mask_share: float = 0.0
    """Share of batches in which a later slice gets a mask prompt as well, before any slice is tracked; for
    the official network. A mask can be empty where the object has ended; a box cannot."""


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the loss terms; the defaults are MedSAM2's recipe."""

    focal_weight: float = 20.0
    dice_weight: float = 1.0
    iou_weight: float = 1.0
    presence_weight: float = 1.0
    absent_mask_weight: float = 0.0
    """Weight of an empty mask where the object is absent; SAM 2 trains only the presence there."""
    focal_alpha: float = 0.25
    """Weight of the pixels inside against those outside, 0..1."""
    focal_gamma: float = 2.0
    """The higher, the less count the pixels that are right already; 0 is cross-entropy."""
    dice_smoothing: float = 1.0
    """Pixels added to numerator and denominator of Dice: the more, the less small objects count."""


@dataclass(frozen=True, kw_only=True)
class PhaseConfig:
    """A stretch of training with one kind of clip and one learning-rate schedule."""

    name: str
    steps: int
    image_size: int
    """Input side in pixels; less than the network's own makes early steps cheap."""
    batch: int
    """Clips per step."""
    clip_length: int
    """Slices per clip; 1 trains without memory."""
    learning_rate: float
    warmup_steps: int = 100
    final_fraction: float = 0.05
    """Learning rate at the end of the cosine, as a part of the highest."""

    def __post_init__(self) -> None:
        for name in ("steps", "image_size", "batch", "clip_length", "learning_rate"):
            if getattr(self, name) <= 0:
                raise InputError(f"phase {self.name!r}: {name} must be above 0, not {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A whole run."""

    preset: str
    """Name of the network's configuration."""
    phases: tuple[PhaseConfig, ...]
    initial_weights: str | None = None
    """Name or file of the weights to begin with; if not given, random weights."""
    seed: int = 0
    precision: str = "bf16-mixed"
    """Number format, by Lightning Fabric's name."""
    freeze: tuple[str, ...] = ()
    """Parts that are not trained, see `PARTS`. A frozen image encoder takes less memory."""
    encoder_rate: float = 1.0
    """Learning rate of the image encoder, as a part of the phase's."""
    layer_decay: float = 1.0
    """Learning rate of each block of the image encoder over that of the next block; 1 for the same."""
    recompute: bool = False
    """Compute each slice again in the backward pass, not keep it: a quarter slower, far less memory."""
    accumulate: int = 1
    """Parts of a step's batch that are computed one after the other."""
    weight_decay: float = 0.05
    beta2: float = 0.99
    """AdamW's second decay."""
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    """Decay per step of the averaged weights. These are validated and exported."""
    memory_dropout: float = 0.0
    """Dropout inside the memory attention; SAM 2 has 0.1."""
    validate_every: int = 500
    validation_clips: int = 32
    keep_best: bool = False
    """Export the averaged weights of the best validation, not the last; one before step 1 counts."""
    patience: int = 0
    """Stop after so many validations without a better one; 0 never."""
    report_cases: int = 0
    """Objects of the validation stacks that are segmented before and after, for a report; 0 writes none."""
    checkpoint_every: int = 250
    log_every: int = 25
    data: DataConfig = field(default_factory=DataConfig)
    prompts: PromptConfig = field(default_factory=PromptConfig)
    losses: LossConfig = field(default_factory=LossConfig)

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise InputError(f"preset is one of {', '.join(PRESETS)}, not {self.preset!r}")
        if not self.phases:
            raise InputError("a recipe needs at least one [[phases]] table")
        _check_known(self)
        unknown = [name for name in self.freeze if name not in PARTS]
        if unknown:
            raise InputError(f"freeze names parts of the network, {', '.join(PARTS)}, not {unknown[0]!r}")
        if not (0 < self.layer_decay <= 1 and self.encoder_rate > 0):
            raise InputError(
                "layer_decay is above 0 and at most 1, encoder_rate above 0, "
                f"not {self.layer_decay:g} and {self.encoder_rate:g}"
            )
        if (self.keep_best or self.patience) and len(self.phases) > 1:
            raise InputError(
                f"keep_best and patience compare validations of one phase; this recipe has {len(self.phases)}"
            )
        _check_counts(self)

    @property
    def is_compact(self) -> bool:
        """Whether the network is a compact one."""
        return isinstance(PRESETS[self.preset], CompactConfig)

    @property
    def num_steps(self) -> int:
        """Steps of all phases."""
        return sum(phase.steps for phase in self.phases)

    def phase_at(self, step: int) -> tuple[PhaseConfig, int]:
        """Find the phase that a step belongs to and the step's number in it."""
        for phase in self.phases:
            if step < phase.steps:
                return phase, step
            step -= phase.steps
        return self.phases[-1], self.phases[-1].steps


_OFFICIAL_ONLY = (
    "freeze", "encoder_rate", "layer_decay", "recompute", "memory_dropout", "data.whole_slices",
    *(f"data.augment.{setting.name}" for setting in dataclasses.fields(AugmentConfig)),
    "prompts.second_mask_share",
)  # fmt: skip
_COMPACT_ONLY = (
    "data.single_share", "data.far_share", "data.far_zoom", "data.painted_share", "data.still_share",
    "data.leave_out", "prompts.disturbed_share", "prompts.lost_share",
)  # fmt: skip


def _check_known(config: TrainConfig) -> None:
    """Refuse settings that have no effect on this network."""
    whose, names = ("official", _OFFICIAL_ONLY) if config.is_compact else ("compact", _COMPACT_ONLY)
    for name in names:
        path, _, setting = name.rpartition(".")
        part = attrgetter(path)(config) if path else config
        if getattr(part, setting) != getattr(type(part), setting):  # of a class, the default
            raise InputError(
                f"{name} is for the {whose} network alone; leave it out of a recipe for {config.preset}"
            )


def _check_counts(config: TrainConfig) -> None:
    if config.accumulate < 1 or config.patience < 0 or config.report_cases < 0:
        raise InputError(
            "accumulate starts at 1, patience and report_cases at 0, "
            f"not {config.accumulate}, {config.patience} and {config.report_cases}"
        )
    for phase in config.phases:
        if phase.batch % config.accumulate:
            raise InputError(
                f"phase {phase.name!r}: a batch of {phase.batch} cannot be worked through in "
                f"{config.accumulate} equal parts (accumulate)"
            )


def _check_shares(config: object, *names: str) -> None:
    for name in names:
        if not 0 <= getattr(config, name) <= 1:
            raise InputError(f"{name} is a share, 0 to 1, not {getattr(config, name):g}")


def read_recipe(path: Path) -> TrainConfig:
    """Read a recipe.

    Raises:
        InputError: The file is missing, is no TOML, or has a key or value that is not known.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"no such recipe: {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not TOML: {error}") from error
    return _from_table(TrainConfig, table, str(path))


def as_table(config: TrainConfig) -> dict[str, object]:
    """Turn a run's values into plain ones, as they are stored with it."""
    return dataclasses.asdict(config)


def _from_table(cls: type[T], table: object, where: str) -> T:
    """Build a dataclass from a TOML table; every key must be one of its fields."""
    if not isinstance(table, dict):
        raise InputError(f"{where} must be a table")
    hints = get_type_hints(cls)
    unknown = sorted(set(table) - set(hints))
    if unknown:
        raise InputError(f"{where} has no setting {unknown[0]!r}; it has {', '.join(hints)}")
    values = {key: _convert(hints[key], value, f"{where}: {key}") for key, value in table.items()}
    try:
        return cls(**values)
    except TypeError as error:
        raise InputError(f"{where}: {error}") from error


def _convert(hint: object, value: object, where: str) -> object:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _from_table(hint, value, where)
    if get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise InputError(f"{where} must be a list")
        inner, *rest = get_args(hint)
        if Ellipsis not in rest and len(value) != 1 + len(rest):
            raise InputError(f"{where} must have {1 + len(rest)} values, not {len(value)}")
        return tuple(_convert(inner, item, f"{where}[{index}]") for index, item in enumerate(value))
    accepted = get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if float in accepted and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) not in accepted:
        names = " or ".join(getattr(a, "__name__", str(a)) for a in accepted)
        raise InputError(f"{where} must be {names}, not {value!r}")
    return value
