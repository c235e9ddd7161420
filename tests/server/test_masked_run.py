"""A masked run at the coordinator: kept, read back and taken up like any other."""

from __future__ import annotations

import pytest

from mfm_core.errors import TooFewSites
from server.app import final_hash, run_federation
from server.checkpoints import Stamp, load_newest, save_state
from strategies.config import RunConfig
from tests.server.hospitals import consortium, lay_out, make_grid
from tests.strategies.test_secure_rounds import EXACT, NAMES, WAITS, federate, silent_at


def test_a_masked_run_that_is_read_back_from_its_state_has_the_same_hash(tmp_path):
    state, _ = federate(tmp_path / "run", EXACT)
    stamp = Stamp("c" * 64, "d" * 64, 0, "")
    save_state(tmp_path, state, stamp)
    kept = load_newest(tmp_path, "c" * 64)
    assert kept is not None
    assert final_hash(kept[0]) == final_hash(state)


def test_a_masked_run_ends_in_its_audit_after_a_resume(tmp_path):
    """Nothing of single sites lies in the state, and the ranking of biases does without."""
    run = RunConfig.model_validate({**EXACT.model_dump(), "audit": {"explained_per_class": 0}})
    folder = lay_out(tmp_path, NAMES, run)
    settings = consortium(folder, "out", **WAITS, simulated_sites=4)
    stop = {index: silent_at("audit") for index in range(4)}
    quick = consortium(folder, "out", **{**WAITS, "deadline_s": 2.0}, simulated_sites=4)
    with pytest.raises(TooFewSites):
        run_federation(make_grid(folder, 4, stop), quick, False)
    state = run_federation(make_grid(folder, 4), settings, True)
    assert {row["attribute"] for row in state.facts["audit"]["biases"]} <= {"view"}
