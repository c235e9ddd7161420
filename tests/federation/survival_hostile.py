"""The hostile half of `survival`: what a site, a link, a disk or a clock can do to a run."""

from __future__ import annotations

from tests.federation import survival_keys, survival_lies

CASES = (*survival_lies.CASES, *survival_keys.CASES)
"""In the order in which they run."""
