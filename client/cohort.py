"""The site's images, held still for the length of a run: a fingerprint kept in the state folder.

In deployment every message has a process of its own, which divides the patients into splits
anew. An image added in mid-run could move a patient from training into test unseen, so the first
step of a run notes what the site holds and each later step compares. A run started from the
beginning notes it anew. What crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from client.site import Site
from mfm_core.dataset import ImageSet
from mfm_core.errors import DataError
from strategies.plan import Step, plan_of

WITHOUT_IMAGES = ("hello", "atlas", "receipts")
"""Exchanges that use nothing of a split: before the run, and after its last figure."""


def fingerprint(images: ImageSet) -> dict[str, str | int]:
    """Return the number of images and the SHA-256 (hex) of all that is known of them but pixels."""
    arrays: dict[str, NDArray[Any]] = {
        "labels": images.labels,
        "attributes": images.attributes,
        "patients": images.patients,
        "splits": images.splits,
    }
    if images.targets is not None:
        arrays["targets"] = images.targets
    hashes = {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in arrays.items()}
    return {"images": len(images), **hashes}


def cohort_path(site: Site) -> Path:
    """Return the file that holds the fingerprint of a run at this site."""
    return site.config.state_folder / f"cohort-{site.config_hash[:16]}.json"


def hold_cohort(site: Site, step: Step) -> None:
    """Note the site's images at the first step of a run; return at later ones if they are the same.

    Raises:
        DataError: images, labels, attributes, patients or splits changed since the run began.
    """
    if step.kind in WITHOUT_IMAGES:
        return
    path, now = cohort_path(site), fingerprint(site.images)
    if step == plan_of(site.run)[0] or not path.is_file():
        temporary = path.with_suffix(".part")
        temporary.write_text(json.dumps(now), encoding="utf-8")
        temporary.replace(path)
        return
    try:
        before = dict(json.loads(path.read_bytes()))
    except (ValueError, TypeError):
        raise DataError(str(path), ["the file is damaged; start the run anew"]) from None
    if changed := [name for name in now if before.get(name) != now[name]]:
        counts = f"{before.get('images')} images then, {now['images']} now"
        raise DataError(
            str(site.config.data.manifest or site.config.data.root),
            [
                f"changed since this run began: {', '.join(changed)} ({counts}); patients may have "
                "moved between training and test. Put the files back as they were, or start a "
                "new run"
            ],
        )
