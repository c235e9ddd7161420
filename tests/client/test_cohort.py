"""An image added in mid-run moves no patient into test: the site stops and says why at home."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from flwr.app import Message
from flwr.supercore.task_identity import TaskIdentity
from PIL import Image

from client.cohort import cohort_path, fingerprint, hold_cohort
from client.site import Site, close_sites, open_site
from mfm_core.errors import DataError
from strategies import chain
from strategies.plan import Kind, Step
from strategies.rounds import FAILED
from tests.client.test_app import ask, refusal
from tests.server.hospitals import SIDE, lay_out

FIRST, LATER = Step("patch_moments"), Step("train", 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    return lay_out(tmp_path / "hospital", ("north",))


def anew(folder: Path) -> Site:
    """Return the site as the next message's process opens it."""
    close_sites()
    return open_site(folder / "sites" / "0.yaml")


def ask_anew(folder: Path, kind: Kind, number: int = 0) -> Message:
    close_sites()
    return ask(folder, kind, number=number)


def rows_of(folder: Path) -> list[list[str]]:
    with (folder / "images" / "north" / "manifest.csv").open(newline="") as file:
        return list(csv.reader(file))


def write_rows(folder: Path, rows: list[list[str]]) -> None:
    with (folder / "images" / "north" / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def add_image(folder: Path) -> None:
    Image.new("L", (SIDE, SIDE), 90).save(folder / "images" / "north" / "added.png")
    write_rows(folder, [*rows_of(folder), ["added.png", "left", "p99", "train", "AP"]])


def test_an_image_added_between_two_messages_stops_the_site(folder: Path) -> None:
    state, rows = folder / "state" / "north", rows_of(folder)
    assert not ask_anew(folder, "hello").has_error()
    assert not cohort_path(anew(folder)).exists()
    assert not ask_anew(folder, "patch_moments").has_error()
    add_image(folder)
    assert refusal(ask_anew(folder, "train", 1)) == (FAILED, "data")
    log = (state / "site.log").read_text()
    assert "48 images then, 49 now" in log and "Put the files back" in log
    assert [line["kind"] for line in chain.read(state / "outbox.jsonl")] == [
        "hello",
        "patch_moments",
    ]
    write_rows(folder, rows)
    assert not ask_anew(folder, "train", 1).has_error()


@pytest.mark.parametrize(
    ("column", "text", "name"),
    [
        (1, "right", "labels"),
        (2, "p77", "patients"),
        (3, "test", "splits"),
        (4, "PA", "attributes"),
    ],
)
def test_each_change_is_named(folder: Path, column: int, text: str, name: str) -> None:
    hold_cohort(anew(folder), FIRST)
    rows = rows_of(folder)
    for row in rows[1:3] if name == "splits" else rows[2:3]:  # no split may divide a patient
        row[column] = text
    write_rows(folder, rows)
    with pytest.raises(DataError, match=f"began: {name} "):
        hold_cohort(anew(folder), LATER)


def test_a_run_from_its_beginning_takes_the_images_as_they_are(folder: Path) -> None:
    hold_cohort(anew(folder), FIRST)
    add_image(folder)
    with pytest.raises(DataError, match="began"):
        hold_cohort(anew(folder), LATER)
    hold_cohort(anew(folder), FIRST)
    hold_cohort(anew(folder), LATER)


def test_what_uses_no_split_is_not_stopped(folder: Path) -> None:
    hold_cohort(anew(folder), FIRST)
    add_image(folder)
    for step in (Step("hello"), Step("atlas")):
        site = anew(folder)
        hold_cohort(site, step)
        assert "images" not in vars(site)


def test_a_site_that_joins_late_or_lost_its_file_notes_what_it_has(folder: Path) -> None:
    hold_cohort(anew(folder), LATER)
    assert cohort_path(anew(folder)).is_file()
    add_image(folder)
    with pytest.raises(DataError, match="images"):
        hold_cohort(anew(folder), LATER)


@pytest.mark.parametrize("text", ["", "5", "{"])
def test_a_damaged_file_is_said(folder: Path, text: str) -> None:
    site = anew(folder)
    hold_cohort(site, FIRST)
    cohort_path(site).write_text(text)
    with pytest.raises(DataError, match="damaged"):
        hold_cohort(site, LATER)


def test_the_file_holds_hashes_and_a_number_only(folder: Path) -> None:
    found = fingerprint(anew(folder).images)
    assert found.pop("images") == 48
    assert all(len(str(value)) == 64 for value in found.values()) and len(found) == 4
