"""The bundle: our code and the run, the same bytes from every copy."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

from strategies.bundle import PYPROJECT, bundle_hash, stage_bundle
from strategies.code_hash import code_hash, hash_folder
from strategies.config import RunConfig

ROOT = Path(__file__).parents[2]
RUN = RunConfig.model_validate({"name": "t", "ontology": {"classes": ["a", "b"]}})


def test_the_bundle_holds_our_code_the_run_and_nothing_else(tmp_path: Path) -> None:
    app = stage_bundle(RUN, tmp_path / "a clone (2)")
    top = sorted(path.name for path in app.iterdir())
    assert top == ["client", "mfm_core", "pyproject.toml", "run.yaml", "server", "strategies"]
    assert hash_folder(app) == code_hash()
    again = stage_bundle(RUN, tmp_path / "b")
    for path in sorted(app.rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (again / path.relative_to(app)).read_bytes()


def test_the_bundles_project_says_what_the_clones_does() -> None:
    ours, whole = tomllib.loads(PYPROJECT), tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert ours["tool"]["flwr"] == whole["tool"]["flwr"]
    for key in ("name", "version", "description"):
        assert ours["project"][key] == whole["project"][key]


def test_the_hash_is_that_of_the_bytes_and_not_of_the_folder(tmp_path: Path) -> None:
    app = stage_bundle(RUN, tmp_path / "a")
    expected = bundle_hash(app)
    assert bundle_hash(stage_bundle(RUN, tmp_path / "another place")) == expected
    with (app / "client" / "app.py").open("a") as file:
        file.write("\n")
    assert bundle_hash(app) != expected
    shutil.rmtree(app)
    other = RUN.model_copy(update={"seed": 1})
    assert bundle_hash(stage_bundle(other, tmp_path / "a")) != expected
