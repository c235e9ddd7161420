"""A kit is taken whole or not at all; wrong, damaged and changed ones leave all as it was."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from client.folder import Folder
from client.keys import create_site
from client.kit import OLD, host_and_port, join_kit, read_kit
from mfm_core.config import dump_yaml
from mfm_core.errors import ConfigError
from server.certificates import create_authority
from strategies.onboarding import Kit
from tests.client.hospital_folder import RUN_HASH, make_kit, settings
from tests.server.hospitals import RUN


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return create_site(tmp_path / "hospital", "north")


def contents(folder: Folder) -> dict[str, str]:
    return {
        str(path.relative_to(folder.root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.root.rglob("*"))
        if path.is_file()
    }


def zipped(kit: Path, top: str) -> Path:
    target = kit.with_suffix(".zip")
    with zipfile.ZipFile(target, "w") as packed:
        for path in kit.iterdir():
            packed.write(path, f"{top}{path.name}")
    return target


@pytest.mark.parametrize("top", [None, "", "north/", "../../up/"])
def test_a_folder_and_a_zip_give_the_same(tmp_path: Path, folder: Folder, top: str | None) -> None:
    kit = make_kit(tmp_path / "kit")
    done = join_kit(folder, kit if top is None else zipped(kit, top))
    assert done.wrote_settings and done.changes == () and done.kit.run_hash == RUN_HASH
    assert sorted(path.name for path in folder.kit.iterdir()) == ["ca.crt", "kit.json", "run.yaml"]
    assert folder.site_file.read_bytes() == (kit / "site.yaml").read_bytes()
    assert {path.name for path in folder.root.iterdir()} == {
        *("keys", "request.json", "kit", "site.yaml"),
    }
    assert not (tmp_path / "up").exists()


def other_site(kit: Path) -> None:
    make_kit(kit, "south")


def other_run(kit: Path) -> None:
    dump_yaml(RUN.model_copy(update={"rounds": 3}), kit / "run.yaml")


def no_run(kit: Path) -> None:
    (kit / "run.yaml").unlink()


def no_json(kit: Path) -> None:
    (kit / "kit.json").write_text("{")


def no_address(kit: Path) -> None:
    facts = json.loads((kit / "kit.json").read_text())
    (kit / "kit.json").write_text(json.dumps({**facts, "address": "https://a/b"}))


def missing_field(kit: Path) -> None:
    facts = json.loads((kit / "kit.json").read_text())
    del facts["bundle_hash"]
    (kit / "kit.json").write_text(json.dumps(facts))


def torn_authority(kit: Path) -> None:
    whole = (kit / "ca.crt").read_bytes()
    (kit / "ca.crt").write_bytes(whole[: len(whole) // 2])


def no_authority(kit: Path) -> None:
    from server.certificates import issue_server_certificate

    beside = kit.with_name(f"{kit.name}-authority")
    issue_server_certificate(beside, ["a.example"])
    shutil.copyfile(beside / "server.crt", kit / "ca.crt")


def ended_authority(kit: Path) -> None:
    create_authority(kit.with_name("ended"), "consortium", days=0)
    shutil.copyfile(kit.with_name("ended") / "ca.crt", kit / "ca.crt")


def broken_settings(kit: Path) -> None:
    (kit / "site.yaml").write_text("name: north\nlimit: 3\n")


def others_settings(kit: Path) -> None:
    dump_yaml(settings("south"), kit / "site.yaml")


def huge(kit: Path) -> None:
    (kit / "run.yaml").write_bytes(b"#" * 2_000_000)


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (other_site, "'south'"),
        (other_run, "has hash"),
        (no_run, "incomplete"),
        (no_json, "JSON"),
        (no_address, "host:port"),
        (missing_field, "bundle_hash"),
        (torn_authority, "PEM"),
        (no_authority, "not the certificate of an authority"),
        (ended_authority, "ended on"),
        (broken_settings, "limit"),
        (others_settings, "for site 'south'"),
        (huge, "larger"),
    ],
)
def test_a_wrong_kit_is_refused_and_changes_nothing(
    tmp_path: Path, folder: Folder, spoil: Callable[[Path], None], word: str
) -> None:
    join_kit(folder, make_kit(tmp_path / "good"))
    bad = make_kit(tmp_path / "bad")
    shutil.copyfile(tmp_path / "good" / "ca.crt", bad / "ca.crt")
    spoil(bad)
    before = contents(folder)
    for source in (bad, zipped(bad, "north/")):
        with pytest.raises(ConfigError, match=word):
            join_kit(folder, source)
        assert contents(folder) == before


def test_everything_wrong_is_told_at_once(tmp_path: Path, folder: Folder) -> None:
    kit = make_kit(tmp_path / "kit", "south")
    other_run(kit)
    torn_authority(kit)
    with pytest.raises(ConfigError) as refused:
        join_kit(folder, kit)
    assert len(refused.value.problems) == 4


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04torn"])
def test_what_is_no_zip_is_refused(tmp_path: Path, folder: Folder, content: bytes) -> None:
    (tmp_path / "kit.zip").write_bytes(content)
    with pytest.raises(ConfigError):
        join_kit(folder, tmp_path / "kit.zip")
    with pytest.raises(ConfigError, match="cannot be read"):
        join_kit(folder, tmp_path / "absent.zip")


def test_another_authority_needs_replace_and_settings_are_kept(
    tmp_path: Path, folder: Folder
) -> None:
    join_kit(folder, make_kit(tmp_path / "one"))
    folder.site_file.write_text("# mine\n")
    two = make_kit(tmp_path / "two", address="fl.example.org:8443")
    before = contents(folder)
    with pytest.raises(ConfigError, match="--replace"):
        join_kit(folder, two)
    assert contents(folder) == before
    done = join_kit(folder, two, replace=True)
    assert not done.wrote_settings and folder.site_file.read_text() == "# mine\n"
    assert any("address" in change for change in done.changes)
    assert read_kit(folder.kit).address == "fl.example.org:8443"


def test_the_same_authority_with_a_new_run_needs_no_replace(tmp_path: Path, folder: Folder) -> None:
    join_kit(folder, make_kit(tmp_path / "kit"))
    run = RUN.model_copy(update={"rounds": 3})
    done = join_kit(folder, make_kit(tmp_path / "kit", run=run))
    assert any("run_hash" in change for change in done.changes) and not done.wrote_settings


def test_an_authority_that_was_tampered_with_is_not_replaced_silently(
    tmp_path: Path, folder: Folder
) -> None:
    kit = make_kit(tmp_path / "kit")
    join_kit(folder, kit)
    folder.authority.write_text("damaged")
    with pytest.raises(ConfigError, match="--replace"):
        join_kit(folder, kit)
    join_kit(folder, kit, replace=True)


def test_a_kill_between_two_renames_loses_no_trust(tmp_path: Path, folder: Folder) -> None:
    join_kit(folder, make_kit(tmp_path / "one"))
    folder.kit.rename(folder.root / OLD)
    with pytest.raises(ConfigError, match="--replace"):
        join_kit(folder, make_kit(tmp_path / "two"))
    assert folder.authority.is_file() and not (folder.root / OLD).exists()


def test_host_and_port_of_names_and_addresses() -> None:
    def parts(address: str) -> tuple[str, int]:
        hashes = dict.fromkeys(("run_hash", "bundle_hash", "receipt_key"), "0" * 64)
        facts = {"consortium": "c", "site": "s", **hashes}
        return host_and_port(Kit(address=address, **facts))

    assert parts("fl.example.org:443") == ("fl.example.org", 443)
    assert parts("[::1]:8443") == ("::1", 8443)
