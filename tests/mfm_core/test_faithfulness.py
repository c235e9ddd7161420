import numpy as np
import pytest
from scipy.stats import spearmanr

from mfm_core.faithfulness import localise, score_curve

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
