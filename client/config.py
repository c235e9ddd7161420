"""SiteConfig: one hospital's settings and limits. It never leaves the hospital.

A limit can only narrow what was agreed; no run can widen it. What crosses the boundary: nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from mfm_core.config import DataConfig, Part, load_yaml
from mfm_core.devices import Precision, Wanted
from mfm_core.errors import ConfigError
from mfm_core.public_pictures import Pixels, read_public
from strategies.code_hash import bundle_folder
from strategies.config import RunConfig
from strategies.exposition import is_loopback
from strategies.onboarding import address_problem
from strategies.plan import KINDS, Kind

ANY = "any"
FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")


class LimitsConfig(Part):
    """What this site allows at most."""

    accepted_runs: tuple[str, ...] = Field(
        min_length=1,
        description="Hashes of the runs this site takes part in; 'any' accepts every run.",
    )
    allowed_kinds: tuple[Kind, ...] = Field(KINDS, description="Exchanges this site answers.")
    accepted_bundles: tuple[str, ...] = Field(
        (),
        description="Hashes of the programs this site works for, beside being the one it builds "
        "from its installed code; empty: that alone decides.",
    )
    allowed_arrays: Mapping[Kind, tuple[str, ...]] = Field(
        default_factory=dict,
        description="Names that arrays of a kind may have, * for anything, `model` for the change "
        "of the weights; a kind that is not named here may hold what was agreed.",
    )
    max_numbers: Mapping[Kind, int] = Field(
        default_factory=dict, description="Most numbers in one record of a kind."
    )
    max_update_norm: float | None = Field(
        None, gt=0, description="Largest L2 norm of a change of the weights; None: as agreed."
    )
    max_message_mib: float = Field(64.0, gt=0, description="Largest message in or out, MiB.")
    min_cell_count: int = Field(
        10, ge=1, description="Fewest patients of a released cell; smaller ones leave as zeros."
    )
    require_secure_sum: bool = Field(
        False, description="Refuse every exchange whose answer the server could read by itself."
    )
    min_secure_sites: int = Field(
        3, ge=3, le=256, description="Fewest sites of a secure sum this site takes part in."
    )
    peers: Mapping[str, str] = Field(
        default_factory=dict,
        description="Fingerprint (SHA256:..., as `ssh-keygen -lf keys/node.pub` prints) of every "
        "other site's node key; a secure sum with any other site or key is refused. Empty: the key "
        "seen first is kept.",
    )
    manual: bool = Field(
        False, description="Hold every message until a person runs `mfm-client outbox approve`."
    )
    manual_minutes: float = Field(
        720.0, gt=0, le=10_080, description="Longest wait for that person; then it is refused."
    )
    hours: str | None = Field(
        None,
        pattern=r"^([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d$",
        description="When this site works, local time, e.g. 18:00-06:00; None: always.",
    )
    max_minutes: float = Field(
        240.0, gt=0, le=10_080, description="Longest work on one message; then it is ended."
    )
    max_epsilon: float = Field(
        8.0, gt=0, description="Largest epsilon of all private training here, over every run."
    )
    delta: float = Field(1e-6, gt=0, lt=1e-2, description="Delta at which max_epsilon holds.")
    min_noise_multiplier: float = Field(
        0.0, ge=0, description="Least noise of a run for a patient: central DP counts half its own."
    )
    max_atlas_releases: int = Field(
        3, ge=0, description="Most private releases of cells in one run; a repeat is none."
    )
    privacy_unit: Literal["image", "patient"] = Field(
        "patient", description="Unit that private runs must hide here; others are refused."
    )
    weight_margin: float = Field(
        20.0, gt=1, description="How many times weights may exceed those of usual models."
    )
    graph: str | None = Field(
        None,
        pattern=r"^[0-9a-f]{64}$",
        description="Hash of the only architecture accepted; None: any that this code builds.",
    )
    max_memory_gib: float | None = Field(
        None, gt=0, description="Largest private memory of the working process; None: no limit."
    )

    @field_validator("accepted_runs")
    @classmethod
    def _hashes_or_any(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [text for text in value if text != ANY and not re.fullmatch("[0-9a-f]{64}", text)]
        if wrong:
            raise ValueError(f"expected 64 hexadecimal digits or 'any'; {wrong} is neither")
        return value

    @field_validator("accepted_bundles")
    @classmethod
    def _hashes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := [text for text in value if not re.fullmatch("[0-9a-f]{64}", text)]:
            raise ValueError(f"expected 64 hexadecimal digits, found {wrong}")
        return value

    @field_validator("peers")
    @classmethod
    def _fingerprints(cls, value: Mapping[str, str]) -> Mapping[str, str]:
        if wrong := sorted(n for n, key in value.items() if not FINGERPRINT.fullmatch(key)):
            raise ValueError(f"expected SHA256: and 43 characters, not so for {', '.join(wrong)}")
        return value

    @field_validator("max_numbers")
    @classmethod
    def _not_negative(cls, value: Mapping[Kind, int]) -> Mapping[Kind, int]:
        if wrong := sorted(kind for kind, most in value.items() if most < 0):
            raise ValueError(f"expected 0 or more, not so for {', '.join(wrong)}")
        return value

    @property
    def max_message_bytes(self) -> int:
        """Return the largest message in bytes."""
        return int(self.max_message_mib * 2**20)

    @property
    def memory_bytes(self) -> int | None:
        """Return the largest private memory in bytes, or None."""
        return None if self.max_memory_gib is None else int(self.max_memory_gib * 2**30)


class SiteConfig(Part):
    """One hospital (site.yaml)."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        description="Name in the consortium; in deployment the node is registered under it.",
    )
    data: DataConfig
    limits: LimitsConfig
    state_folder: Path = Field(description="Cache, ledger, log and received models of this site.")
    device: Wanted = Field(
        "cpu", description="Where training runs; auto takes a graphics card where there is one."
    )
    precision: Precision = Field(
        "float32",
        description="Of the products in training: tf32 (graphics cards) and bf16 round their "
        "factors. DP-SGD and training on tasks compute in float32 whatever is said.",
    )
    threads: int = Field(1, ge=1, le=256, description="CPU threads of one worker process.")
    receipt_key: str | None = Field(
        None,
        pattern="^[0-9a-f]{64}$",
        description="Public key that the server's receipts are signed with, from kit.json; None in "
        "a simulation: receipts are kept unsigned.",
    )
    metrics: str | None = Field(
        None, description="IP:port on loopback that shows counts to Prometheus; None: none."
    )
    simulated: bool = Field(
        False,
        description="Virtual site of a simulation: its noise follows from the run's seed, so that "
        "runs repeat, and protects nobody.",
    )
    run: Path | None = Field(
        None, description="The site's own copy of run.yaml; None takes the one in the app bundle."
    )

    @field_validator("metrics")
    @classmethod
    def _is_for_this_machine(cls, value: str | None) -> str | None:
        problem = None if value is None else address_problem(value)
        if value is not None and (problem or not is_loopback(value)):
            raise ValueError(
                problem or "must be loopback, e.g. 127.0.0.1:9465: the figures are for this machine"
            )
        return value

    @model_validator(mode="after")
    def _splits_leave_training(self) -> Self:
        if self.data.val_fraction + self.data.test_fraction >= 0.95:
            raise ValueError("data: val_fraction + test_fraction leave no images for training")
        return self


