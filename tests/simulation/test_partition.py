"""Partitions: patients stay whole, hospitals are never empty, skew and couplings as asked."""

import dataclasses

import numpy as np
import pytest

from mfm_core.errors import DataError
from simulation.config import StudyConfig
from simulation.partition import Table, couple, divide, draw_dirichlet, majority, site_name

CLASSES = ("healthy", "ill", "very ill")
ATTRIBUTES = {"view": ("AP", "PA")}


def make_table(patients: int = 120, seed: int = 0) -> Table:
    """Patients of 1 to 3 images, mixed labels, three scanners."""
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(patients), rng.integers(1, 4, patients))
    per_patient = rng.integers(0, 3, patients)
    labels = np.where(rng.random(len(who)) < 0.9, per_patient[who], 0)
    return Table(
        files=tuple(f"{i}.png" for i in range(len(who))),
        labels=labels.astype(np.int64),
        patients=tuple(f"p{p}" for p in who),
        attributes=rng.integers(0, 2, (len(who), 1)),
        splits=rng.choice(3, patients, p=[0.6, 0.2, 0.2])[who].astype(np.int64),
        columns={"scanner": tuple("abc"[p % 3] for p in who)},
    )


def make_study(rule: dict, **more: object) -> StudyConfig:
    ontology = {"classes": CLASSES, "attributes": ATTRIBUTES}
    return StudyConfig.model_validate(
        {
            "run": {"name": "t", "ontology": ontology},
            "source": {"kind": "folder", "data": {"root": "."}},
            "hospitals": rule,
            "min_images": 4,
            **more,
        }
    )


def assert_patients_whole(table: Table, hospital: np.ndarray) -> None:
    for group in np.unique(table.groups):
        assert len(np.unique(hospital[table.groups == group])) == 1


@pytest.mark.parametrize("alpha", [0.3, 1.0, 100.0])
def test_dirichlet_keeps_patients_whole_and_uses_every_image(alpha: float) -> None:
    table = make_table()
    partition = divide(make_study({"kind": "dirichlet", "sites": 4, "alpha": alpha}), table)
    assert_patients_whole(table, partition.hospital)
    assert set(partition.hospital) == {0, 1, 2, 3}
    for site in range(4):
        counts = np.bincount(table.splits[partition.hospital == site], minlength=3)
        assert counts[0] >= 4 and counts.min() >= 1


def test_dirichlet_is_deterministic_and_the_seed_changes_it() -> None:
    table, rule = make_table(), {"kind": "dirichlet", "sites": 3, "alpha": 0.5}
    first = divide(make_study(rule), table).hospital
    assert np.array_equal(first, divide(make_study(rule), table).hospital)
    other = make_study(rule, seeds={"hospitals": 1})
    assert not np.array_equal(first, divide(other, table).hospital)


def test_small_alpha_is_more_skewed_than_large() -> None:
    labels = np.repeat(np.arange(4), 500)
    strata = np.zeros(len(labels), dtype=np.int64)

    def skew(alpha: float) -> float:
        sites = draw_dirichlet(labels, strata, 5, alpha, (0, 0))
        shares = np.array([np.bincount(sites[labels == c], minlength=5) / 500 for c in range(4)])
        return float(shares.std())

    assert skew(0.1) > 1.5 * skew(1.0) > 6 * skew(100.0)


def test_dirichlet_gives_train_and_test_the_same_skew() -> None:
    labels = np.repeat(np.arange(3), 1000)
    strata = np.tile(np.repeat([0, 1], 500), 3)
    sites = draw_dirichlet(labels, strata, 4, 0.5, (3, 0))
    for label in range(3):
        a, b = (np.bincount(sites[(labels == label) & (strata == s)], minlength=4) for s in (0, 1))
        assert np.abs(a - b).max() <= 2


def test_more_hospitals_than_patients_is_refused() -> None:
    with pytest.raises(DataError, match="9 hospitals for 5 patients"):
        divide(make_study({"kind": "dirichlet", "sites": 9}), make_table(patients=5))


def test_too_small_hospitals_are_named_after_the_last_draw() -> None:
    study = make_study({"kind": "dirichlet", "sites": 3}, min_images=500)
    with pytest.raises(DataError, match=r"hospital-1 has .* every one needs 500 train"):
        divide(study, make_table())


def test_column_rule_makes_one_hospital_per_value() -> None:
    table = make_table()
    partition = divide(make_study({"kind": "column", "column": "scanner"}), table)
    assert partition.names == ("a", "b", "c")
    scanners = np.array(table.columns["scanner"])
    for index, name in enumerate(partition.names):
        assert set(scanners[partition.hospital == index]) == {name}


def test_a_hospital_without_labels_takes_part_unless_it_has_to_learn_alone() -> None:
    table = make_table()
    mine = np.array([scanner == "c" for scanner in table.columns["scanner"]])
    bare = dataclasses.replace(table, labels=np.where(mine, -1, table.labels))
    rule = {"kind": "column", "column": "scanner"}
    study = make_study(rule, baselines={"kinds": ["pooled"]})
    assert divide(study, bare).names == ("a", "b", "c")
    with pytest.raises(DataError, match=r"hospital c has fewer than 2 classes.* learn alone"):
        divide(make_study(rule, baselines={"kinds": ["local"]}), bare)
    one = dataclasses.replace(table, labels=np.where(mine, 0, table.labels))
    with pytest.raises(DataError, match="hospital c has fewer than 2 classes"):
        divide(study, one)


