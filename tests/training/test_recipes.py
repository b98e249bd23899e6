"""Recipes: every one we publish loads, and what is not known is refused by name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from medsam2.errors import InputError
from medsam2.model.config import PRESETS
from medsam2.training.config import as_table, read_recipe
from medsam2.weights import SPECS

RECIPE_FOLDER = Path(__file__).resolve().parents[2] / "recipes"
RECIPES = sorted(RECIPE_FOLDER.glob("*.toml"))
PHASE = """
[[phases]]
name = "only"
steps = 10
image_size = 64
batch = 1
clip_length = 2
learning_rate = 1e-3
"""
MINIMAL = 'preset = "compact"\n' + PHASE
OFFICIAL = 'preset = "tiny-512"\n' + PHASE


def _read(tmp_path: Path, text: str):
    path = tmp_path / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return read_recipe(path)


def test_there_are_recipes() -> None:
    assert RECIPES


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_published_recipes_load(path: Path) -> None:
    config = read_recipe(path)
    assert config.num_steps == sum(phase.steps for phase in config.phases) > 0
    for phase in config.phases:
        assert phase.image_size % 32 == 0
        assert 0 < phase.warmup_steps < phase.steps
        assert 0 < phase.learning_rate < 0.1
    assert as_table(config)["preset"] == config.preset


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_published_recipes_begin_from_weights_of_their_network(path: Path) -> None:
    config = read_recipe(path)
    if config.initial_weights is not None:
        assert SPECS[config.initial_weights].preset == config.preset
    if config.initial_weights is not None and len(config.phases) == 1:  # one's own scans, in one go
        assert config.keep_best
        assert config.report_cases
        assert config.phases[0].image_size == PRESETS[config.preset].image_size
        assert config.data.whole_slices == (config.preset == "tiny-512"), "as the predictor looks at slices"


def test_fine_tuning_shows_what_training_has_shown() -> None:
    trained, tuned = (
        as_table(read_recipe(RECIPE_FOLDER / name)) for name in ("compact.toml", "compact-finetune.toml")
    )
    assert tuned["losses"] == trained["losses"]
    assert tuned["prompts"] == trained["prompts"]
    own = {"painted_share": 0.0, "still_share": 0.5}
    assert tuned["data"] == {**trained["data"], **own}


def test_the_papers_recipe_is_the_papers(tmp_path: Path) -> None:
    config = read_recipe(RECIPE_FOLDER / "medsam2-finetune.toml")
    phase, losses = config.phases[0], config.losses
    assert (phase.learning_rate, config.encoder_rate, config.layer_decay) == (5e-5, 0.6, 0.9)
    assert (phase.clip_length, phase.batch, phase.final_fraction) == (8, 8, 0.1)
    assert (config.weight_decay, config.clip_norm) == (0.1, 0.1)
    assert (losses.focal_weight, losses.dice_weight, losses.iou_weight, losses.presence_weight) == (
        20,
        1,
        1,
        1,
    )
    assert (losses.focal_alpha, losses.focal_gamma, config.prompts.box_noise) == (0.25, 2.0, 0.1)


def test_the_low_memory_keys_of_the_recipe_work(tmp_path: Path) -> None:
    text = (RECIPE_FOLDER / "medsam2-finetune.toml").read_text(encoding="utf-8")
    keys = [
        line.strip("# ").split("#")[0]
        for line in text.splitlines()
        if line.startswith("#     ") and "=" in line
    ]
    assert len(keys) == 3
    config = _read(tmp_path, "\n".join([*keys, text]))
    assert (config.recompute, config.accumulate, config.freeze) == (True, 8, ("image_encoder",))


def test_a_minimal_recipe_has_the_defaults(tmp_path: Path) -> None:
    config = _read(tmp_path, MINIMAL + "\n[data]\nzoom = [2, 4]\n")
    assert config.data.zoom == (2.0, 4.0), "a whole number is a number"
    assert all(type(limit) is float for limit in config.data.zoom)
    assert config.losses.focal_weight == 20.0
    assert config.phases[0].warmup_steps == 100
    assert config.initial_weights is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("sead = 1\n" + MINIMAL, "has no setting 'sead'; it has preset, phases, "),
        (MINIMAL + "rate = 1\n", "phases[0] has no setting 'rate'; it has name, steps, "),
        (MINIMAL + "[losses]\nfocal = 2.0\n", "losses has no setting 'focal'; it has focal_weight, "),
        ("seed = 1.5\n" + MINIMAL, "seed must be int, not 1.5"),
        ("seed = true\n" + MINIMAL, "seed must be int, not True"),
        ('weight_decay = "0.1"\n' + MINIMAL, "weight_decay must be float, not '0.1'"),
        ("weight_decay = true\n" + MINIMAL, "weight_decay must be float, not True"),
        ("initial_weights = 3\n" + MINIMAL, "initial_weights must be str or NoneType, not 3"),
        (MINIMAL + "[data]\nzoom = 3.0\n", "data: zoom must be a list"),
        (MINIMAL + '[data]\nzoom = [1.0, "2"]\n', "data: zoom[1] must be float, not '2'"),
        ("data = 3\n" + MINIMAL, "data must be a table"),
        ("phases = [1]\npreset = 'compact'\n", "phases[0] must be a table"),
        ('preset = "huge"\n' + PHASE, "preset is one of tiny-512, compact, not 'huge'"),
        ('preset = "compact"\nphases = []\n', "a recipe needs at least one [[phases]] table"),
        ('freeze = ["neck"]\n' + OFFICIAL, "freeze names parts of the network, image_encoder, "),
        (
            "layer_decay = 0\n" + OFFICIAL,
            "layer_decay is above 0 and at most 1, encoder_rate above 0, not 0 and 1",
        ),
        (
            "accumulate = 0\n" + MINIMAL,
            "accumulate starts at 1, patience and report_cases at 0, not 0, 0 and 0",
        ),
        ("accumulate = 2\n" + MINIMAL, "a batch of 1 cannot be worked through in 2 equal parts (accumulate)"),
        ("patience = 3\n" + MINIMAL + PHASE, "compare validations of one phase; this recipe has 2"),
        (
            MINIMAL + "[data.augment]\nscale = [1.2, 0.8]\n",
            "scale is a range of numbers above 0, not [1.2, 0.8]",
        ),
        (MINIMAL + "[data.augment]\nmoving_share = 2.0\n", "moving_share is a share, 0 to 1, not 2"),
        (MINIMAL + "[data]\nstill_share = -0.1\n", "still_share is a share, 0 to 1, not -0.1"),
        (
            MINIMAL + "[data]\npainted_share = 0.6\nstill_share = 0.5\n",
            "still_share are shares of the same clips; their sum is 1 at most, not 0.6 and 0.5",
        ),
        (PHASE, "missing 1 required keyword-only argument: 'preset'"),
        (MINIMAL.replace("steps = 10\n", ""), "missing 1 required keyword-only argument: 'steps'"),
        ("preset = \n", "is not TOML: "),
    ],
)
def test_refusals(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(InputError) as refused:
        _read(tmp_path, text)
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    ("table", "setting"),
    [
        ("", 'freeze = ["image_encoder"]'),
        ("", "encoder_rate = 0.5"),
        ("", "layer_decay = 0.9"),
        ("", "recompute = true"),
        ("", "memory_dropout = 0.1"),
        ("data", "whole_slices = true"),
        ("data.augment", "by_modality = true"),
        ("data.augment", "rotation_degrees = 10.0"),
        ("data.augment", "scale = [0.9, 1.1]"),
        ("prompts", "second_mask_share = 0.5"),
    ],
)
def test_what_only_the_official_network_heeds(tmp_path: Path, table: str, setting: str) -> None:
    assert _read(tmp_path, _with(OFFICIAL, table, setting))
    name = f"{table}.{setting.split()[0]}".removeprefix(".")
    sentence = f"{name} is for the official network alone; leave it out of a recipe for compact"
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}$"):
        _read(tmp_path, _with(MINIMAL, table, setting))


@pytest.mark.parametrize(
    ("table", "setting"),
    [
        ("data", 'leave_out = ["a set"]'),
        ("data", "painted_share = 0.0"),
        ("data", "still_share = 0.5"),
        ("data", "single_share = 0.5"),
        ("data", "far_share = 0.1"),
        ("data", "far_zoom = [5, 6]"),
        ("prompts", "disturbed_share = 0.1"),
        ("prompts", "lost_share = 0.1"),
    ],
)
def test_what_only_the_compact_network_heeds(tmp_path: Path, table: str, setting: str) -> None:
    assert _read(tmp_path, _with(MINIMAL, table, setting))
    name = f"{table}.{setting.split()[0]}"
    with pytest.raises(
        InputError, match=f"^{re.escape(name)} is for the compact network alone; .* tiny-512$"
    ):
        _read(tmp_path, _with(OFFICIAL, table, setting))


def _with(recipe: str, table: str, setting: str) -> str:
    return f"{recipe}\n[{table}]\n{setting}\n" if table else f"{setting}\n{recipe}"


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such recipe: "):
        read_recipe(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is not TOML: "):
        read_recipe(tmp_path / "binary.toml")


def test_a_step_belongs_to_its_phase(tmp_path: Path) -> None:
    second = PHASE.replace('"only"', '"second"').replace("steps = 10", "steps = 3")
    config = _read(tmp_path, MINIMAL + second)
    assert config.num_steps == 13
    found = {step: config.phase_at(step) for step in (0, 9, 10, 12)}
    assert {step: (phase.name, index) for step, (phase, index) in found.items()} == {
        0: ("only", 0),
        9: ("only", 9),
        10: ("second", 0),
        12: ("second", 2),
    }
