"""Intensity: which window is chosen, and the arithmetic of greys."""

import numpy as np
import pytest

from medsam2.errors import InputError
from medsam2.imaging.intensity import WINDOW_PRESETS, Window, check_intensities, resolve_window, to_uint8
from medsam2.imaging.volume import Volume


def volume_of(array, modality=None):
    return Volume.from_array(array, modality=modality)


@pytest.fixture
def generator():
    return np.random.default_rng(7)


@pytest.fixture
def ct(generator):
    """A body of tissue in air, in Hounsfield units."""
    array = np.full((20, 40, 40), -1000, np.int16)
    array[:, 8:32, 8:32] = generator.normal(40, 30, (20, 24, 24))
    array[:, 18:20, 18:20] = 700
    return array


@pytest.fixture
def mr(generator):
    """A body of positive values in an empty background."""
    array = np.zeros((20, 40, 40), np.int16)
    array[:, 8:32, 8:32] = generator.integers(100, 900, (20, 24, 24))
    return array


# Choosing


def test_presets_are_intervals_and_cannot_be_changed():
    assert WINDOW_PRESETS["abdomen"] == (-160, 240)
    assert set(WINDOW_PRESETS) == {"abdomen", "bone", "brain", "liver", "lung", "mediastinum", "soft-tissue"}
    assert all(lower < upper for lower, upper in WINDOW_PRESETS.values())
    with pytest.raises(TypeError):
        WINDOW_PRESETS["abdomen"] = (0, 1)


def test_a_preset_is_found_by_name(ct):
    assert resolve_window(volume_of(ct), " Lung ") == Window(-1350, 150, "lung")


def test_a_pair_is_taken_as_it_is(ct):
    assert resolve_window(volume_of(ct), (-100, 300.5)) == Window(-100, 300.5, "caller")


@pytest.mark.parametrize(
    ("window", "message"),
    [
        ("heart", "'heart'.*abdomen.*soft-tissue"),
        ((240, -160), "240 and -160"),
        ((5, 5), "5 and 5"),
        ((0, float("nan")), "nan"),
        ((0, float("inf")), "inf"),
        ((1, 2, 3), r"\(1, 2, 3\)"),
        (("a", "b"), "pair"),
        (7, "not 7"),
    ],
)
def test_impossible_windows_are_refused(ct, window, message):
    with pytest.raises(InputError, match=message):
        resolve_window(volume_of(ct), window)


@pytest.mark.parametrize(
    ("change", "modality", "why"),
    [
        (lambda ct: (ct + 1024).clip(0), None, "none is below"),
        (lambda ct: (ct + 1024).clip(0), "CT", "none is below"),
        (lambda ct: ct - 4000, None, "100% are below the window"),
        (lambda ct: ((ct + 1024) / 4096).astype(np.float32), None, "they lie between"),
        (lambda ct: (ct % 256).astype(np.uint8), None, "they have 8 bits"),
        (lambda ct: ct, "MR", "the file says MR"),
        (lambda ct: ct.clip(0), "PT", "the file says PT"),
    ],
)
def test_a_preset_that_does_not_fit_the_data_is_told(change, modality, why, ct):
    window = resolve_window(volume_of(change(ct), modality), "abdomen")
    assert (window.lower, window.upper, window.source) == (-160, 240, "abdomen")
    assert f"in Hounsfield units, and the scan's numbers do not look like these: {why}" in (window.note or "")


@pytest.mark.parametrize("name", sorted(WINDOW_PRESETS))
def test_a_preset_that_fits_needs_no_word(name, ct):
    assert resolve_window(volume_of(ct, "CT"), name).note is None


def test_a_ct_that_is_declared_and_is_none_is_told(ct):
    window = resolve_window(volume_of((ct + 1024).clip(0), "CT"))
    assert window.source == "soft-tissue"
    assert "do not look like these" in (window.note or "")


def test_hounsfield_units_are_recognised_and_said(ct):
    window = resolve_window(volume_of(ct))
    assert (window.lower, window.upper, window.source) == (-160, 240, "soft-tissue")
    assert window.note == (
        "no window given; data look like Hounsfield units; soft-tissue window (-160..240) used"
    )


