"""A private atlas under a secure sum: the server reads the sum of noisy cells and nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.private_release import KEPT
from client.site import close_sites, open_site
from mfm_core.checkpoint import read_arrays
from mfm_core.errors import TooFewSites
from mfm_core.public_basis import smooth_pictures
from mfm_core.public_pictures import write_public
from mfm_core.sums import Array, Sum
from server.app import run_federation
from server.journal import read_lines
from strategies import wire
from strategies.answers import LATENT
from strategies.atlas_release import basis_of, latent_sum_of
from strategies.config import RunConfig
from strategies.private_atlas import CELLS, site_deviation
from strategies.strategy import RunState
from tests.server.hospitals import consortium, lay_out, make_grid
from tests.strategies.test_secure_rounds import NAMES, SHORT, kind_of, silent_at

PICTURES = (255 * smooth_pictures((1, 32), 64, 3)).astype(np.uint8)
ATLAS = {
    "mechanism": "gaussian", "noise_multiplier": 1.0, "directions": 2, "min_sites": 3,
    "min_cell_count": 1,
}  # fmt: skip


def federate(folder: Path, faults: dict[int, Any] | None = None) -> tuple[RunConfig, RunState]:
    """Run four hospitals with masks, a private atlas and public pictures; return the end."""
    wanted = write_public(folder, PICTURES)
    run = RunConfig.model_validate(
        {
            **SHORT,
            "secure_sum": {"enabled": True, "updates": "exact"},
            "privacy": {"atlas": ATLAS, "public_pictures": wanted},
        }
    )
    lay_out(folder, NAMES, run)
    waits = {"deadline_s": 8.0, "grace_s": 0.0, "attempts": 1, "quorum": 3, "simulated_sites": 4}
    grid = make_grid(folder, 4, faults)
    return run, run_federation(grid, consortium(folder, "out", **waits), False)


def released(folder: Path, name: str) -> Array:
    """Return the noisy cells that a hospital has kept of its one release."""
    (path,) = (folder / "state" / name / KEPT).iterdir()
    return np.asarray(read_arrays(path)[0][CELLS])


def check_sum(folder: Path, run: RunConfig, state: RunState, names: Sequence[str]) -> None:
    """Hold the server's latent sums against what these hospitals released, added in clear."""
    total = Sum({CELLS: np.sum([released(folder, name) for name in names], axis=0)})
    basis = basis_of(run, state.weights, PICTURES)
    expected, facts = latent_sum_of(run, basis, total, len(names))
    for name, array in expected.arrays.items():
        np.testing.assert_array_equal(state.sums[LATENT][name], array)
    assert state.facts["latent_sums"] == facts and facts["private"]["sites"] == len(names)


def test_the_server_reads_the_sum_and_each_site_pays_once(tmp_path: Path) -> None:
    seen: list[bytes] = []

    def listen(node: Any) -> Any:
        def answer(message: Any) -> Any:
            reply = node(message)
            if kind_of(message) == "latent_sums":
                seen.append(b"".join(wire.arrays_of(reply.content).values()))
            return reply

        return answer

    run, state = federate(tmp_path, dict.fromkeys(range(4), listen))
    check_sum(tmp_path, run, state, NAMES)
    for name in NAMES:
        cells = released(tmp_path, name)
        assert not any(cells[:4].tobytes() in sent for sent in seen)
    results = json.loads((tmp_path / "out" / "server.json").read_text())
    label = results["privacy"]["latent_sums"]
    assert label["level"] == "formal" and "masked" in label["mechanism"]
    assert "1/3 of it per site" in label["mechanism"]
    assert site_deviation(run) * np.sqrt(3) == pytest.approx(1.0 * np.sqrt(3)), (
        "three shares of the noise are all of it: sigma 1, sensitivity sqrt 3"
    )
    close_sites()
    for index in range(4):
        site = open_site(tmp_path / "sites" / f"{index}.yaml")
        assert site.privacy.read().problems == () and len(site.privacy.read().spends) == 1


def test_who_drops_out_is_left_out_exactly_and_three_shares_of_noise_are_left(
    tmp_path: Path,
) -> None:
    run, state = federate(tmp_path, {3: silent_at("latent_sums")})
    check_sum(tmp_path, run, state, NAMES[:3])


def test_with_fewer_than_agreed_nothing_is_opened(tmp_path: Path) -> None:
    """Two shares of the noise are less than was promised."""
    faults = {2: silent_at("latent_sums"), 3: silent_at("latent_sums")}
    with pytest.raises(TooFewSites, match="latent_sums"):
        federate(tmp_path, faults)
    lines = read_lines(tmp_path / "out")
    latent = [index for index, line in enumerate(lines) if line["phase"] == "latent_sums"]
    assert latent and all("failed" in lines[index] for index in latent)
    assert lines[-1]["phase"] != "secure_unmask"
