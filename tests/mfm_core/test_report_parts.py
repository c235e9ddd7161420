from mfm_core.report_parts import (
    NO_AUDIT,
    NO_FIELDS,
    NO_MITIGATION,
    NO_SCORES,
    ONE_SIDED,
    part_of_run,
    part_of_site,
)
from tests.mfm_core.test_report_groups import rows_of


def test_a_run_without_an_audit_says_so_in_every_section():
    part = part_of_run({"study": "x"})
    missing = [part[name]["missing"] for name in ("groups", "bias", "mitigation")]
    assert missing == [NO_AUDIT] * 3 and part["explained"]["missing"] == NO_SCORES
    assert part["glance"] == [] and part["unrecorded"] is None


def test_a_run_without_attributes_says_so():
    empty = {"explanations": [], "flips": {"chosen": []}, "subgroups": {"chosen": []}}
    part = part_of_run({"audit": {"pooled": empty, "per_site": {}, "biases": []}})
    assert part["groups"]["missing"] == part["bias"]["missing"] == NO_FIELDS
    assert part["mitigation"]["missing"] == NO_MITIGATION


def test_the_head_in_use_is_the_one_that_is_shown():
    before, after = rows_of(3.0), rows_of(0.5)
    pooled = {"explanations": [], "flips": {}, "subgroups": {"chosen": before, "leace": after}}
    audit = {"pooled": pooled, "per_site": {"a": pooled}, "biases": []}
    settings = {"attribute": "view", "use": "leace"}
    used = part_of_run({"audit": audit, "mitigation": settings})
    kept = part_of_run({"audit": audit, "mitigation": {**settings, "use": None}})
    assert used["groups"]["lead"] != kept["groups"]["lead"]
    assert used["mitigation"]["table"].strong == {1} and kept["mitigation"]["table"].strong == {0}
    anchors = [line[0] for line in used["glance"]]
    assert anchors == ["all-groups", "all-mitigation"]


def test_an_attribute_that_no_test_image_has_is_named_as_the_reason():
    audit = {"pooled": {"subgroups": {"chosen": []}}, "biases": []}
    part = part_of_run({"audit": audit, "mitigation": {"attribute": "view"}})
    assert part["mitigation"]["missing"] == ONE_SIDED


def test_a_sites_final_head_gets_the_name_it_has_in_the_run():
    content = {
        "final_is": "leace",
        "mitigated_attribute": "view",
        "subgroups": {"rows": {"final": rows_of(0.5), "chosen": rows_of(3.0)}, "unknown": []},
        "bias": {"refused": "the atlas is not finite"},
        "slices": {"refused": "too few test patients"},
    }
    part = part_of_site(content)
    names = [cells[0].value for cells in part["mitigation"]["table"].rows]
    assert names == ["before", "leace"] and part["mitigation"]["table"].strong == {1}
    assert part["bias"]["missing"] == "the atlas is not finite"
    assert part["unrecorded"]["missing"] == "too few test patients"
    assert part["explained"]["missing"] == NO_SCORES