def test_column_rule_names_a_missing_column() -> None:
    with pytest.raises(DataError, match="column 'ward' is not in the manifest"):
        divide(make_study({"kind": "column", "column": "ward"}), make_table())


def test_attribute_rule_follows_the_majority_of_a_patient() -> None:
    table = make_table()
    partition = divide(make_study({"kind": "attribute", "attribute": "view"}), table)
    assert partition.names == ("ap", "pa")
    assert_patients_whole(table, partition.hospital)
    expected = majority(table.attributes[:, 0], table.groups)[table.groups]
    assert np.array_equal(partition.hospital, expected)


def test_explicit_rule_refuses_rows_in_two_hospitals_and_lists_them() -> None:
    sites = [
        {"name": "north", "where": {"scanner": ["a", "b"]}},
        {"name": "south", "where": {"scanner": ["b", "c"]}},
    ]
    with pytest.raises(DataError) as caught:
        divide(make_study({"kind": "explicit", "sites": sites}), make_table())
    assert len(caught.value.problems) > 1
    assert "belongs to north and to south" in caught.value.problems[0]


def test_couplings_of_explicit_hospitals_can_have_opposite_signs() -> None:
    tie = {"attribute": "view", "value": "AP", "label": "ill"}
    sites = [
        {
            "name": "north",
            "where": {"scanner": ["a"]},
            "coupling": {**tie, "share": 0.8, "share_of_others": 0.3},
        },
        {
            "name": "south",
            "where": {"scanner": ["b", "c"]},
            "coupling": {**tie, "share": 0.3, "share_of_others": 0.7},
        },
    ]
    table = make_table(patients=900)
    partition = divide(make_study({"kind": "explicit", "sites": sites}), table)
    shares = []
    for index in range(2):
        rows = (partition.hospital == index) & (table.labels == 1)
        shares.append((table.attributes[rows, 0] == 0).mean())
    assert shares[0] == pytest.approx(0.8, abs=0.06)
    assert shares[1] == pytest.approx(0.3, abs=0.06)


def test_couple_reaches_the_share_and_keeps_the_small_side_whole() -> None:
    labels = np.ones(400, dtype=np.int64)
    values = np.repeat([0, 1], 200)
    keep = couple(labels, values, np.arange(400), (1, 0, 0.8, 0.5), seed=0)
    assert (values[keep] == 0).mean() == pytest.approx(0.8, abs=0.01)
    assert keep[values == 0].all()


def test_majority_takes_the_smallest_of_equals_and_minus_one_without_any() -> None:
    values = np.array([2, 1, 1, -1, -1, 0, 2])
    groups = np.array([0, 0, 0, 1, 1, 2, 2])
    assert majority(values, groups).tolist() == [1, -1, 0]


def test_site_names_are_safe_and_different() -> None:
    taken: set[str] = set()
    assert site_name("St. Mary's / North", taken) == "st--mary-s---north"
    assert site_name("St. Mary's + North", taken) != "st--mary-s---north"
    assert site_name("...", taken) == "site"


def test_a_held_out_hospital_needs_two_classes_and_no_training_images() -> None:
    table, rule = make_table(), {"kind": "column", "column": "scanner"}
    study = make_study(rule, held_out=["c"])
    third = np.array(table.columns["scanner"]) == "c"
    only_test = dataclasses.replace(table, splits=np.where(third, 2, table.splits))
    partition = divide(study, only_test)
    assert partition.names == ("a", "b", "c")
    with pytest.raises(DataError, match="hospital c has"):
        divide(make_study(rule), only_test)
    healthy = dataclasses.replace(only_test, labels=np.where(third, 0, table.labels))
    with pytest.raises(DataError, match="hospital c is held out and has images of 1 classes"):
        divide(study, healthy)


def test_held_out_hospitals_must_be_there_and_leave_a_federation() -> None:
    table, rule = make_table(), {"kind": "column", "column": "scanner"}
    with pytest.raises(DataError, match="no hospital x; this study has a, b, c"):
        divide(make_study(rule, held_out=["x"]), table)
    with pytest.raises(DataError, match="found 1 hospital"):
        divide(make_study(rule, held_out=["a", "b"]), table)


def test_a_patient_who_trains_is_left_out_of_the_held_out_hospital() -> None:
    table = make_table()
    scanner = np.array(table.columns["scanner"])
    shared = table.patients[int(np.flatnonzero(scanner == "a")[0])]
    rows = np.flatnonzero(np.array(table.patients) == shared)
    extra = table.take(rows)
    extra = dataclasses.replace(extra, columns={"scanner": ("c",) * len(rows)})
    both = Table(
        files=(*table.files, *(f"again-{name}" for name in extra.files)),
        labels=np.concatenate([table.labels, extra.labels]),
        patients=table.patients + extra.patients,
        attributes=np.concatenate([table.attributes, extra.attributes]),
        splits=np.concatenate([table.splits, extra.splits]),
        columns={"scanner": table.columns["scanner"] + extra.columns["scanner"]},
    )
    sites = [{"name": name, "where": {"scanner": [name]}} for name in "abc"]
    rule = {"kind": "explicit", "sites": sites}
    hospital = divide(make_study(rule, held_out=["c"]), both).hospital
    assert (hospital[rows] == 0).all()
    assert (hospital[len(table) :] == -1).all()
    assert (hospital[np.flatnonzero(scanner == "c")] == 2).all()
    with pytest.raises(DataError, match="has images in a and c"):
        divide(make_study(rule), both)
