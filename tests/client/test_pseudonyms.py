"""Names hang on the secret, the kind and the id, and on nothing else."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from client.pseudonyms import DIGITS, Pseudonyms, open_pseudonyms

ONE, OTHER = Pseudonyms(b"1" * 32), Pseudonyms(b"2" * 32)


def test_a_name_is_the_same_each_time_and_ignores_padding() -> None:
    assert ONE.name("patient", "PID-7") == ONE.name("patient", " PID-7\0")
    assert re.fullmatch(f"[0-9a-f]{{{DIGITS}}}", ONE.name("patient", "PID-7"))


def test_names_differ_by_secret_kind_and_id() -> None:
    names = {
        ONE.name("patient", "7"),
        ONE.name("study", "7"),
        ONE.name("patient", "8"),
        OTHER.name("patient", "7"),
    }
    assert len(names) == 4


def test_a_kind_and_an_id_cannot_be_shifted_into_each_other() -> None:
    assert ONE.name("a", "bc") != ONE.name("ab", "c")


def test_no_plain_hash_of_the_id_gives_the_name() -> None:
    """Without the secret nobody can try all numbers."""
    plain = hashlib.sha256(b"12345").hexdigest()
    assert ONE.name("patient", "12345") not in plain


def test_nothing_has_no_name() -> None:
    assert ONE.name("patient", " \0 ") == ""


def test_a_site_keeps_its_secret(tmp_path: Path) -> None:
    first = open_pseudonyms(tmp_path / "a").name("patient", "7")
    assert open_pseudonyms(tmp_path / "a").name("patient", "7") == first
    assert open_pseudonyms(tmp_path / "b").name("patient", "7") != first
