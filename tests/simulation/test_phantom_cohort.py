from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from mfm_core.config import problems_of
from simulation.phantom_cohort import (
    ATTRIBUTES,
    Cohort,
    HospitalPhantoms,
    PhantomConfig,
    conditional_shares,
    draw_cohort,
)
from simulation.phantom_findings import CLASSES

PATIENTS = 2500


def hospital(**changes: object) -> HospitalPhantoms:
    return HospitalPhantoms.model_validate({"name": "north", "patients": PATIENTS, **changes})


def measured_phi(cohort: Cohort, attribute: str, value: str, finding: str) -> float:
    column = list(ATTRIBUTES).index(attribute)
    present = cohort.attributes[:, column] == ATTRIBUTES[attribute].index(value)
    first = np.unique(cohort.patients, return_index=True)[1]
    sick = cohort.labels == CLASSES.index(finding)
    return float(np.corrcoef(sick[first], present[first])[0, 1])


@pytest.mark.parametrize("phi", [0.45, -0.35])
@pytest.mark.parametrize(
    ("attribute", "value"), [("view", "AP"), ("sex", "F"), ("age", "65+"), ("marker", "L")]
)
@pytest.mark.parametrize("finding", ["effusion", "none"])
def test_planted_phi_is_found_again(attribute: str, value: str, finding: str, phi: float) -> None:
    rule = {"attribute": attribute, "value": value, "finding": finding, "phi": phi}
    shares = {"none": 0.4, "effusion": 0.4, "nodule": 0.2}
    home = hospital(class_probabilities=shares, couplings=[rule], marker_probability=0.8)
    measured = measured_phi(draw_cohort(5, home), attribute, value, finding)
    assert abs(measured - phi) < 4 / np.sqrt(PATIENTS)


def test_several_findings_keep_their_own_phi_and_the_attribute_its_share() -> None:
    rules = [
        {"attribute": "view", "value": "AP", "finding": "effusion", "phi": 0.3},
        {"attribute": "view", "value": "AP", "finding": "nodule", "phi": -0.2},
    ]
    home = hospital(couplings=rules)
    cohort = draw_cohort(5, home)
    for rule in rules:
        measured = measured_phi(cohort, "view", "AP", str(rule["finding"]))
        assert abs(measured - float(str(rule["phi"]))) < 4 / np.sqrt(PATIENTS)
    share = (cohort.attributes[:, 0] == 0).mean()
    assert abs(share - home.ap_share) < 4 * np.sqrt(0.25 / len(cohort.labels))


def test_probability_is_met_exactly_and_the_other_findings_keep_the_base_share() -> None:
    rule = {"attribute": "view", "value": "AP", "finding": "effusion", "probability": 0.9}
    table = conditional_shares(hospital(couplings=[rule]), "view")
    np.testing.assert_allclose(table[2], [0.9, 0.1])
    np.testing.assert_allclose(table[[0, 1, 3, 4]], [[0.45, 0.55]] * 4)
    certain = {**rule, "probability": 1.0}
    cohort = draw_cohort(5, hospital(patients=200, couplings=[certain]))
    assert (cohort.attributes[cohort.labels == 2, 0] == 0).all()


def test_scanner_can_be_coupled_too() -> None:
    rule = {"attribute": "scanner", "value": "old", "finding": "nodule", "probability": 1.0}
    scanners = [{"name": "new"}, {"name": "old", "gamma": 1.3}]
    cohort = draw_cohort(5, hospital(patients=200, scanners=scanners, couplings=[rule]))
    assert (cohort.scanners[cohort.labels == 3] == 1).all()
    assert set(cohort.scanners[cohort.labels != 3]) == {0, 1}


def test_shares_of_findings_are_kept_and_absent_findings_never_drawn() -> None:
    cohort = draw_cohort(1, hospital(class_probabilities={"none": 3, "nodule": 1}))
    first = np.unique(cohort.patients, return_index=True)[1]
    counts = np.bincount(cohort.labels[first], minlength=5) / PATIENTS
    assert counts[[1, 2, 4]].sum() == 0
    assert abs(counts[3] - 0.25) < 4 * np.sqrt(0.25 * 0.75 / PATIENTS)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"class_probabilities": {"flu": 1}}, "unknown class 'flu'"),
        ({"couplings": [{"attribute": "hair"}]}, "unknown attribute"),
        ({"couplings": [{"value": "LAT"}]}, "unknown value 'LAT'"),
        ({"couplings": [{"phi": 0.99}]}, "use a smaller phi"),
        ({"couplings": [{}, {"value": "PA", "finding": "nodule"}]}, "use one value"),
        ({"couplings": [{}, {}]}, "a finding stands twice"),
        ({"couplings": [{"probability": 0.4}]}, "exactly one of phi and probability"),
        ({"scanners": [{"name": "A"}, {"name": "A"}]}, "scanners: a name stands twice"),
    ],
)
def test_what_cannot_be_planted_is_refused_with_a_reason(
    changes: dict[str, object], part: str
) -> None:
    rule = {"attribute": "view", "value": "AP", "finding": "effusion", "phi": 0.2}
    listed = changes.get("couplings")
    if isinstance(listed, list):
        changes = {"couplings": [{**rule, **item} for item in listed]}
    with pytest.raises(ValidationError) as error:
        hospital(**changes)
    assert part in " ".join(problems_of(error.value))


def test_two_hospitals_of_one_name_are_refused() -> None:
    with pytest.raises(ValidationError, match="a name stands twice"):
        PhantomConfig(hospitals=(hospital(), hospital()))
