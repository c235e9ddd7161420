"""consortium.yaml: nothing that would open the SuperLink, and the settings of one run from it."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from mfm_core.errors import ConfigError
from server.config import load_agreed_run, load_consortium
from server.hosting import (
    HostingConfig,
    consortium_of,
    default_quorum,
    load_hosted_run,
    load_hosting,
    write_consortium,
)
from strategies.rounds import RoundRules
from tests.server.consortium import make_consortium
from tests.server.hospitals import RUN


def hosting(**changed: object) -> HostingConfig:
    return HostingConfig.model_validate({"name": "c", "address": "fl.example.org:8443"} | changed)


def test_the_folder_of_init_loads_and_names_its_run(tmp_path: Path) -> None:
    folder = make_consortium(tmp_path / "c")
    found = load_hosting(folder)
    assert (found.host, found.run) == ("fl.example.org", folder.root / "run.yaml")
    assert load_hosted_run(found) == RUN


@pytest.mark.parametrize(
    "address", ["0.0.0.0:8000", "10.0.0.7:8000", "[::]:8000", "localhost:8000"]
)
def test_a_superlink_that_others_could_reach_is_refused(address: str) -> None:
    with pytest.raises(ValidationError, match=r"loopback|no IP address"):
        hosting(superlink=address)


@pytest.mark.parametrize(
    "changed",
    [
        {"listen": "127.0.0.1:8000"},
        {"listen": "0.0.0.0:8000"},
        {"address": "https://fl.example.org"},
        {"listen": "fl.example.org:8443"},
        {"name": "x" * 51},
        {"name": "a\nb"},
        {"gateway": "apache"},
        {"sites": ["north"]},
        {"deadline_s": 0},
        {"quorum": 0},
    ],
)
def test_what_cannot_work_is_refused(changed: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        hosting(**changed)


def test_one_port_on_two_addresses_is_no_clash() -> None:
    assert hosting(listen="10.0.0.7:8000").superlink == "127.0.0.1:8000"


@pytest.mark.parametrize("sites", range(1, 12))
def test_two_quorums_always_share_a_site(sites: int) -> None:
    assert sites < 2 * default_quorum(sites) and default_quorum(sites) <= sites


def test_a_number_set_goes_before_a_measured_one_and_that_before_the_default() -> None:
    default = RoundRules.model_fields["deadline_s"].default
    assert consortium_of(hosting(), ["a"]).deadline_s == default
    assert consortium_of(hosting(), ["a"], deadline_s=120, grace_s=0).deadline_s == 120
    assert consortium_of(hosting(), ["a"], deadline_s=120, grace_s=0).grace_s == 0
    both = consortium_of(hosting(deadline_s=7, grace_s=0), ["a"], deadline_s=120, grace_s=60)
    assert (both.deadline_s, both.grace_s) == (7, 0)


def test_the_settings_of_a_run_are_read_back_equal(tmp_path: Path) -> None:
    wanted = consortium_of(hosting(attempts=5, threads=2), ["south", "north", "west"])
    assert (wanted.sites, wanted.quorum) == (("north", "south", "west"), 2)
    found = load_consortium(write_consortium(wanted, tmp_path / "runs" / "first"))
    assert found.output == tmp_path / "runs" / "first"
    assert found.rules == wanted.rules and (found.attempts, found.threads) == (5, 2)


def test_the_run_is_the_one_of_the_bundle_not_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = load_consortium(write_consortium(consortium_of(hosting(), ["a"]), tmp_path))
    monkeypatch.setattr("server.config.bundle_folder", lambda: make_consortium(tmp_path / "c").root)
    assert found.run is None and load_agreed_run(found) == RUN


@pytest.mark.parametrize(("sites", "quorum"), [((), None), (("a",), 2)])
def test_too_few_sites_are_refused_with_what_to_do(sites: tuple[str, ...], quorum: int) -> None:
    with pytest.raises(ConfigError, match=r"site add|admit more"):
        consortium_of(hosting(quorum=quorum), sites)
