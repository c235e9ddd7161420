"""Who is in: a lying request changes nothing, one site's change touches no other site."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from pathlib import Path

import pytest

from mfm_core.errors import ConfigError, MfmError
from server.folder import Folder, locked
from server.kits import kit_problems
from server.membership import (
    admit,
    admitted_names,
    find_site,
    read_sites,
    readmit,
    remove,
    renew_kits,
    sites_and_problems,
    suspend,
)
from strategies.onboarding import fingerprint
from tests.server.consortium import (
    contents,
    fill_the_disk,
    make_consortium,
    new_key,
    write_request,
)

NORTH_KEY = new_key()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    folder = make_consortium(tmp_path_factory.mktemp("made") / "consortium")
    admit(folder, write_request(folder.root.parent, "north", NORTH_KEY))
    return folder


@pytest.fixture
def folder(made: Folder, tmp_path: Path) -> Folder:
    return Folder(Path(shutil.copytree(made.root, tmp_path / "consortium")))


def test_an_admitted_site_has_its_file_and_its_kit(folder: Folder) -> None:
    site = find_site(folder, "north")
    assert (site.status, site.public_key, site.contact) == ("admitted", NORTH_KEY, "it@x")
    assert site.fingerprint == fingerprint(NORTH_KEY) and site.admitted_at.tzinfo is not None
    raw = json.loads((folder.sites / "north.json").read_text())
    assert set(raw) == {"name", "public_key", "contact", "admitted_at", "status"}
    assert admitted_names(folder) == ("north",)


def test_changes_of_one_site_touch_no_file_of_another(folder: Folder, tmp_path: Path) -> None:
    before = contents(folder.root)
    admit(folder, write_request(tmp_path, "south"))
    assert contents(folder.root, without="south") == before
    suspend(folder, "south")
    readmit(folder, "south")
    renew_kits(folder, ("south",))
    assert contents(folder.root, without="south") == before
    remove(folder, "south")
    assert contents(folder.root) == before


def test_a_suspended_site_keeps_its_data_and_comes_back(folder: Folder) -> None:
    kit, before = contents(folder.kits), find_site(folder, "north")
    assert suspend(folder, "north") == before.model_copy(update={"status": "suspended"})
    assert contents(folder.kits) == kit and admitted_names(folder) == ()
    assert [site.name for site in read_sites(folder)] == ["north"]
    assert readmit(folder, "north") == before == find_site(folder, "north")


def test_the_same_request_again_renews_and_ends_a_suspension(
    folder: Folder, tmp_path: Path
) -> None:
    first = suspend(folder, "north").admitted_at
    again = write_request(tmp_path, "north", f"{NORTH_KEY} a comment", contact="new@x")
    done = admit(folder, again)
    assert done.known and done.site.status == "admitted" and done.site.contact == "new@x"
    assert done.site.admitted_at == first and len(read_sites(folder)) == 1


@pytest.mark.parametrize(
    ("name", "key", "expected"),
    [
        ("south", NORTH_KEY, "belongs to north already"),
        ("south", f"{NORTH_KEY} other comment", "belongs to north already"),
        ("north", None, "with another key"),
        ("NORTH", None, "only in capital letters"),
        ("NORTH", NORTH_KEY, "belongs to north already"),
        ("../north", None, "no site name"),
        ("north.json", None, "ends like a file name"),
        ("north.zip", None, "ends like a file name"),
    ],
)
@pytest.mark.parametrize("status", ["admitted", "suspended"])
def test_a_lying_request_changes_nothing(
    folder: Folder, tmp_path: Path, name: str, key: str | None, expected: str, status: str
) -> None:
    if status == "suspended":
        suspend(folder, "north")
    request = write_request(tmp_path, "x", key)
    content = json.loads(request.read_text()) | {"name": name}
    request.write_text(json.dumps(content))
    before = contents(folder.root)
    with pytest.raises(ConfigError, match=expected):
        admit(folder, request)
    assert contents(folder.root) == before


def test_a_private_key_in_place_of_the_public_one_changes_nothing(
    folder: Folder, tmp_path: Path
) -> None:
    before = contents(folder.root)
    with pytest.raises(ConfigError, match="PRIVATE key, which must never leave"):
        admit(folder, folder.authority / "ca.key")
    secret = (folder.authority / "ca.key").read_text()
    with pytest.raises(ConfigError, match="PRIVATE key") as caught:
        admit(folder, write_request(tmp_path, "south", secret))
    assert not any(line in str(caught.value) for line in secret.splitlines()[1:-1])
    assert contents(folder.root) == before


def test_a_point_that_is_not_on_the_curve_is_refused(folder: Folder, tmp_path: Path) -> None:
    kind, body = new_key().split()
    off = f"{body[:-12]}{'AAAA' if body[-12:-8] != 'AAAA' else 'BBBB'}{body[-8:]}"
    with pytest.raises(ConfigError, match="curve"):
        admit(folder, write_request(tmp_path, "south", f"{kind} {off}"))


def test_two_lies_are_told_at_once(folder: Folder, tmp_path: Path) -> None:
    key = new_key()
    admit(folder, write_request(tmp_path, "south", key))
    with pytest.raises(ConfigError) as caught:
        admit(folder, write_request(tmp_path, "north", key))
    assert len(caught.value.problems) == 2


def test_a_full_disk_at_any_moment_admits_nobody_and_harms_nobody(
    folder: Folder, tmp_path: Path
) -> None:
    request, before = write_request(tmp_path, "south"), contents(folder.root)
    for failed in range(20):
        with pytest.MonkeyPatch.context() as patch:
            fill_the_disk(patch, failed)
            try:
                admit(folder, request)
            except OSError:
                assert admitted_names(folder) == ("north",)
                assert contents(folder.root, without="south") == before
                assert not [path for path in folder.root.rglob("*.part")]
                assert not list(folder.kits.glob(".*"))
                continue
        break
    assert failed >= 5, "the disk was never full"
    assert admitted_names(folder) == ("north", "south")


@pytest.mark.parametrize("change", [suspend, readmit])
def test_a_full_disk_leaves_a_site_as_it_was(folder: Folder, change: object) -> None:
    before = contents(folder.sites)
    with pytest.MonkeyPatch.context() as patch:
        fill_the_disk(patch, 0)
        with pytest.raises(OSError, match="No space left"):
            change(folder, "north")  # type: ignore[operator]
    assert contents(folder.sites) == before


def test_a_killed_change_is_finished_by_the_next(folder: Folder, tmp_path: Path) -> None:
    """A kill between the two moves of a kit leaves the old one aside; nobody was admitted."""
    (folder.kits / "north").rename(folder.kits / ".north.old")
    (folder.kits / ".south.new").mkdir()
    (folder.sites / ".south.json.99.part").write_text("{")
    assert admitted_names(folder) == ("north",)
    renew_kits(folder)
    assert (folder.kits / "north" / "kit.json").is_file()
    admit(folder, write_request(tmp_path, "south"))
    assert not [path for path in folder.kits.iterdir() if path.name.startswith(".")]


def _race(root: Path, request: Path, answers: multiprocessing.Queue[str]) -> None:
    try:
        admit(Folder(root), request)
        answers.put("admitted")
    except MfmError as error:
        answers.put(str(error))


def test_of_many_coordinators_at_once_one_admits_a_key(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.folder.LOCK_WAIT_S", 60.0)
    key, fork = new_key(), multiprocessing.get_context("fork")
    answers: multiprocessing.Queue[str] = fork.Queue()
    requests = [write_request(tmp_path, name, key) for name in ("south", "west", "east")]
    racers = [fork.Process(target=_race, args=(folder.root, path, answers)) for path in requests]
    for racer in racers:
        racer.start()
    said = sorted(answers.get(timeout=60) for _ in racers)
    for racer in racers:
        racer.join()
    assert sum(text == "admitted" for text in said) == 1
    assert sum("already" in text for text in said) == 2
    assert len(read_sites(folder)) == 2


def test_a_held_folder_is_not_changed(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.folder.LOCK_WAIT_S", 0.0)
    request, before = write_request(tmp_path, "south"), contents(folder.root)
    changes = (
        lambda: admit(folder, request),
        lambda: suspend(folder, "north"),
        lambda: remove(folder, "north"),
        lambda: renew_kits(folder),
    )
    with locked(folder):
        for change in changes:
            with pytest.raises(ConfigError, match=f"process {os.getpid()}"):
                change()
    assert contents(folder.root) == before


@pytest.mark.parametrize("content", ["", "{", "[]", '{"name": "north"}', "null"])
def test_a_damaged_file_stops_admission_and_can_be_removed(
    folder: Folder, tmp_path: Path, content: str
) -> None:
    admit(folder, write_request(tmp_path, "south"))
    (folder.sites / "north.json").write_text(content)
    sites, problems = sites_and_problems(folder)
    assert [site.name for site in sites] == ["south"]
    assert all("north.json" in text and "restore" in text for text in problems)
    for change in (
        lambda: admit(folder, write_request(tmp_path, "west")),
        lambda: read_sites(folder),
    ):
        with pytest.raises(ConfigError, match=r"north\.json"):
            change()
    remove(folder, "north")
    assert admitted_names(folder) == ("south",)
    assert not (folder.kits / "north").exists() and not (folder.kits / "north.zip").exists()


def test_a_copied_site_file_is_found(folder: Folder) -> None:
    shutil.copy(folder.sites / "north.json", folder.sites / "south.json")
    with pytest.raises(ConfigError, match=r"south\.json is the file of 'north'"):
        read_sites(folder)
    before = contents(folder.root)
    with pytest.raises(ConfigError, match="is the file of 'north'"):
        suspend(folder, "south")
    assert contents(folder.root) == before
    record = json.loads((folder.sites / "north.json").read_text()) | {"name": "south"}
    (folder.sites / "south.json").write_text(json.dumps(record))
    with pytest.raises(ConfigError, match="north and south have one key"):
        read_sites(folder)


@pytest.mark.parametrize("change", [suspend, readmit, remove, find_site])
@pytest.mark.parametrize("name", ["west", "../sites/north", ""])
def test_a_name_of_nobody_is_refused(folder: Folder, change: object, name: str) -> None:
    before = contents(folder.root)
    with pytest.raises(ConfigError, match=r"its sites: north|no site name"):
        change(folder, name)  # type: ignore[operator]
    assert contents(folder.root) == before


def test_a_removed_site_may_come_back(folder: Folder, tmp_path: Path) -> None:
    remove(folder, "north")
    assert read_sites(folder) == () and list(folder.kits.iterdir()) == []
    assert not admit(folder, write_request(tmp_path, "north", NORTH_KEY)).known


def test_kits_follow_a_changed_run(folder: Folder, tmp_path: Path) -> None:
    from server.hosting import load_hosted_run, load_hosting
    from server.kits import agreed_of

    admit(folder, write_request(tmp_path, "south"))
    suspend(folder, "south")
    text = folder.run.read_text().replace("rounds: 2", "rounds: 3", 1)
    folder.run.write_text(text)
    hosting = load_hosting(folder)
    agreed = agreed_of(load_hosted_run(hosting))
    assert kit_problems(folder, hosting, "north", agreed)
    assert [kit.name for kit in renew_kits(folder)] == ["north"]
    assert kit_problems(folder, hosting, "north", agreed) == []
    assert kit_problems(folder, hosting, "south", agreed)


def test_a_copy_without_its_empty_folders_works(tmp_path: Path) -> None:
    folder = make_consortium(tmp_path / "consortium")
    for place in (folder.sites, folder.kits, folder.runs, folder.superlink):
        place.rmdir()
    assert read_sites(folder) == ()
    admit(folder, write_request(tmp_path, "north"))
    assert admitted_names(folder) == ("north",)
