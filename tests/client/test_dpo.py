"""The evidence pack: complete, made of its JSON alone, and without a patient."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from client.__main__ import call
from client.dpo import FACTS, PAGE, page_of
from client.dpo_sections import sections_of
from client.site import open_site
from client.threats import read_threats
from mfm_core.config import dump_yaml
from server.app import run_federation
from strategies.privacy import label_of
from tests.federation.identifiers import ONTOLOGY, Planting, plant
from tests.federation.searching import Search
from tests.server.hospitals import RUN, consortium, lay_out, make_grid, site_config


class Texts(HTMLParser):
    """All text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.feed(page)
        self.text = " ".join(self.parts)

    def handle_data(self, data: str) -> None:
        self.parts.append(data)


@pytest.fixture(scope="module")
def after_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = lay_out(tmp_path_factory.mktemp("dpo"))
    run_federation(make_grid(folder), consortium(folder, "out"), resume=False)
    return folder


def test_the_page_answers_every_question(after_run: Path, tmp_path: Path) -> None:
    site = after_run / "sites" / "0.yaml"
    assert call(["report", "--dpo", str(site), "--out", str(tmp_path)]) == 0
    page = (tmp_path / PAGE).read_text(encoding="utf-8")
    facts = json.loads((tmp_path / FACTS).read_text(encoding="utf-8"))
    assert page == page_of(facts), "the page holds something that its JSON does not"
    text = Texts(page).text
    for each in facts["flow"]["exchanges"]:
        assert each["kind"] in text and label_of(RUN, each["kind"], 1).words in text
    for threat, answer, still_open in read_threats():
        assert threat in text and answer in text and still_open in text
    for name in type(open_site(site).config.limits).model_fields:
        assert name in text
    head = facts["ledgers"][0]
    assert head["head"] in text and head["problems"] == 0 and head["lines"] == 12
    assert "mfm-client stop ." in text and "secret.key" in text
    assert page.count('"undone"') >= 3, "no private training, nothing spent, no attacks: not done"


def test_the_page_stands_alone(after_run: Path) -> None:
    assert call(["report", "--dpo", str(after_run / "sites" / "0.yaml")]) == 0
    page = (after_run / "state" / "north" / "dpo" / PAGE).read_text(encoding="utf-8")
    assert "<script" not in page and not re.search(r'(src|href)="(?!#|data:)', page)
    assert "default-src 'none'" in page and "@media print" in page and "viewport" in page
    anchors = re.findall(r'href="#([a-z]+)"', page)
    assert {*anchors} <= {*re.findall(r'id="([a-z]+)"', page)}


def test_every_array_of_the_json_can_be_found_on_the_page(after_run: Path, tmp_path: Path) -> None:
    assert (
        call(["report", "--dpo", str(after_run / "sites" / "1.yaml"), "--out", str(tmp_path)]) == 0
    )
    facts = json.loads((tmp_path / FACTS).read_text(encoding="utf-8"))
    shown = {row[0]: row for table in sections_of(facts)[-1]["tables"] for row in table["rows"]}
    for each in facts["flow"]["exchanges"]:
        for array in each["arrays"]:
            place, _, name = array["name"].rpartition("/")
            group, _, head = place.partition("/")
            row = shown[f"{group}/{name}" if group else name]
            assert not head or head in row[2].split(", ")


def planted(folder: Path) -> tuple[Path, Planting]:
    """Lay out a hospital full of identifiers; return its settings file."""
    planting = plant(folder / "data", "north", 3, patients=6)
    run = RUN.model_copy(update={"ontology": ONTOLOGY})
    lay_out(folder / "all", run=run)
    file = folder / "all" / "sites" / "0.yaml"
    config = site_config("north").model_copy(update={"data": planting.data})
    dump_yaml(config, file)
    return file, planting


@pytest.mark.parametrize("broken", [False, True], ids=["whole", "an image is broken"])
def test_pack_and_terminal_hold_no_identifier(
    broken: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, planting = planted(tmp_path)
    if broken:
        (planting.data.root / planting.files[0]).write_bytes(b"DICM")
    out = tmp_path / "out"
    assert call(["report", "--dpo", str(file), "--out", str(out)]) == 0
    said = capsys.readouterr()
    contents = [(out / PAGE).read_bytes(), (out / FACTS).read_bytes(), said.err.encode()]
    search = Search(planting.marks)
    assert not set().union(*(search.through(each) for each in contents))
    assert ("cannot be opened now" in contents[0].decode()) == broken


@pytest.mark.parametrize(
    "words", [[], ["--config", "a", "--dpo", "b"], ["--dpo", "a", "--model", "m"]]
)
def test_wrong_use_is_refused(words: list[str]) -> None:
    assert call(["report", *words]) == 2


def test_a_place_without_site_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["report", "--dpo", str(tmp_path)]) == 1
    assert "site.yaml" in capsys.readouterr().err
