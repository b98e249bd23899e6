"""Recipes: every one we publish loads, and what is not known is refused by name."""

from __future__ import annotations

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
MINIMAL = 'preset = "compact-256"\n' + PHASE


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
        assert config.keep_best
        assert config.report_cases
        assert config.phases[0].image_size == PRESETS[config.preset].image_size
        assert config.data.whole_slices == (config.preset == "tiny-512"), "as the predictor looks at slices"


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
        ("phases = [1]\npreset = 'compact-256'\n", "phases[0] must be a table"),
        ('preset = "huge"\n' + PHASE, "preset is one of tiny-512, compact-256, not 'huge'"),
        ('preset = "compact-256"\nphases = []\n', "a recipe needs at least one [[phases]] table"),
        ('freeze = ["neck"]\n' + MINIMAL, "freeze names parts of the network, image_encoder, "),
        (
            "layer_decay = 0\n" + MINIMAL,
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
        (PHASE, "missing 1 required keyword-only argument: 'preset'"),
        (MINIMAL.replace("steps = 10\n", ""), "missing 1 required keyword-only argument: 'steps'"),
        ("preset = \n", "is not TOML: "),
    ],
)
def test_refusals(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(InputError) as refused:
        _read(tmp_path, text)
    assert sentence in str(refused.value)


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
