"""Disk, memory and state folder: with a really full and a really read-only file system."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.doctor_machine import (
    GOOD_MEMORY,
    LEAST_MEMORY,
    check_machine,
    check_memory,
    check_state,
    free_memory,
    needed_bytes,
)
from mfm_core.autoencoder import parameters_of
from tests.client.hospital_folder import settings
from tests.server.hospitals import RUN


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 256 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this machine lets nobody mount: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def levels(folder: Path, needed: int) -> list[str]:
    return [finding.level for finding in check_state(folder, needed)]


def test_room_enough_is_ok_and_too_little_says_how_much_is_missing(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    assert levels(tmp_path / "state", 1000) == ["ok"]
    assert levels(tmp_path / "state", int(free * 0.7)) == ["warn"]
    found = list(check_state(tmp_path / "state", 2 * free))
    assert [finding.level for finding in found] == ["fail"] and "MiB" in found[0].advice


def test_room_that_the_cache_takes_already_is_not_asked_for_again(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    free = shutil.disk_usage(tmp_path).free
    with (tmp_path / "cache" / "pixels-1.npy").open("wb") as file:
        file.truncate(10 * free)  # sparse: takes no room
    assert levels(tmp_path, 10 * free + 1000) == ["ok"]


def test_a_full_disk_fails_twice_it_holds_no_ledger_and_no_run(small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(b"x" * 200_000)
    with pytest.raises(OSError), (small_disk / "more").open("wb") as file:
        file.write(b"x" * 200_000)
    found = list(check_state(small_disk / "state", 10**6))
    assert [finding.level for finding in found] == ["fail", "fail"]
    assert "free some space" in found[0].text
    assert not list(small_disk.glob("state/.check-*"))


def test_a_read_only_state_folder_fails(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    found = list(check_state(small_disk / "state", 10))
    assert found[0].level == "fail" and "Read-only" in found[0].text
    assert "state_folder" in found[0].advice


def test_a_state_folder_behind_a_file_fails(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert levels(tmp_path / "file" / "state", 10)[0] == "fail"


@pytest.mark.parametrize(
    ("free", "level"),
    [(None, "warn"), (LEAST_MEMORY - 1, "fail"), (LEAST_MEMORY, "warn"), (GOOD_MEMORY, "ok")],
)
def test_memory(free: int | None, level: str) -> None:
    assert check_memory(free).level == level


def test_the_memory_of_a_control_group_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = free_memory()
    assert whole is not None and whole > 10**6
    (tmp_path / "memory.max").write_text("5000000\n")
    (tmp_path / "memory.current").write_text("1000000\n")
    monkeypatch.setattr("client.doctor_machine.CONTROL_GROUP", tmp_path)
    assert free_memory() == 4_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory() is not None and free_memory() != 4_000_000


def test_the_room_needed_grows_with_images_and_model(tmp_path: Path) -> None:
    one, many = needed_bytes(RUN, 1), needed_bytes(RUN, 1001)
    assert many - one == 1000 * RUN.image.size_px**2 * RUN.image.channels
    assert one > 4 * parameters_of(RUN.model, RUN.image, 2)
    config = settings().model_copy(update={"state_folder": tmp_path})
    assert len(list(check_machine(config, RUN, 10))) == 3
    *_, refused = check_machine(config.model_copy(update={"precision": "tf32"}), RUN, 10)
    assert refused.level == "fail" and "graphics cards" in refused.text
    assert refused.advice == "set precision: float32"
