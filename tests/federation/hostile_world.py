"""Three small hospitals of which one may be hostile, and what the honest ones reach without it.

The hospitals' images, settings and secrets are the same in memory and over real processes, so the
final hash of a real run can be held against that of the honest sites alone.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from client.config import load_site_config
from client.secret import keep_secret
from mfm_core.config import DataConfig
from server.app import run_federation
from simulation.consortium import Consortium, Hospital
from strategies.config import RunConfig
from tests.server.hospitals import RUN, consortium, lay_out, make_grid

HONEST, EVIL = ("north", "south"), "west"
SCRIPT = "script.json"
"""In the hostile site's folder: what it does at which step; read anew for every message."""


def run_of(name: str, rounds: int) -> RunConfig:
    """Return a run of the fewest kinds of exchange, of so many rounds of training."""
    content = RUN.model_dump(mode="json")
    content |= {"name": name, "rounds": rounds}
    content["mitigation"] = {"attribute": None}
    content["audit"]["enabled"] = False
    content["statistics"]["refit_head"] = False
    content["model"]["linear_path"] = False
    content["learning"]["training"]["steps_per_round"] = 1
    return RunConfig.model_validate(content)


def lying_script(lies: tuple[str, ...]) -> dict[str, str]:
    """Return a script with one lie per round of training and a broken reply to all else."""
    steps = {f"train {number}": lie for number, lie in enumerate(lies, start=1)}
    return {**steps, "otherwise": "nonsense"}


class World:
    """The hospitals' images and settings below a folder, for one agreed run.

    Args:
        folder: an empty one.
        run: what was agreed.
        evil_minutes: the hostile site's longest work on one message.
    """

    def __init__(self, folder: Path, run: RunConfig, evil_minutes: float = 10.0) -> None:
        self.folder, self.agreed, self.evil_minutes = folder, run, evil_minutes
        lay_out(folder, (*HONEST, EVIL), run)
        for path in sorted((folder / "sites").glob("*.yaml")):
            config = load_site_config(path)
            keep_secret(config.state_folder, secret_of(config.name))

    def alone(self, sites: int = len(HONEST)) -> str:
        """Return the final hash of the first sites alone, run in memory."""
        output = f"alone-{sites}"
        settings = consortium(self.folder, output, simulated_sites=sites)
        run_federation(make_grid(self.folder, sites), settings, resume=False)
        return str(json.loads((self.folder / output / "server.json").read_text())["final_hash"])

    def hospital(self, name: str) -> Hospital:
        """Return what a hospital brings to a real consortium."""
        images = self.folder / "images" / name
        data = DataConfig.model_validate(
            {"root": images, "manifest": images / "manifest.csv", "columns": {"split": "split"}}
        )
        minutes = self.evil_minutes if name == EVIL else 10.0
        limits = {"min_cell_count": 1, "max_minutes": minutes}
        return Hospital(data, limits, secret_of(name))

    def consortium(self, hosting: Mapping[str, object]) -> HostileConsortium:
        """Return the consortium of all three, the last one hostile."""
        hospitals = {name: self.hospital(name) for name in (*HONEST, EVIL)}
        return HostileConsortium(self.folder / "real", self.agreed, hospitals, hosting)


def secret_of(name: str) -> bytes:
    """Return the known secret of a hospital, without which its bootstrap would differ."""
    return name.encode().ljust(32, b".")


class HostileConsortium(Consortium):
    """A consortium whose site `EVIL` runs the modified runner of `evil_site`."""

    inside: tuple[str, ...] = ()
    """Words before the command of the hostile site, e.g. those that enter a network namespace."""

    def play(self, script: Mapping[str, str]) -> None:
        """Tell the hostile site what to do from now on."""
        path = self.hospital(EVIL).root / SCRIPT
        part = path.with_suffix(".part")
        part.write_text(json.dumps(dict(script)), encoding="utf-8")
        part.replace(path)

    def _product(self, package: str, *words: str) -> list[str]:
        if (package, words) == ("client", ("start", str(self.hospital(EVIL).root))):
            folder = str(self.hospital(EVIL).root)
            own = [sys.executable, "-P", "-m", "tests.federation.evil_site", folder]
            return [*self.inside, *own]
        return super()._product(package, *words)
