from __future__ import annotations

import re
from pathlib import Path

import pytest

from mfm_core.errors import ConfigError
from server.card_config import CARD, CARD_FILE, CardConfig, read_card


def test_the_template_is_an_empty_card(tmp_path: Path) -> None:
    assert read_card(tmp_path) == CardConfig()
    (tmp_path / CARD_FILE).write_text(CARD, encoding="utf-8")
    assert read_card(tmp_path) == CardConfig()


def test_the_template_shows_every_field_and_each_can_be_used(tmp_path: Path) -> None:
    text = re.sub("^# (?=[a-z_]+:|  -)", "", CARD, flags=re.MULTILINE)
    (tmp_path / CARD_FILE).write_text(text, encoding="utf-8")
    found = read_card(tmp_path)
    assert found.model_fields_set == set(CardConfig.model_fields)
    assert found.out_of_scope == ("Children",) and found.contact == "fl@example.org"


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    (tmp_path / CARD_FILE).write_text("contakt: x\nlicence: ''\n", encoding="utf-8")
    with pytest.raises(ConfigError) as refused:
        read_card(tmp_path)
    assert len(refused.value.problems) == 2 and "contakt" in str(refused.value)
