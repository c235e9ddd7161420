"""The table of identifying elements is one of the standard's own names, without overlap."""

from __future__ import annotations

from pydicom.datadict import dictionary_VR, keyword_for_tag

from client.dicom_identifiers import DIRECT, INDIRECT
from client.dicom_strip import KEPT


def test_every_tag_has_the_standards_keyword() -> None:
    for tag, keyword in {**DIRECT, **INDIRECT}.items():
        assert keyword_for_tag(tag) == keyword


def test_the_lists_do_not_overlap_and_hold_the_common_ones() -> None:
    assert not set(DIRECT) & set(INDIRECT)
    assert len(DIRECT) + len(INDIRECT) >= 60
    names = {tag for tag in {**DIRECT, **INDIRECT} if dictionary_VR(tag) == "PN"}
    assert names <= set(DIRECT)


def test_nothing_that_identifies_is_ever_copied() -> None:
    assert not KEPT & {*DIRECT.values(), *INDIRECT.values()}