def test_resampled_hounsfield_units_are_recognised(ct):
    assert resolve_window(volume_of(ct + np.float32(0.25))).source == "soft-tissue"


def test_padding_below_air_does_not_hide_hounsfield_units(ct):
    ct[:, :, :15] = -3024
    assert resolve_window(volume_of(ct)).source == "soft-tissue"


def test_a_ct_says_so(ct):
    window = resolve_window(volume_of(np.clip(ct, -200, 300), "CT"))
    assert (window.lower, window.upper) == (-160, 240)
    assert "the file says CT" in window.note


def test_a_ct_gets_the_window_that_its_file_asks_for(ct):
    volume = Volume(ct, np.eye(4), "CT", window=(-1350.0, 150.0))
    window = resolve_window(volume)
    assert (window.lower, window.upper, window.source) == (-1350, 150, "file")
    assert window.note == "no window given; the file's own (-1350..150) used"
    assert resolve_window(volume, "bone").source == "bone"
    assert resolve_window(volume, (0, 80)).source == "caller"


def test_the_window_in_other_files_is_left_alone(mr):
    for modality in ("MR", None):
        volume = Volume(mr, np.eye(4), modality, window=(0.0, 50.0))
        assert resolve_window(volume) == resolve_window(volume_of(mr, modality))


def test_a_declared_mr_is_never_hounsfield(ct):
    assert resolve_window(volume_of(ct, "MR")).source == "percentiles"


def test_phase_images_are_not_hounsfield(generator):
    phase = generator.integers(-4096, 4096, (10, 40, 40)).astype(np.int16)
    assert resolve_window(volume_of(phase)).source == "percentiles"


def test_filtered_mr_with_a_few_large_negatives_is_not_hounsfield(mr):
    filtered = mr.astype(np.float32) / 3 + np.float32(0.1)
    filtered[0, 0, :20] = -600.5
    assert resolve_window(volume_of(filtered)).source == "percentiles"


def test_percentiles_leave_out_an_empty_background(mr):
    window = resolve_window(volume_of(mr))
    expected = np.percentile(mr[mr != 0], (0.5, 99.5))
    assert (window.lower, window.upper) == pytest.approx(tuple(expected))
    assert "not 0" in window.note


def test_percentiles_count_zeros_that_are_no_background(generator):
    array = generator.integers(-300, 300, (10, 40, 40)).astype(np.int16)
    window = resolve_window(volume_of(array))
    assert (window.lower, window.upper) == pytest.approx(tuple(np.percentile(array, (0.5, 99.5))))
    assert "all voxels" in window.note


def test_percentiles_of_a_large_array_are_close_and_repeatable(generator):
    array = generator.normal(100, 20, (30, 256, 256)).astype(np.float32)
    first, second = resolve_window(volume_of(array)), resolve_window(volume_of(array))
    assert first == second
    assert (first.lower, first.upper) == pytest.approx(tuple(np.percentile(array, (0.5, 99.5))), abs=0.5)


def test_a_label_map_is_shown_whole():
    array = np.zeros((5, 20, 20), np.int16)
    array[2, 5:10, 5:10] = 1
    window = resolve_window(volume_of(array))
    assert (window.lower, window.upper, window.source) == (0, 1, "range")


def test_a_single_bright_voxel_is_shown():
    array = np.zeros((40, 200, 200), np.int16)  # too large for every voxel to be looked at
    array[0, 0, 0] = 5
    assert resolve_window(volume_of(array)).upper == 5


@pytest.mark.parametrize(("depth", "modality"), [(1, None), (1, "US"), (6, "US"), (6, "CT")])
def test_eight_bit_pictures_keep_their_greys(generator, depth, modality):
    array = generator.integers(0, 246, (depth, 40, 40)).astype(np.uint8)
    window = resolve_window(volume_of(array, modality))
    assert (window.lower, window.upper, window.source) == (0, 255, "display")
    assert "as they are" in window.note


@pytest.mark.parametrize(("top", "depth", "modality"), [(90, 1, "US"), (246, 6, None), (246, 6, "MR")])
def test_dark_or_volumetric_eight_bit_data_get_percentiles(generator, top, depth, modality):
    array = generator.integers(0, top, (depth, 40, 40)).astype(np.uint8)
    assert resolve_window(volume_of(array, modality)).source == "percentiles"


