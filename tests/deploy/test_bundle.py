"""The air-gapped bundle: our wheel is whole, and install.sh needs no network and trusts nothing."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.house.sources import PACKAGES, ROOT

BUILD, INSTALL = ROOT / "deploy" / "airgap" / "build.py", ROOT / "deploy" / "airgap" / "install.sh"
NO_NETWORK = ["unshare", "--user", "--map-root-user", "--net"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the real bundle of a hospital, without the wheels of others."""
    out = tmp_path_factory.mktemp("bundle")
    words = [sys.executable, str(BUILD), "--role", "client", "--out", str(out)]
    words += [f"--pip={word}" for word in ("--no-deps", "--no-index", "--no-build-isolation")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (made,) = out.iterdir()
    assert made.name.endswith("-client")
    return made


def test_our_wheel_holds_every_file_that_the_packages_read(bundle: Path) -> None:
    (wheel,) = (bundle / "wheels").iterdir()
    held = set(zipfile.ZipFile(wheel).namelist())
    for package in PACKAGES:
        files = [path for path in (ROOT / package).rglob("*") if path.is_file()]
        kept = {".py", ".j2", ".yaml", ".json"}
        wanted = {str(path.relative_to(ROOT)) for path in files if path.suffix in kept}
        assert wanted <= held, sorted(wanted - held)
    assert not [name for name in held if name.startswith(("tests/", "deploy/", "build/"))]


def test_the_sums_name_every_file_and_the_services_come_along(bundle: Path) -> None:
    lines = (bundle / "SHA256SUMS").read_text("utf-8").splitlines()
    sums = {line[66:]: line[:64] for line in lines}
    files = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    assert set(sums) == files - {"SHA256SUMS"}
    for name, found in sums.items():
        assert hashlib.sha256((bundle / name).read_bytes()).hexdigest() == found, name
    assert {"install.sh", "README.md", "RUNBOOK.md", "systemd/mfm-client.service"} <= files
    assert "systemd/mfm-server.service" not in files


def small_wheel(folder: Path, name: str, needs: str = "") -> None:
    """Write a wheel of one module, whose command mfm-client says hello."""
    info, needs = f"{name}-1.0.dist-info", f"Requires-Dist: {needs}\n" if needs else ""
    files = {
        f"{name}.py": "def main():\n    print('hello')\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{needs}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\nmfm-client = {name}:main\n",
    }
    rows = []
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
        rows.append(f"{path},sha256={digest.decode()},{len(text)}")
    files[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,"]) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as packed:
        for path, text in files.items():
            packed.writestr(path, text)


def write_sums(place: Path) -> str:
    """Write SHA256SUMS as the builder does; return its checksum."""
    files = sorted(path for path in place.rglob("*") if path.is_file() and path.suffix != "")
    files += [place / "ROLE", place / "VERSION"]
    text = "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(place)}\n"
        for path in files
    )
    (place / "SHA256SUMS").write_text(text, "utf-8")
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Return a bundle of the real install.sh and one tiny wheel."""
    place = tmp_path / "bundle"
    small_wheel(place / "wheels", "tiny")
    shutil.copy(INSTALL, place / "install.sh")
    (place / "ROLE").write_text("client\n")
    (place / "VERSION").write_text("1.0\n")
    write_sums(place)
    return place


def install(place: Path, target: Path, **around: str) -> subprocess.CompletedProcess[str]:
    """Run install.sh in a namespace without a network, where this kernel gives one."""
    alone = subprocess.run([*NO_NETWORK, "true"], check=False, capture_output=True).returncode == 0
    words = [*(NO_NETWORK if alone else []), "sh", str(place / "install.sh"), str(target)]
    environment = {**os.environ, "PYTHON": sys.executable, **around}
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)


def test_it_installs_without_a_network_and_keeps_the_version_before(
    small: Path, tmp_path: Path
) -> None:
    target = tmp_path / "opt" / "mfm"
    target.parent.mkdir()
    first = install(small, target, EXPECT=write_sums(small))
    assert first.returncode == 0, first.stderr
    said = subprocess.run(
        [target / "bin" / "mfm-client"], capture_output=True, text=True, check=True
    )
    before = target.resolve()
    assert said.stdout == "hello\n" and target.is_symlink()
    (small / "VERSION").write_text("1.1\n")
    write_sums(small)
    assert install(small, target).returncode == 0
    assert target.resolve() != before and before.is_dir()


def _damage(small: Path) -> None:
    (wheel,) = (small / "wheels").iterdir()
    wheel.write_bytes(wheel.read_bytes()[:-1] + b"x")


def _take_away(small: Path) -> None:
    (small / "VERSION").unlink()


def _add(small: Path) -> None:
    small_wheel(small / "wheels", "stranger")


def _need_more(small: Path) -> None:
    small_wheel(small / "wheels", "tiny", needs="something-else")
    write_sums(small)


@pytest.mark.parametrize("harm", [_damage, _take_away, _add, _need_more])
def test_a_bundle_that_is_not_whole_installs_nothing(
    harm: object, small: Path, tmp_path: Path
) -> None:
    assert callable(harm)
    harm(small)
    target = tmp_path / "opt" / "mfm"
    target.parent.mkdir()
    done = install(small, target)
    assert done.returncode != 0
    assert list(target.parent.iterdir()) == []


def test_another_bundle_than_the_one_told_is_refused(small: Path, tmp_path: Path) -> None:
    done = install(small, tmp_path / "mfm", EXPECT="0" * 64)
    assert done.returncode != 0 and "nothing was installed" in done.stderr
