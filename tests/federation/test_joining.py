"""From a hospital's `init` to an accepted kit, with the commands' own code at both ends."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from client.config import load_site_config, load_site_run
from client.folder import open_folder as open_hospital
from client.keys import create_site
from client.kit import join_kit
from mfm_core.config import canonical_hash
from mfm_core.errors import ConfigError
from server.membership import admit, find_site, renew_kits
from tests.server.consortium import make_consortium
from tests.server.hospitals import RUN


def test_a_hospital_asks_is_admitted_and_joins(tmp_path: Path) -> None:
    coordinator = make_consortium(tmp_path / "consortium")
    hospital = create_site(tmp_path / "north", "north", "it@north.example")
    done = admit(coordinator, hospital.request)
    assert done.site.public_key == " ".join(hospital.public_key.read_text().split()[:2])
    joined = join_kit(hospital, coordinator.kits / "north.zip")
    assert joined.wrote_settings and joined.kit.address == "fl.example.org:18443"
    config = load_site_config(open_hospital(hospital.root).site_file)
    assert load_site_run(config) == RUN
    assert config.limits.accepted_runs == (canonical_hash(RUN),) == (joined.kit.run_hash,)


def test_no_file_of_the_coordinator_holds_the_hospitals_private_key(tmp_path: Path) -> None:
    coordinator = make_consortium(tmp_path / "consortium")
    hospital = create_site(tmp_path / "north", "north")
    admit(coordinator, hospital.request)
    with pytest.raises(ConfigError, match="PRIVATE key"):
        admit(coordinator, hospital.key)
    lines = [line for line in hospital.key.read_bytes().splitlines() if b"-----" not in line]
    files = [path.read_bytes() for path in coordinator.root.rglob("*") if path.is_file()]
    assert len(lines) > 3 and not any(line in content for line in lines[1:] for content in files)


def test_a_kit_of_another_site_or_a_changed_one_is_refused(tmp_path: Path) -> None:
    coordinator = make_consortium(tmp_path / "consortium")
    north, south = (create_site(tmp_path / name, name) for name in ("north", "south"))
    admit(coordinator, north.request)
    admit(coordinator, south.request)
    with pytest.raises(ConfigError, match="made for site 'south'"):
        join_kit(north, coordinator.kits / "south.zip")
    changed = Path(shutil.copytree(coordinator.kits / "north", tmp_path / "changed"))
    run = changed / "run.yaml"
    run.write_text(run.read_text().replace("rounds: 2", "rounds: 200", 1))
    with pytest.raises(ConfigError, match="changed on its way"):
        join_kit(north, changed)
    assert not north.kit.exists()


def test_a_renewed_kit_is_taken_and_says_what_changed(tmp_path: Path) -> None:
    coordinator = make_consortium(tmp_path / "consortium")
    hospital = create_site(tmp_path / "north", "north")
    admit(coordinator, hospital.request)
    join_kit(hospital, coordinator.kits / "north")
    text = coordinator.consortium.read_text()
    coordinator.consortium.write_text(text.replace("fl.example.org", "new.example.org"))
    renew_kits(coordinator)
    joined = join_kit(hospital, coordinator.kits / "north.zip")
    assert not joined.wrote_settings and find_site(coordinator, "north").status == "admitted"
    assert joined.changes == ("address: fl.example.org:18443 is now new.example.org:18443",)
