"""`check` names every fault of a folder with what to do, and changes nothing."""

from __future__ import annotations

import datetime
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mfm_core.checkpoint import save_model
from mfm_core.config import dump_yaml
from server import doctor
from server.certificates import create_authority, issue_server_certificate, read_certificate
from server.doctor import check_folder
from server.finding import Finding, worst
from server.folder import Folder
from server.kits import Agreed
from server.membership import admit, suspend
from server.weights import new_model
from strategies.config import RunConfig
from tests.server.consortium import contents, make_consortium, write_request
from tests.server.hospitals import RUN

MADE: dict[str, Agreed] = {}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    folder = make_consortium(tmp_path_factory.mktemp("doctor") / "consortium")
    for name in ("north", "south"):
        admit(folder, write_request(folder.root.parent, name))
    return folder


@pytest.fixture
def folder(made: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.setattr(doctor, "check_ports", lambda hosting, folder: ())
    real = doctor.agreed_of

    def once(run: object) -> Agreed:
        key = repr(run)
        MADE[key] = MADE.get(key) or real(run)  # type: ignore[arg-type]
        return MADE[key]

    monkeypatch.setattr(doctor, "agreed_of", once)
    return Folder(Path(shutil.copytree(made.root, tmp_path / "consortium")))


def bad(folder: Folder, **changed: datetime.datetime) -> list[Finding]:
    """Return what is not ok; every such line must say what to do."""
    found = [finding for finding in check_folder(folder, **changed) if finding.level != "ok"]
    assert all(finding.advice for finding in found)
    return found


def test_a_good_folder_is_good_and_stays_as_it_was(folder: Folder) -> None:
    before = contents(folder.root)
    findings = check_folder(folder)
    assert worst(findings) == "ok", findings
    assert not any(finding.advice for finding in findings)
    assert contents(folder.root) == before


def test_it_shows_the_run_and_its_hashes(folder: Folder) -> None:
    texts = " ".join(finding.text for finding in check_folder(folder))
    (agreed,) = (agreed for agreed in MADE.values() if agreed.run == RUN)
    assert agreed.run_hash in texts and agreed.bundle_hash in texts and "parameters" in texts


@pytest.mark.parametrize(("days", "level"), [(29, "warn"), (-2, "fail")])
def test_the_end_of_a_certificate_is_announced(folder: Folder, days: int, level: str) -> None:
    end = read_certificate(folder.authority / "server.crt").not_after
    (found,) = bad(folder, now=end - datetime.timedelta(days=days))
    assert (found.part, found.level) == ("certificates", level)
    assert "server.crt" in found.text and "mfm-server rotate" in found.advice


def test_thirty_one_days_before_there_is_nothing_to_say(folder: Folder) -> None:
    end = read_certificate(folder.authority / "server.crt").not_after
    assert bad(folder, now=end - datetime.timedelta(days=31)) == []


def other_authority(folder: Folder) -> None:
    for name in ("ca", "server"):
        for ending in ("crt", "key"):
            (folder.authority / f"{name}.{ending}").unlink()
    create_authority(folder.authority, "Other")
    issue_server_certificate(folder.authority, ["fl.example.org"])


def half_rotated(folder: Folder) -> None:
    key = (folder.authority / "server.crt").read_bytes()
    issue_server_certificate(folder.authority, ["fl.example.org"])
    (folder.authority / "server.crt").write_bytes(key)


def from_elsewhere(folder: Folder) -> None:
    other = make_consortium(folder.root.parent / "other").authority
    for name in ("server.crt", "server.key"):
        shutil.copy(other / name, folder.authority / name)


def moved(folder: Folder) -> None:
    text = folder.consortium.read_text().replace("fl.example.org", "new.example.org")
    folder.consortium.write_text(text)


def damaged_certificate(folder: Folder) -> None:
    (folder.authority / "server.crt").write_text("nothing")


def open_secret(folder: Folder) -> None:
    folder.secret.chmod(0o644)


def empty_secret(folder: Folder) -> None:
    folder.secret.write_bytes(b"")


def wrong_settings(folder: Folder) -> None:
    text = folder.consortium.read_text().replace("127.0.0.1:8000", "0.0.0.0:8000")
    folder.consortium.write_text(text)


def wrong_run(folder: Folder) -> None:
    folder.run.write_text(folder.run.read_text().replace("size_px: 32", "size_px: 33"))


def no_run(folder: Folder) -> None:
    folder.run.unlink()


def high_quorum(folder: Folder) -> None:
    with folder.consortium.open("a") as file:
        file.write("quorum: 3\n")


def damaged_site(folder: Folder) -> None:
    (folder.sites / "north.json").write_text("{")


def half_folder(folder: Folder) -> None:
    (folder.authority / "ca.key").unlink()


@pytest.mark.parametrize(
    ("harm", "part", "expected"),
    [
        (half_rotated, "certificates", "server.key does not belong to server.crt"),
        (from_elsewhere, "certificates", "not issued by ca.crt"),
        (moved, "certificates", "but sites call new.example.org"),
        (damaged_certificate, "certificates", "PEM"),
        (open_secret, "secrets", "can be reached by others (rights 644)"),
        (empty_secret, "secrets", "superexec.secret is empty"),
        (wrong_settings, "settings", "loopback"),
        (wrong_run, "run", "size_px"),
        (no_run, "run", "cannot be read"),
        (high_quorum, "sites", "2 admitted"),
        (damaged_site, "sites", "north.json"),
        (half_folder, "folder", "ca.key is missing"),
    ],
)
def test_every_fault_is_a_failure_with_what_to_do(
    folder: Folder, harm: Callable[[Folder], None], part: str, expected: str
) -> None:
    harm(folder)
    failed = [found for found in bad(folder) if found.level == "fail"]
    assert any(found.part == part and expected in found.text for found in failed), failed


@pytest.mark.parametrize("harm", [moved, other_authority])
def test_kits_that_a_change_made_stale_are_a_warning(
    folder: Folder, harm: Callable[[Folder], None]
) -> None:
    harm(folder)
    stale = [found for found in bad(folder) if found.part == "kits"]
    assert len(stale) == 2 and {found.level for found in stale} == {"warn"}
    assert all("mfm-server site kit" in found.advice for found in stale)


def test_all_faults_are_shown_at_once(folder: Folder) -> None:
    for harm in (open_secret, half_rotated, wrong_run, damaged_site):
        harm(folder)
    assert {f.part for f in bad(folder)} >= {"secrets", "certificates", "run", "sites"}


def test_suspended_sites_do_not_count_and_need_no_fresh_kit(folder: Folder) -> None:
    suspend(folder, "south")
    shutil.rmtree(folder.kits / "south")
    findings = check_folder(folder)
    assert worst(findings) == "ok"
    (sites,) = (found.text for found in findings if found.part == "sites")
    assert sites == "1 admitted: north; suspended: south; a round needs 1"


def test_a_kit_of_nobody_is_a_warning(folder: Folder) -> None:
    (folder.kits / "west").mkdir()
    (found,) = bad(folder)
    assert found.level == "warn" and "kits/west belongs to no site" in found.text


@pytest.mark.parametrize(("free", "level"), [(2**29, "fail"), (2 * 2**30, "warn")])
def test_a_disk_that_fills_is_seen_before_it_is_full(
    folder: Folder, free: int, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(folder.root)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free))
    (found,) = bad(folder)
    assert (found.part, found.level) == ("disk", level)


