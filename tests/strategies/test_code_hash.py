"""The code hash depends on code alone: not on the folder, and on every byte and name of it."""

from __future__ import annotations

import shutil
from pathlib import Path

from strategies.code_hash import PACKAGES, bundle_folder, code_hash, hash_folder


def test_checkout_and_bundle_have_the_same_hash(tmp_path: Path) -> None:
    for name in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__", "*.j2", "*.md")
        shutil.copytree(bundle_folder() / name, tmp_path / name, ignore=ignored)
    assert hash_folder(tmp_path) == code_hash()


def test_every_byte_and_every_name_counts(tmp_path: Path) -> None:
    folder = tmp_path / "client"
    folder.mkdir()
    (folder / "a.py").write_text("x = 1\n")
    first = hash_folder(tmp_path)
    (folder / "notes.txt").write_text("not code")
    assert hash_folder(tmp_path) == first
    (folder / "a.py").write_text("x = 2\n")
    second = hash_folder(tmp_path)
    (folder / "a.py").rename(folder / "b.py")
    third = hash_folder(tmp_path)
    assert len({first, second, third}) == 3


def test_the_border_between_files_counts(tmp_path: Path) -> None:
    one, two = tmp_path / "1" / "server", tmp_path / "2" / "server"
    for folder, contents in ((one, ("ab", "c")), (two, ("a", "bc"))):
        folder.mkdir(parents=True)
        for name, text in zip(("x.py", "y.py"), contents, strict=True):
            (folder / name).write_text(text)
    assert hash_folder(tmp_path / "1") != hash_folder(tmp_path / "2")
