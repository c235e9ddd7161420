"""Axes of two values are the atlas's own; sites are a field like any other."""

import numpy as np
import pytest

from mfm_core.contrasts import contrast_to, contrasts_of, here_or_elsewhere, sides_of, with_sites
from mfm_core.errors import ConfigError, DataError
from mfm_core.sums import Sum
from tests.mfm_core.latent_world import ONTOLOGY, draw_latents


def split_sites(data, count):
    """Return the sums of `count` sites; patients are dealt in turn."""
    rows = [np.flatnonzero(data.patients % count == site) for site in range(count)]
    return {f"site-{number}": data.sums(mine) for number, mine in enumerate(rows)}


def test_two_values_are_one_contrast_and_more_are_one_each():
    found = [(c.attribute, c.value, c.against) for c in contrasts_of(ONTOLOGY)]
    assert found[:2] == [("view", "AP", "PA"), ("sex", "F", "M")]
    assert found[2:5] == [
        ("marker", "none", "L or R"),
        ("marker", "L", "none or R"),
        ("marker", "R", "none or L"),
    ]
    assert found[5:] == [("coin", "a", "b")]


def test_axis_of_two_values_is_the_atlas_axis_in_both_directions():
    atlas = draw_latents(1, coupling=0.6).atlas()
    expected = atlas.attribute_axis("view", "AP", "PA")
    towards_ap = sides_of(atlas, contrast_to(ONTOLOGY, "view", "AP")).axis
    towards_pa = sides_of(atlas, contrast_to(ONTOLOGY, "view", "PA")).axis
    np.testing.assert_allclose(towards_ap, expected, atol=1e-12)
    np.testing.assert_allclose(towards_pa, -expected, atol=1e-12)


def test_one_value_against_the_rest_pools_the_rest_by_patients():
    data = draw_latents(2)
    sides = sides_of(data.atlas(), contrast_to(ONTOLOGY, "marker", "R"))
    for label in range(3):
        rest = data.mu[(data.labels == label) & (data.attributes[:, 2] != 2)]
        np.testing.assert_allclose(sides.means[1, label], rest.mean(axis=0), atol=1e-12)
        assert sides.counts[1, label] == len(rest)


def test_sites_become_a_field_whose_cells_are_the_sites_own():
    data = draw_latents(3)
    cells = split_sites(data, 3)
    atlas = with_sites(data.atlas(), cells)
    assert atlas.ontology.attributes["site"] == ("site-0", "site-1", "site-2")
    assert list(atlas.ontology.attributes)[:4] == list(ONTOLOGY.attributes)
    for number in range(3):
        mine = (data.patients % 3 == number) & (data.labels == 1)
        assert atlas.attribute_counts["site"][1, number] == mine.sum()
        found = atlas.attribute_means["site"][1, number]
        np.testing.assert_allclose(found, data.mu[mine].mean(axis=0), atol=1e-12)


def test_here_or_elsewhere_needs_no_other_site():
    data = draw_latents(4)
    cells = split_sites(data, 3)
    atlas = here_or_elsewhere(data.atlas(), cells["site-1"])
    known = with_sites(data.atlas(), cells)
    here = sides_of(atlas, contrast_to(atlas.ontology, "site", "here"))
    same = sides_of(known, contrast_to(known.ontology, "site", "site-1"))
    np.testing.assert_allclose(here.counts, same.counts, atol=1e-9)
    np.testing.assert_allclose(here.axis, same.axis, atol=1e-9)
    assert atlas.ontology.attributes["site"] == ("here", "elsewhere")


def test_a_site_that_is_everybody_has_nothing_to_compare_with():
    data = draw_latents(5)
    atlas = here_or_elsewhere(data.atlas(), data.sums())
    sides = sides_of(atlas, contrast_to(atlas.ontology, "site", "here"))
    assert "one side" in sides.problem
    with pytest.raises(DataError, match="one side"):
        _ = sides.axis


def test_fewer_than_two_sites_leave_the_atlas_alone():
    data = draw_latents(6)
    assert with_sites(data.atlas(), {}).ontology == ONTOLOGY
    assert with_sites(data.atlas(), {"alone": data.sums()}).ontology == ONTOLOGY


def test_cells_that_do_not_belong_are_refused_all_at_once():
    data = draw_latents(7)
    atlas = data.atlas()
    good = split_sites(data, 2)
    broken = Sum({**good["site-0"].arrays, "class.sum": np.full((3, 12), np.nan)})
    short = Sum({"class.count": np.ones(2)})
    with pytest.raises(DataError) as refused:
        with_sites(atlas, {"a": broken, "b": short})
    assert len(refused.value.problems) == 3
    more = draw_latents(8, people=900).sums()
    with pytest.raises(DataError, match="more patients than the atlas"):
        here_or_elsewhere(atlas, more)
    below = Sum({**good["site-0"].arrays, "class.count": np.array([-1.0, 1, 1])})
    with pytest.raises(DataError, match="below 0"):
        here_or_elsewhere(atlas, below)


def test_a_second_site_field_is_refused():
    atlas = with_sites(draw_latents(9).atlas(), split_sites(draw_latents(9), 2))
    with pytest.raises(ConfigError, match="rename"):
        with_sites(atlas, {})


def test_sides_without_an_axis_say_why():
    data = draw_latents(10)
    contrast = contrast_to(ONTOLOGY, "view", "AP")
    apart = data.with_attribute("view", (data.labels != 0).astype(np.int64))
    assert "cannot be told apart" in sides_of(apart.atlas(), contrast).problem
    only_ap = data.with_attribute("view", np.zeros_like(data.labels))
    assert "one side" in sides_of(only_ap.atlas(), contrast).problem
    nobody = data.with_attribute("view", np.full_like(data.labels, -1))
    assert "no patient" in sides_of(nobody.atlas(), contrast).problem


def test_unknown_names_are_refused():
    with pytest.raises(ConfigError, match=r"'side' is not in the ontology \(view, sex"):
        contrasts_of(ONTOLOGY, "side")
    with pytest.raises(ConfigError, match="it has AP, PA"):
        contrast_to(ONTOLOGY, "view", "LL")


def test_many_values_are_not_all_named():
    data = draw_latents(11)
    atlas = with_sites(data.atlas(), split_sites(data, 6))
    assert contrasts_of(atlas.ontology, "site")[0].against == "others"
