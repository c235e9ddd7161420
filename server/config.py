"""ConsortiumConfig: how the coordinator hosts a run. It never travels.

What crosses a hospital's boundary: nothing.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from mfm_core.config import load_yaml
from mfm_core.public_pictures import Pixels, read_public
from strategies.code_hash import bundle_folder
from strategies.config import RunConfig
from strategies.rounds import RoundRules


class ConsortiumConfig(RoundRules):
    """One coordinator's consortium.yaml: whom to ask, how long to wait, where to write."""

    output: Path = Field(description="Run folder; relative to this file.")
    run: Path | None = Field(
        None, description="The agreed run.yaml; None takes the one in the app bundle."
    )
    receipt_key: Path | None = Field(
        None, description="Key that receipts are signed with; None leaves them unsigned."
    )
    pretrained: Path | None = Field(
        None, description="Released model file of a run that starts from one (run.yaml pretrained)."
    )
    threads: int = Field(1, ge=1, le=256, description="CPU threads of the server process.")

    @property
    def rules(self) -> RoundRules:
        """Return the part the round engine reads."""
        return RoundRules(**{name: getattr(self, name) for name in RoundRules.model_fields})


def load_consortium(path: Path) -> ConsortiumConfig:
    """Return the configuration of a file with its paths made absolute.

    Raises:
        ConfigError: unreadable or wrong; all problems are listed.
    """
    config = load_yaml(path, ConsortiumConfig)
    folder = path.resolve().parent
    run = None if config.run is None else folder / config.run
    key = None if config.receipt_key is None else folder / config.receipt_key
    start = None if config.pretrained is None else folder / config.pretrained
    paths = {"output": folder / config.output, "run": run, "receipt_key": key, "pretrained": start}
    return config.model_copy(update=paths)


def load_agreed_run(config: ConsortiumConfig) -> RunConfig:
    """Return the agreed run: the file named, or run.yaml of the app bundle."""
    return load_yaml(config.run or bundle_folder() / "run.yaml", RunConfig)


def load_public_pictures(config: ConsortiumConfig, run: RunConfig) -> Pixels | None:
    """Return the public pictures that the run names, from beside the run file or the run folder.

    Raises:
        ConfigError: they are missing or others than agreed.
    """
    folder = config.output if config.run is None else config.run.parent
    return read_public(folder, run.privacy.public_pictures, run.image)
