"""The hostile half of `survival`: what a site, a link, a disk or a clock can do to a run."""

from __future__ import annotations

from tests.federation import (
    survival_disk,
    survival_keys,
    survival_lies,
    survival_link,
    survival_person,
    survival_trust,
)

CASES = (
    *survival_lies.CASES,
    *survival_keys.CASES,
    *survival_trust.CASES,
    *survival_disk.CASES,
    *survival_link.CASES,
    *survival_person.CASES,
)
"""In the order in which they run."""