def about_run(folder: Folder, run: RunConfig) -> list[Finding]:
    """Return what is not ok of another agreed run in the folder."""
    dump_yaml(run, folder.root / "run.yaml")
    return [finding for finding in bad(folder) if finding.part == "run"]


def test_the_released_weights_of_a_run_are_looked_at_before_it_starts(folder: Folder) -> None:
    agreed = RUN.model_copy(update={"pretrained": "2" * 64})
    (unnamed,) = about_run(folder, agreed)
    assert unnamed.level == "fail" and "set both" in unnamed.text
    with folder.consortium.open("a", encoding="utf-8") as file:
        file.write("pretrained: start.safetensors\n")
    (missing,) = about_run(folder, agreed)
    assert "start.safetensors: no such file" in missing.text
    save_model(folder.root / "start.safetensors", new_model(RUN), "0" * 64, RUN.ontology)
    (other,) = about_run(folder, agreed)
    assert "the run agreed on 2222" in other.text and "consortium.yaml" in other.advice
    found = hashlib.sha256((folder.root / "start.safetensors").read_bytes()).hexdigest()
    wider = RUN.model.model_copy(update={"latent_channels": 8})
    (shape,) = about_run(folder, RUN.model_copy(update={"pretrained": found, "model": wider}))
    assert "model.latent_channels is 8, released is 4" in shape.text
    assert about_run(folder, RUN.model_copy(update={"pretrained": found})) == []


def test_low_rank_changes_of_a_new_model_are_questioned(folder: Folder) -> None:
    learning = RUN.learning.model_copy(update={"trainable": "lora"})
    (found,) = about_run(folder, RUN.model_copy(update={"learning": learning}))
    assert found.level == "warn" and "no released weights" in found.text
