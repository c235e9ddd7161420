"""Imports run one way, and each package knows only the libraries it is meant to know."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import pytest

from tests.house.sources import PACKAGES, ROOT, foreign, imports, modules, place, top

MAY_IMPORT = {
    "mfm_core": {"mfm_core"},
    "strategies": {"mfm_core", "strategies"},
    "server": {"mfm_core", "strategies", "server"},
    "client": {"mfm_core", "strategies", "client"},
    "simulation": {"mfm_core", "strategies", "server", "client", "simulation"},
}
"""mfm_core <- strategies <- {server, client} <- simulation."""

LIBRARIES = {
    "mfm_core": {
        *("numpy", "scipy", "torch", "torchvision", "pydantic", "yaml", "pydicom", "PIL"),
        *("safetensors", "matplotlib", "mpl_toolkits", "jinja2", "captum", "opacus", "opendp"),
        *("h5py", "click"),
    },
    "strategies": {
        *("numpy", "scipy", "pydantic", "flwr", "cryptography"),
        *("grpc", "grpc_health", "prometheus_client"),
    },
    "server": {
        *("numpy", "torch", "pydantic", "flwr", "typer", "click", "rich", "yaml", "cryptography"),
        *("httpx", "starlette", "uvicorn", "prometheus_client"),
    },
    "client": {
        *("numpy", "torch", "pydantic", "flwr", "typer", "click", "rich"),
        *("pydicom", "highdicom", "PIL", "yaml", "cryptography", "safetensors", "httpx"),
        "prometheus_client",
    },
    "simulation": {
        *("numpy", "scipy", "torch", "pydantic", "yaml", "PIL", "matplotlib", "sklearn"),
        *("flwr", "typer", "click", "rich", "torchvision", "pytorch_msssim", "opacus"),
    },
}
"""Third-party libraries each package may import; everything else is refused."""

ONLY_IN = {
    ("strategies", "flwr"): {
        *(
            "bundle.py",
            "collector.py",
            "looking.py",
            "receipts.py",
            "rounds.py",
            "secret_shares.py",
            "secure_replies.py",
            "secure_rounds.py",
            "strategy.py",
            "wire.py",
        ),
    },
    ("mfm_core", "click"): {"command_line.py"},
    ("mfm_core", "captum"): {"attribution.py"},
    ("mfm_core", "opacus"): {"accounting.py", "grad_samplers.py", "private_training.py"},
    ("mfm_core", "h5py"): {"mimeta_pixels.py"},
    ("mfm_core", "opendp"): {"discrete_noise.py"},
    ("client", "highdicom"): {"dicom_objects.py"},
    ("simulation", "sklearn"): {"baselines.py", "probes.py"},
    ("simulation", "pytorch_msssim"): {"benchmark.py"},
}
"""Libraries that stand in a few files only."""
EXTRAS = {
    "sklearn",
    "skimage",
    "kornia",
    "pytorch_msssim",
    "torchmetrics",
    "ray",
    "concept_erasure",
    "fairlearn",
}
"""What only the extras `simulation` and `dev` install."""


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_run_one_way(package: str) -> None:
    wrong = [
        f"{place(path, line)} imports {name}"
        for path in modules(package)
        for name, line in imports(path)
        if name.startswith(".") or (top(name) in PACKAGES and top(name) not in MAY_IMPORT[package])
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("package", PACKAGES)
def test_only_the_named_libraries_are_imported(package: str) -> None:
    wrong = [
        f"{place(path, line)} imports {name}"
        for path in modules(package)
        for name, line in imports(path)
        if foreign(name) and top(name) not in LIBRARIES[package]
    ]
    assert not wrong, "\n".join(wrong)


def test_some_libraries_stand_only_where_they_are_named() -> None:
    wrong = [
        f"{place(path, line)} imports {name}"
        for (package, library), files in ONLY_IN.items()
        for path in modules(package)
        for name, line in imports(path)
        if top(name) == library and path.name not in files
    ]
    assert not wrong, "\n".join(wrong)


def test_the_core_install_needs_no_extra() -> None:
    """A hospital installs no extras: its commands must work while their import is refused."""
    script = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {sorted(EXTRAS)!r}:
            raise ModuleNotFoundError(f"extra imported: {{name}}")
sys.meta_path.insert(0, Refuse())
import importlib, pkgutil
for package in ("mfm_core", "strategies", "server", "client"):
    for module in pkgutil.walk_packages([package], package + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
from typer.testing import CliRunner
from client.__main__ import app
result = CliRunner().invoke(app, ["--help"])
assert result.exit_code == 0, result.output
"""
    command = [sys.executable, "-W", "ignore", "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_no_other_distribution_owns_one_of_our_names() -> None:
    owners = importlib.metadata.packages_distributions()
    taken = {
        name: set(owners.get(name, [])) - {"mfm-federated"}
        for name in PACKAGES
        if set(owners.get(name, [])) - {"mfm-federated"}
    }
    assert not taken


def test_all_packages_come_from_this_folder() -> None:
    for package in PACKAGES:
        module = __import__(package)
        assert module.__file__ is not None
        assert module.__file__.startswith(str(ROOT / package))
