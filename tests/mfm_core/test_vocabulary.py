"""A site's words become classes by rules that can be said in a sentence."""

from __future__ import annotations

import pytest

from mfm_core.vocabulary import UnknownWord, look_up, look_up_label, mapping_problems

CLASSES = ("healthy", "covid", "other")
MAPPING = {"COVID-19": "covid", "No Finding": "healthy", "Hernia": None, "COVID-19|TB": "other"}


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("COVID-19", 1),
        ("healthy", 0),  # a class's own name needs no mapping
        ("", -1),
        ("Hernia", None),
        ("COVID-19|TB", 2),  # looked up whole first
        ("COVID-19|covid", 1),  # parts that agree
        ("Hernia|COVID-19", 1),  # a dropped part does not count
        ("Hernia|Hernia", None),
        (" COVID-19 | Hernia ", 1),
    ],
)
def test_labels(label: str, expected: int | None) -> None:
    assert look_up_label(label, MAPPING, CLASSES) == expected


@pytest.mark.parametrize("label", ["Edema", "COVID-19|Edema", "covid19", "*"])
def test_unknown_words_are_refused_and_named(label: str) -> None:
    with pytest.raises(UnknownWord, match="neither mapped nor one of healthy, covid, other"):
        look_up_label(label, MAPPING, CLASSES)


def test_parts_of_two_classes_are_refused() -> None:
    with pytest.raises(UnknownWord, match="healthy and covid at once"):
        look_up_label("COVID-19|No Finding", MAPPING, CLASSES)


@pytest.mark.parametrize(
    ("label", "expected"),
    [("Edema", 2), ("COVID-19|Edema", 1), ("Edema|Mass", 2), ("Hernia|Edema", 2), ("Hernia", None)],
)
def test_the_rest_speaks_only_where_no_part_names_a_class(label: str, expected: int | None) -> None:
    assert look_up_label(label, MAPPING | {"*": "other"}, CLASSES) == expected


def test_the_rest_can_drop_rows_but_empty_stays_unlabelled() -> None:
    assert look_up_label("Edema", {"*": None}, CLASSES) is None
    assert look_up_label("", {"*": None}, CLASSES) == -1
    assert look_up_label("", {"": "healthy"}, CLASSES) == 0


def test_near_words_are_suggested() -> None:
    with pytest.raises(UnknownWord, match="did you mean 'COVID-19'"):
        look_up("COVID19", MAPPING, CLASSES)


def test_mapping_problems_lists_every_unknown_target() -> None:
    found = mapping_problems({"a": "covid", "b": "flu", "c": None, "d": "cold"}, CLASSES, "m")
    assert [line.split(":")[0] for line in found] == ["m.b", "m.d"]
