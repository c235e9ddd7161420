from client.finding import Finding, worst


def test_the_worst_level_counts_and_what_was_skipped_does_not() -> None:
    def found(*levels: str) -> list[Finding]:
        return [Finding("part", level, "text") for level in levels]  # type: ignore[arg-type]

    assert worst(found("ok", "fail", "warn")) == "fail"
    assert worst(found("ok", "warn", "skip")) == "warn"
    assert worst(found("skip")) == worst([]) == "ok"


def test_a_finding_is_ready_for_json() -> None:
    made = Finding("data", "fail", "text", "advice", ("row 2",))
    assert made.to_dict() == {
        **{"part": "data", "level": "fail", "text": "text"},
        **{"advice": "advice", "details": ("row 2",)},
    }
