"""A kit holds nothing secret, is what the hospital's settings accept, and is known when stale."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from client.config import load_site_config, load_site_run, public_pictures
from client.keys import create_site
from client.kit import join_kit
from mfm_core.config import canonical_hash, dump_yaml, load_yaml
from mfm_core.errors import ConfigError
from mfm_core.public_basis import smooth_pictures
from mfm_core.public_pictures import PUBLIC_FILE, write_public
from server.folder import Folder
from server.hosting import HostingConfig, load_hosted_run, load_hosting
from server.kits import Agreed, agreed_of, kit_files, kit_problems, write_kit
from strategies.bundle import bundle_hash, stage_bundle
from strategies.config import RunConfig
from strategies.onboarding import Kit, read_json
from tests.server.consortium import ADDRESS, contents, make_consortium
from tests.server.hospitals import RUN, SIDE

NAMES = {"kit.json", "ca.crt", "run.yaml", "site.yaml"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Folder, HostingConfig, Agreed]:
    folder = make_consortium(tmp_path_factory.mktemp("kits") / "consortium")
    hosting = load_hosting(folder)
    agreed = agreed_of(load_hosted_run(hosting))
    write_kit(folder, hosting, "north", agreed)
    return folder, hosting, agreed


@pytest.fixture
def world(
    made: tuple[Folder, HostingConfig, Agreed], tmp_path: Path
) -> tuple[Folder, HostingConfig, Agreed]:
    folder = Folder(Path(shutil.copytree(made[0].root, tmp_path / "consortium")))
    return folder, load_hosting(folder), made[2]


def test_hashes_are_those_of_the_run_and_of_the_bundle(tmp_path: Path) -> None:
    agreed = agreed_of(RUN)
    assert agreed.run_hash == canonical_hash(RUN)
    assert agreed.bundle_hash == bundle_hash(stage_bundle(RUN, tmp_path))


def test_the_zip_is_the_folder(world: tuple[Folder, HostingConfig, Agreed]) -> None:
    folder, _, agreed = world
    place = folder.kits / "north"
    assert {path.name for path in place.iterdir()} == NAMES
    with zipfile.ZipFile(folder.kits / "north.zip") as packed:
        assert packed.testzip() is None
        found = {name: packed.read(name) for name in packed.namelist()}
    assert found == {f"north/{name}": (place / name).read_bytes() for name in NAMES}
    kit = read_json(place / "kit.json", Kit, "x")
    assert (kit.site, kit.address, kit.consortium) == ("north", ADDRESS, "North Sea")
    assert (kit.run_hash, kit.bundle_hash) == (agreed.run_hash, agreed.bundle_hash)
    assert load_yaml(place / "run.yaml", RunConfig) == RUN


def test_a_kit_holds_nothing_secret(world: tuple[Folder, HostingConfig, Agreed]) -> None:
    folder, hosting, agreed = world
    secrets = []
    for path in folder.private:
        content = path.read_bytes()
        lines = [line for line in content.splitlines() if b"-----" not in line]
        secrets += [content.hex().encode(), *lines] if lines else [content]
    (folder.sites / "south.json").write_text(json.dumps({"contact": "secret@south"}))
    found = b"".join(kit_files(folder, hosting, "north", agreed).values())
    assert b"PRIVATE" not in found and b"secret@south" not in found
    assert not [secret for secret in secrets if secret and secret in found]
    assert str(folder.root).encode() not in found


def test_equal_kits_have_equal_bytes(world: tuple[Folder, HostingConfig, Agreed]) -> None:
    folder, hosting, agreed = world
    before = {name: row[0] for name, row in contents(folder.kits).items()}
    write_kit(folder, hosting, "north", agreed)
    assert {name: row[0] for name, row in contents(folder.kits).items()} == before


def test_the_site_file_of_a_kit_loads_at_the_hospital_and_accepts_this_run_only(
    world: tuple[Folder, HostingConfig, Agreed], tmp_path: Path
) -> None:
    folder, _, agreed = world
    hospital = tmp_path / "hospital"
    shutil.copytree(folder.kits / "north", hospital / "kit")
    shutil.copy(hospital / "kit" / "site.yaml", hospital / "site.yaml")
    config = load_site_config(hospital / "site.yaml")
    assert config.name == "north" and config.limits.accepted_runs == (agreed.run_hash,)
    assert load_site_run(config) == RUN


def test_a_good_kit_has_no_problems(world: tuple[Folder, HostingConfig, Agreed]) -> None:
    folder, hosting, agreed = world
    assert kit_problems(folder, hosting, "north", agreed) == []


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("kit.json", "kit.json"),
        ("run.yaml", "run.yaml"),
        ("ca.crt", "ca.crt"),
        ("site.yaml", "zip"),
    ],
)
def test_every_changed_file_is_found(
    world: tuple[Folder, HostingConfig, Agreed], name: str, word: str
) -> None:
    folder, hosting, agreed = world
    path = folder.kits / "north" / name
    path.write_bytes(path.read_bytes() + b"#")
    (problem,) = {text for text in kit_problems(folder, hosting, "north", agreed)}
    assert word in problem and "mfm-server site kit" in problem


@pytest.mark.parametrize("name", ["north/kit.json", "north/ca.crt", "north.zip"])
def test_every_missing_file_is_found(
    world: tuple[Folder, HostingConfig, Agreed], name: str
) -> None:
    folder, hosting, agreed = world
    (folder.kits / name).unlink()
    assert any("site kit" in text for text in kit_problems(folder, hosting, "north", agreed))


def test_another_address_or_bundle_makes_a_kit_stale(
    world: tuple[Folder, HostingConfig, Agreed],
) -> None:
    folder, hosting, agreed = world
    moved = hosting.model_copy(update={"address": "other.example.org:1"})
    (problem,) = kit_problems(folder, moved, "north", agreed)
    assert "out of date (address)" in problem
    renewed = Agreed(agreed.run, agreed.run_hash, "0" * 64)
    (problem,) = kit_problems(folder, hosting, "north", renewed)
    assert "out of date (bundle_hash)" in problem


def test_a_damaged_zip_is_found(world: tuple[Folder, HostingConfig, Agreed]) -> None:
    folder, hosting, agreed = world
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as packed:
        packed.writestr("north/kit.json", "{}")
    (folder.kits / "north.zip").write_bytes(out.getvalue())
    (problem,) = kit_problems(folder, hosting, "north", agreed)
    assert "north.zip" in problem


def test_a_missing_authority_is_a_refusal(world: tuple[Folder, HostingConfig, Agreed]) -> None:
    folder, hosting, agreed = world
    before = contents(folder.kits)
    (folder.authority / "ca.crt").unlink()
    with pytest.raises(ConfigError, match="restore it from a copy"):
        write_kit(folder, hosting, "north", agreed)
    assert contents(folder.kits) == before


def test_public_pictures_go_along_and_a_kit_without_them_is_out_of_date(
    world: tuple[Folder, HostingConfig, Agreed], tmp_path: Path
) -> None:
    folder, hosting, _ = world
    pictures = (255 * smooth_pictures((1, SIDE), 64, 0)).astype(np.uint8)
    wanted = write_public(hosting.run.parent, pictures)
    dump_yaml(private_run(public_pictures=wanted), hosting.run)
    agreed = agreed_of(load_hosted_run(hosting))
    assert len(kit_problems(folder, hosting, "north", agreed)) == 1
    place = write_kit(folder, hosting, "north", agreed)
    assert {path.name for path in place.iterdir()} == {*NAMES, PUBLIC_FILE}
    assert kit_problems(folder, hosting, "north", agreed) == []
    hospital = create_site(tmp_path / "hospital", "north")
    join_kit(hospital, folder.kits / "north.zip")
    assert (hospital.kit / PUBLIC_FILE).read_bytes() == (place / PUBLIC_FILE).read_bytes()
    found = public_pictures(load_site_config(hospital.site_file), agreed.run)
    assert found is not None and np.array_equal(found, pictures)
    (place / PUBLIC_FILE).unlink()
    with pytest.raises(ConfigError, match="is missing"):
        join_kit(hospital, place)
    (hosting.run.parent / PUBLIC_FILE).write_bytes(b"other")
    with pytest.raises(ConfigError, match="the run names"):
        write_kit(folder, hosting, "north", agreed)


def private_run(**privacy: object) -> RunConfig:
    """Return the tiny run with a private atlas."""
    content = {
        **RUN.model_dump(),
        "mitigation": {},
        "privacy": {"atlas": {"mechanism": "gaussian", "epsilon": 1, "directions": 4}, **privacy},
    }
    return RunConfig.model_validate(content)