@pytest.mark.parametrize("bad", [np.inf, -np.inf])
def test_no_window_is_found_for_an_image_that_is_not_finite(bad):
    array = np.ones((3, 4, 5), np.float32)
    array[0, 0, :2] = bad
    with pytest.raises(InputError, match="2 of 60 voxels"):
        resolve_window(volume_of(array))


def test_no_window_is_found_for_a_constant_image():
    with pytest.raises(InputError, match="every voxel of the image is 7"):
        resolve_window(volume_of(np.full((3, 4, 5), 7, np.int16)))


# Checking


def test_check_intensities_counts_what_is_not_finite():
    array = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    check_intensities(array)
    array[0, 0, 0], array[2, 1, 1] = np.nan, np.inf
    with pytest.raises(InputError, match="1 of 60 voxels are infinite"):
        check_intensities(array)
    with pytest.raises(InputError, match="every voxel of the image is NaN"):
        check_intensities(np.full((3, 4, 5), np.nan))


@pytest.mark.parametrize("lowest", [0, -40, 3])
def test_nan_around_the_head_is_background_and_moves_no_window(generator, lowest):
    head = generator.normal(100, 20, (20, 40, 40)).clip(lowest).astype(np.float32)
    scan = np.full((20, 60, 60), np.nan, np.float32)
    scan[:, 10:50, 10:50] = head
    with pytest.warns(UserWarning, match="40000 of 72000 voxels of the image are NaN; .* background"):
        check_intensities(scan)
    window, expected = resolve_window(volume_of(scan)), resolve_window(volume_of(head))
    assert (window.lower, window.upper, window.source) == (expected.lower, expected.upper, expected.source)
    greys = to_uint8(scan, window)
    assert np.array_equal(greys[:, 10:50, 10:50], to_uint8(head, window))
    assert not greys[:, :10].any()


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.float32])
def test_check_intensities_refuses_a_constant_image(dtype):
    with pytest.raises(InputError, match="nothing to segment"):
        check_intensities(np.ones((3, 4, 5), dtype))


# Greys


def test_window_0_255_is_identity_on_8_bits():
    greys = np.arange(256, dtype=np.uint8).reshape(4, 8, 8)
    assert np.array_equal(to_uint8(greys, Window(0, 255, "caller")), greys)
    assert np.array_equal(to_uint8(greys.astype(np.float32), Window(0, 255, "caller")), greys)


def test_values_are_clipped_scaled_and_cut_off():
    values = np.array([[-32768, -161, -160, -159, 39, 40, 239, 240, 241, 32767]], np.int16)
    # (39 + 160) / 400 * 255 = 126.86, (239 + 160) / 400 * 255 = 254.36
    expected = [[0, 0, 0, 0, 126, 127, 254, 255, 255, 255]]
    assert to_uint8(values, Window(-160, 240, "caller")).tolist() == expected


@pytest.mark.parametrize(
    "dtype", [bool, np.uint8, np.uint16, np.int32, np.int64, np.float32, np.float64, ">i2"]
)
def test_every_dtype_agrees_with_the_plain_formula(generator, dtype):
    values = generator.integers(0, 2 if dtype is bool else 200, (3, 5, 7)).astype(dtype)
    lower, upper = 0.25, 150.5
    plain = np.uint8((np.clip(values.astype(float), lower, upper) - lower) / (upper - lower) * 255.0)
    greys = to_uint8(values, Window(lower, upper, "caller"))
    assert greys.dtype == np.uint8
    assert np.array_equal(greys, plain)


def test_a_slice_alone_is_as_in_its_volume(ct):
    window = Window(-160, 240, "caller")
    assert np.array_equal(to_uint8(ct, window)[3], to_uint8(ct[3], window))
    assert np.array_equal(to_uint8(ct.T, window), to_uint8(ct, window).T)


def test_greys_of_nan_are_black_and_of_infinity_refused():
    values = np.array([[0, 1], [np.nan, 3]], np.float32)
    assert to_uint8(values, Window(-1, 1, "caller")).tolist() == [[127, 255], [0, 255]]
    values[1, 1] = np.inf
    with pytest.raises(InputError, match="1 of 4 voxels"):
        to_uint8(values, Window(0, 1, "caller"))
