"""What the doctor says of graphics cards: none, usable, without a driver, out of reach, full."""

from __future__ import annotations

from pathlib import Path

import pytest

from client import doctor_card
from client.doctor_card import LEAST_BYTES, built_in, check_device, driver_version

VERSION = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build\nGCC\n"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the root of a machine without a card; tests build one in."""
    monkeypatch.setattr(doctor_card, "DRIVER", tmp_path / "version")
    monkeypatch.setattr(doctor_card, "PCI", tmp_path / "pci")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.version.cuda", "12.8")
    return tmp_path


def build_in(machine: Path, vendor: str = "0x10de", kind: str = "0x030200") -> None:
    """Put a device on the machine's bus."""
    place = machine / "pci" / "0000:01:00.0"
    place.mkdir(parents=True)
    (place / "vendor").write_text(f"{vendor}\n")
    (place / "class").write_text(f"{kind}\n")


def make_usable(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    """Let PyTorch find one card."""
    for name, found in (
        ("is_available", lambda: True),
        ("device_count", lambda: 1),
        ("get_device_name", lambda index: "NVIDIA X"),
        ("mem_get_info", lambda index=0: (free, 80 * 2**30)),
    ):
        monkeypatch.setattr(f"torch.cuda.{name}", found)


def test_a_machine_without_a_card_works_on_its_processor(machine: Path) -> None:
    assert [check_device(wanted).level for wanted in ("cpu", "auto")] == ["ok", "ok"]
    refused = check_device("cuda")
    assert refused.level == "fail" and "there is no card" in refused.advice


def test_a_card_without_a_driver_is_named(machine: Path) -> None:
    build_in(machine)
    assert built_in() and check_device("cpu").level == "ok"
    found = check_device("auto")
    assert found.level == "warn" and "without its driver" in found.advice
    assert "on the processor" in found.text


def test_other_makers_and_other_devices_are_no_cards(machine: Path) -> None:
    build_in(machine, vendor="0x8086")
    assert not built_in()
    (machine / "pci" / "0000:01:00.0" / "vendor").write_text("0x10de\n")
    (machine / "pci" / "0000:01:00.0" / "class").write_text("0x040300\n")
    assert not built_in(), "the sound of a card"


def test_a_loaded_driver_whose_card_is_out_of_reach_is_named(machine: Path) -> None:
    (machine / "version").write_text(VERSION)
    assert driver_version() == "570.86.15"
    found = check_device("cuda")
    assert found.level == "fail" and "/dev/nvidia*" in found.advice and "12.8" in found.advice


def test_a_usable_card_is_shown_with_memory_and_driver(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (machine / "version").write_text(VERSION)
    make_usable(monkeypatch, 40 * 2**30)
    found = check_device("auto")
    assert found.level == "ok" and "NVIDIA X (40,960 of 81,920 MiB free)" in found.text
    assert "570.86.15" in found.text
    assert "auto would use a card" in check_device("cpu").text
    make_usable(monkeypatch, LEAST_BYTES - 1)
    assert check_device("cuda").level == "warn" and check_device("cpu").level == "ok"
