from __future__ import annotations

import errno
import re

from mfm_core import errors
from mfm_core.errors import ConfigError, DataError, MfmError, UpdateRejected, system_refusal


def descendants(kind: type[MfmError]) -> list[type[MfmError]]:
    found: list[type[MfmError]] = []
    for child in kind.__subclasses__():
        found += [child, *descendants(child)]
    return found


def test_the_tree_in_the_docstring_is_the_real_one() -> None:
    drawn = set(re.findall(r"^ +([A-Z]\w+)", errors.__doc__ or "", re.MULTILINE))
    real = {kind.__name__ for kind in descendants(MfmError) if not kind.__name__.startswith("_")}
    assert drawn == real | {"MfmError"}


def test_every_error_has_a_word_that_may_leave_and_an_exit_code() -> None:
    kinds = [MfmError, *descendants(MfmError)]
    for kind in kinds:
        assert re.fullmatch(r"[a-z_]{1,20}", kind.code)
        assert kind.exit_code in (1, 3)
    named = [kind.code for kind in kinds if not kind.__name__.startswith("_")]
    assert len(named) == len(set(named))


def test_all_problems_are_listed_at_once() -> None:
    error = ConfigError("run.yaml", ["rounds: too few", "seed: not a number"])
    assert error.problems == ("rounds: too few", "seed: not a number")
    assert str(error) == "run.yaml: 2 problems\n  - rounds: too few\n  - seed: not a number"
    assert "1 problem\n" in str(DataError("manifest.csv", iter(["row 3: no label"])))


def test_a_rejected_update_carries_its_reason_beside_its_text() -> None:
    error = UpdateRejected("nan", "a value is not finite")
    assert (error.reason, str(error), error.code) == ("nan", "a value is not finite", "rejected")


def test_what_the_system_refuses_is_one_plain_line():
    full = OSError(errno.ENOSPC, "No space left on device", "/data/x")
    assert system_refusal(full) == "/data/x: No space left on device; free some space"
    assert system_refusal(OSError(errno.EROFS, "Read-only")).startswith("Read-only; check")
    assert system_refusal(OSError("12 requested and 3 written")).startswith("12 requested")