def load_site_config(path: Path) -> SiteConfig:
    """Return the settings of a file; its relative paths start at the file's own folder.

    Raises:
        ConfigError: unreadable or wrong; all problems are listed.
    """
    config = load_yaml(path, SiteConfig)
    folder = path.resolve().parent
    manifest = None if config.data.manifest is None else folder / config.data.manifest
    data = config.data.model_copy(update={"root": folder / config.data.root, "manifest": manifest})
    run = None if config.run is None else folder / config.run
    changed = {"data": data, "state_folder": folder / config.state_folder, "run": run}
    return config.model_copy(update=changed)


def load_site_run(config: SiteConfig) -> RunConfig:
    """Return the agreed run: the site's own copy, or run.yaml of the app bundle."""
    path = config.run or bundle_folder() / "run.yaml"
    if config.run is None and not path.is_file():
        raise ConfigError(str(path), ["not in the app bundle; name the site's own copy in 'run'"])
    return load_yaml(path, RunConfig)


def public_pictures(config: SiteConfig, run: RunConfig) -> Pixels | None:
    """Return the public pictures that the agreed run names, from beside this site's copy of it.

    Raises:
        ConfigError: they are missing or others than agreed.
    """
    folder = bundle_folder() if config.run is None else config.run.parent
    return read_public(folder, run.privacy.public_pictures, run.image)
