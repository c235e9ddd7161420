"""The app bundle that Flower carries: the same packages as in deployment.

It is staged under a name of our own, because Flower refuses folders whose name is not an app
name and a clone may lie in any folder (flwr 1.41).

What crosses a hospital's boundary: code and run.yaml, towards the hospital; nothing back.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from flwr.cli.build import build_fab_from_disk

from mfm_core.config import dump_yaml
from strategies.code_hash import PACKAGES, bundle_folder
from strategies.config import RunConfig

APP_NAME = "mfm-federated"

PYPROJECT = """\
[project]
name = "mfm-federated"
version = "0.1.0"
description = "Federated training of a small, explainable medical foundation model on Flower."
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "consortium"
fab-include = [
    "mfm_core/**/*.py", "strategies/**/*.py", "server/**/*.py", "client/**/*.py", "run.yaml",
]

[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "client.app:app"

[tool.flwr.app.config]
server-config = ""
sites-folder = ""
resume = false
"""
"""The root pyproject.toml, cut to what Flower reads; a test keeps the two equal."""


def stage_bundle(run: RunConfig, folder: Path) -> Path:
    """Write the app folder `folder/mfm-federated` for one run and return it.

    Nothing of the clone's own name, folder or tests goes along; staging twice gives the same
    bytes.
    """
    app = folder / APP_NAME
    shutil.rmtree(app, ignore_errors=True)
    app.mkdir(parents=True)
    root = bundle_folder()
    for package in PACKAGES:
        for source in sorted((root / package).rglob("*")):
            if source.suffix == ".py":
                target = app / source.relative_to(root)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
    (app / "pyproject.toml").write_text(PYPROJECT, encoding="utf-8")
    dump_yaml(run, app / "run.yaml")
    return app


def bundle_hash(app: Path) -> str:
    """Return the SHA-256 (hex) of the bundle that Flower builds from an app folder.

    Bundles are the same bytes wherever they are built from the same files (flwr 1.41), so a
    hospital can build the one it expects from its own installed code and compare.
    """
    return hashlib.sha256(build_fab_from_disk(app)).hexdigest()
