from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from client.report import PAGE, Wanted, read_results, refuse_other_run, write_page
from client.site import close_sites
from mfm_core.atlas import load_atlas
from mfm_core.errors import CheckpointError, ConfigError
from mfm_core.report_page import OWN, STAYS
from server.app import run_federation
from tests.server.hospitals import consortium, lay_out, make_grid


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    laid = lay_out(tmp_path_factory.mktemp("own_page"))
    run_federation(make_grid(laid), consortium(laid, "out"), resume=False)
    close_sites()
    return laid


@pytest.fixture(scope="module")
def page(folder: Path) -> Path:
    return write_page(Wanted(folder / "sites" / "0.yaml", folder / "out" / "server.json"))


def test_the_page_holds_the_site_and_all_others(folder: Path, page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    audit = json.loads(page.with_name("audit.json").read_text(encoding="utf-8"))
    assert page.resolve() == folder / "state" / "north" / "report" / PAGE
    assert audit["site"] == "north" and f"On {audit['test_images']} test images of north" in text
    assert f"north{OWN}" in text and "south" in text
    assert text.count('id="here-') == 6 and text.count('id="all-') == 4
    assert text.count("data:image/png") >= 2 + 2 * 2


def test_the_page_says_that_it_must_stay_on_every_sheet(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.count(STAYS) >= 4
    assert "table-header-group" in text and 'class="banner"' in text


def test_the_page_names_no_patient_and_no_file(folder: Path, page: Path) -> None:
    text = re.sub(r"base64,[^\"]+", "", page.read_text(encoding="utf-8"))
    assert not re.search(r"\bp\d+\b", text)
    assert ".png" not in text and str(folder) not in text


def test_without_the_coordinators_file_the_site_has_its_own_part(
    folder: Path, tmp_path: Path
) -> None:
    steps: list[tuple[int, int]] = []
    wanted = Wanted(folder / "sites" / "1.yaml", out=tmp_path)
    text = write_page(wanted, lambda *step: steps.append(step)).read_text(encoding="utf-8")
    assert 'id="here-groups"' in text and 'id="all-groups"' not in text
    assert "name it with --results" in text and "north" not in text
    assert steps[0] == (0, 3) and steps[-1] == (3, 3)


def test_results_of_another_run_are_refused(folder: Path) -> None:
    atlas = load_atlas(folder / "out" / "atlas.safetensors")
    path = Path("other.json")
    refuse_other_run(atlas, {"config_hash": atlas.config_hash}, path)
    refuse_other_run(atlas, {}, path)
    with pytest.raises(ConfigError, match="ask the coordinator"):
        refuse_other_run(atlas, {"config_hash": "ab" * 32}, path)


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"study": "x"}', b"\xff", b"[" * 10_000])
def test_files_that_are_no_results_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"results\.json or server\.json of a finished run"):
        read_results(path)
    with pytest.raises(ConfigError, match=r"cannot be read \(No such file or directory\); check"):
        read_results(tmp_path / "missing.json")


def test_before_a_run_there_is_no_page(tmp_path: Path) -> None:
    lay_out(tmp_path)
    with pytest.raises(CheckpointError, match="not there yet"):
        write_page(Wanted(tmp_path / "sites" / "0.yaml"))
    assert not list(tmp_path.rglob(PAGE))
