"""Write a folder from which a machine without a network can install: `make bundle ROLE=client`.

It holds a wheel of every pinned dependency and of this project, their checksums, `install.sh`, and
the service files of the role. Both roles hold the same wheels, because a site compares the code it
runs with the coordinator's. What crosses a hospital's boundary: towards it, this folder.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SUMS = "SHA256SUMS"
WHEEL_DATE = "315532800"
"""1980-01-01, the date of every file in our wheel, so that equal code gives equal bytes."""

FILES = {
    "install.sh": "deploy/airgap/install.sh",
    "README.md": "deploy/airgap/README.md",
    "RUNBOOK.md": "deploy/RUNBOOK.md",
    "LICENSE": "LICENSE",
    "constraints.txt": "constraints.txt",
    "systemd/mfm-{role}.service": "deploy/systemd/mfm-{role}.service",
    "systemd/mfm-check@.service": "deploy/systemd/mfm-check@.service",
    "systemd/mfm-check@.timer": "deploy/systemd/mfm-check@.timer",
}
"""Beside the wheels: name in the bundle to source."""


def stage_sources(place: Path) -> Path:
    """Return a copy of what the wheel is built from; an old build/ folder cannot leak into it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    for package in project["tool"]["setuptools"]["packages"]:
        ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
        shutil.copytree(ROOT / package, place / package, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, place / name)
    return place


def build_wheels(wheels: Path, options: Sequence[str]) -> None:
    """Write the wheels of the project and of all it needs.

    Args:
        wheels: folder, made here.
        options: further words for `pip wheel`.

    Raises:
        subprocess.CalledProcessError: pip could not; it has said why.
    """
    with tempfile.TemporaryDirectory(prefix="mfm-wheel-") as place:
        source = stage_sources(Path(place))
        words = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-input"]
        words += ["--disable-pip-version-check", "--wheel-dir", str(wheels)]
        words += ["--constraint", str(ROOT / "constraints.txt"), *options, str(source)]
        subprocess.run(words, check=True, env={**os.environ, "SOURCE_DATE_EPOCH": WHEEL_DATE})


def digest(path: Path) -> str:
    """Return the SHA-256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_sums(bundle: Path) -> str:
    """Write the checksums of every file of a bundle; return the checksum of that list."""
    files = sorted(path for path in bundle.rglob("*") if path.is_file() and path.name != SUMS)
    lines = [f"{digest(path)}  {path.relative_to(bundle).as_posix()}\n" for path in files]
    (bundle / SUMS).write_text("".join(lines), encoding="utf-8")
    return digest(bundle / SUMS)


def build_bundle(out: Path, role: str, options: Sequence[str] = ()) -> Path:
    """Write the bundle of a role and return its folder; one that was there is replaced.

    Args:
        out: folder in which the bundle's own folder is made.
        role: "client" or "server".
        options: further words for `pip wheel`.
    """
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    bundle = out / f"mfm-{version}-{role}"
    fresh = out / f".mfm-{version}-{role}.part"
    shutil.rmtree(fresh, ignore_errors=True)
    build_wheels(fresh / "wheels", options)
    for name, source in FILES.items():
        target = fresh / name.format(role=role)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / source.format(role=role), target)
    (fresh / "VERSION").write_text(f"{version}\n", encoding="ascii")
    (fresh / "ROLE").write_text(f"{role}\n", encoding="ascii")
    write_sums(fresh)
    shutil.rmtree(bundle, ignore_errors=True)
    fresh.rename(bundle)
    return bundle


def main() -> None:
    """Build a bundle and say what it is."""
    words = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    words.add_argument("--role", choices=("client", "server"), default="client")
    words.add_argument("--out", type=Path, default=ROOT / "dist" / "bundle")
    words.add_argument("--pip", action="append", default=[], help="A further word for `pip wheel`.")
    chosen = words.parse_args()
    bundle = build_bundle(chosen.out, chosen.role, chosen.pip)
    files = [path for path in bundle.rglob("*") if path.is_file()]
    print(f"{bundle}: {len(files)} files, {sum(p.stat().st_size for p in files) / 1e9:.2f} GB")
    print(f"checksum of its {SUMS}, to be compared by telephone: {digest(bundle / SUMS)}")


if __name__ == "__main__":
    main()
