"""A hospital's folder with images, and the kits a coordinator would give it, for tests."""

from __future__ import annotations

import shutil
from pathlib import Path

from client.config import LimitsConfig, SiteConfig
from client.folder import Folder
from client.keys import create_site
from client.kit import join_kit
from mfm_core.config import DataConfig, canonical_hash, dump_yaml
from server.certificates import create_authority
from strategies.config import RunConfig
from strategies.onboarding import Kit
from tests.server.hospitals import RUN, write_hospital

RUN_HASH = canonical_hash(RUN)


RECEIPT_KEY = "c" * 64


def make_kit(place: Path, name: str = "north", run: RunConfig = RUN, **changed: str) -> Path:
    """Write an undamaged kit, its authority beside it in `<place>-authority`; return its folder."""
    authority = place.with_name(f"{place.name}-authority")
    if not (authority / "ca.crt").is_file():
        create_authority(authority, "consortium")
    place.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(authority / "ca.crt", place / "ca.crt")
    dump_yaml(run, place / "run.yaml")
    facts = {
        "consortium": "three",
        "address": "127.0.0.1:9",
        "site": name,
        "run_hash": canonical_hash(run),
        "bundle_hash": "b" * 64,
        "receipt_key": RECEIPT_KEY,
        **changed,
    }
    (place / "kit.json").write_text(Kit.model_validate(facts).model_dump_json())
    dump_yaml(settings(name), place / "site.yaml")
    return place


def settings(name: str = "north", **limits: object) -> SiteConfig:
    """Return settings whose paths start at the hospital's folder."""
    allowed = {"accepted_runs": [RUN_HASH], "min_cell_count": 2, **limits}
    data = DataConfig.model_validate(
        {"root": "images", "manifest": "images/manifest.csv", "columns": {"split": "split"}}
    )
    return SiteConfig(
        name=name,
        data=data,
        limits=LimitsConfig.model_validate(allowed),
        state_folder=Path("state"),
        run=Path("kit/run.yaml"),
        receipt_key=RECEIPT_KEY,
    )


def make_hospital(root: Path, kit: Path, *, images: int = 48) -> Folder:
    """Make a hospital that has joined with `kit` and has images."""
    folder = create_site(root, "north", "it@north.example")
    join_kit(folder, kit)
    write_hospital(root / "images", seed=1, images=images)
    return folder
