import numpy as np
import pytest
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity

from mfm_core.faithfulness import likeness_outside, localise, map_likeness, score_curve

ALPHAS = np.linspace(-2, 2, 11).round(1)


def test_spearman_is_that_of_scipy():
    curve = np.random.default_rng(0).random(11)
    found = score_curve(ALPHAS, curve, curve > 0.5).spearman
    assert found == pytest.approx(spearmanr(ALPHAS, curve).statistic)


def test_a_rising_curve_is_strictly_monotone_and_a_plateau_is_not():
    rising = np.linspace(0.1, 0.9, 11)
    plateau = np.minimum(rising, 0.5)
    says = rising > 0.5
    assert score_curve(ALPHAS, rising, says).strictly_monotone
    assert not score_curve(ALPHAS, plateau, says).strictly_monotone
    assert score_curve(ALPHAS, np.full(11, 0.3), says).spearman == 0.0


def test_a_flip_counts_only_in_the_wanted_direction():
    never = np.zeros(11, dtype=bool)
    below, above = never.copy(), never.copy()
    below[:2] = True
    above[8:] = True
    curve = np.linspace(0, 1, 11)
    assert score_curve(ALPHAS, curve, above).flip_alpha == pytest.approx(1.2)
    assert score_curve(ALPHAS, curve, below).flip_alpha is None
    assert score_curve(ALPHAS, curve, ~below).flip_alpha == pytest.approx(-1.6)
    assert score_curve(ALPHAS, curve, ~above).flip_alpha is None


@pytest.mark.parametrize("alphas", [[-1.0, 1.0], [0.0, 0.0], [1.0, 0.0]])
def test_alphas_without_zero_or_out_of_order_are_refused(alphas):
    with pytest.raises(ValueError, match="alphas"):
        score_curve(np.array(alphas), np.array([0.1, 0.2]), np.array([False, True]))


def test_localisation_of_a_perfect_a_wrong_and_a_half_right_map():
    mask = np.zeros((8, 8), dtype=bool)
    mask[2:4, 2:4] = True
    perfect = np.where(mask, -0.7, 0.01).astype(np.float32)
    wrong = np.zeros((8, 8), dtype=np.float32)
    wrong[6:, 6:] = 0.5
    half = np.zeros((8, 8), dtype=np.float32)
    half[2, 2:4], half[7, :2] = 0.9, 0.5
    assert localise(perfect, mask) == localise(-perfect, mask)
    assert (localise(perfect, mask).iou, localise(perfect, mask).pointing) == (1.0, True)
    assert (localise(wrong, mask).iou, localise(wrong, mask).pointing) == (0.0, False)
    assert localise(half, mask).iou == pytest.approx(2 / 6)


def test_an_empty_or_misshapen_mask_is_refused():
    for mask in (np.zeros((4, 4), dtype=bool), np.ones((3, 3), dtype=bool)):
        with pytest.raises(ValueError, match="mask"):
            localise(np.zeros((4, 4), dtype=np.float32), mask)


def picture(seed=0):
    return np.random.default_rng(seed).random((1, 32, 32)).astype(np.float32)


def test_outside_a_region_nothing_inside_it_counts():
    region = np.zeros((32, 32), dtype=bool)
    region[4:12, 4:12] = True
    changed = picture()
    changed[0][region] = 0.0
    assert likeness_outside(changed, picture(), region) == pytest.approx(1, abs=1e-6)
    elsewhere = np.roll(region, 14, axis=1)
    assert likeness_outside(changed, picture(), elsewhere) < 0.95


def test_without_a_region_it_is_the_plain_ssim_and_without_an_outside_there_is_none():
    one, other = picture(0), picture(1)
    nowhere = np.zeros((32, 32), dtype=bool)
    plain = structural_similarity(
        one[0], other[0], data_range=1, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False,
    )  # fmt: skip
    assert likeness_outside(one, other, nowhere) == pytest.approx(plain, abs=1e-4)
    everywhere = nowhere.copy()
    everywhere[5::11, 5::11] = True
    assert likeness_outside(one, other, everywhere) is None


def test_maps_are_alike_whatever_their_scale_and_sign_and_unlike_when_unrelated():
    rng = np.random.default_rng(0)
    one, other = rng.random((2, 32, 32)).astype(np.float32)
    assert map_likeness(one, -7 * one) == pytest.approx(1, abs=1e-6)
    assert abs(map_likeness(one, other)) < 0.1
    assert map_likeness(one, other) == pytest.approx(map_likeness(other, one), abs=1e-6)
    assert map_likeness(one, np.zeros((32, 32), dtype=np.float32)) is None
