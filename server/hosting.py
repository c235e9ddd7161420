"""HostingConfig: consortium.yaml of a coordinator's folder, and the settings of one run from it.

The server app reads a `ConsortiumConfig` per run, in which the admitted sites stand by name; it
is written from here into the run's folder, so that a change of membership during a run cannot
reach into it. What crosses a hospital's boundary: nothing.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from mfm_core.config import Part, dump_yaml, load_yaml, problems_of
from mfm_core.errors import ConfigError
from server.config import ConsortiumConfig
from server.folder import Folder
from strategies.config import RunConfig
from strategies.exposition import is_loopback
from strategies.onboarding import address_problem
from strategies.processes import split_address
from strategies.rounds import RoundRules

NAME = r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,49}$"
"""A consortium's name; it stands in the authority's certificate, which takes 64 characters."""


class HostingConfig(Part):
    """One coordinator's folder (consortium.yaml). It stays on the coordinator's machine."""

    name: str = Field(pattern=NAME, description="Name of the consortium.")
    address: str = Field(description="host:port that the hospitals' nodes call.")
    listen: str = Field("0.0.0.0:8443", description="IP:port the gateway listens on.")
    superlink: str = Field(
        "127.0.0.1:8000", description="IP:port of Flower's SuperLink; loopback only."
    )
    gateway: Literal["auto", "nginx", "builtin"] = Field(
        "auto", description="What stands before the SuperLink; auto is nginx where installed."
    )
    run: Path = Field(Path("run.yaml"), description="The agreed run; relative to this file.")
    quorum: int | None = Field(
        None, ge=1, description="Sites whose replies a round needs; None is more than half."
    )
    deadline_s: float | None = Field(
        None, gt=0, description="Longest wait for replies, s; None follows earlier rounds."
    )
    grace_s: float | None = Field(
        None, ge=0, description="Wait for the rest after the quorum, s; None likewise."
    )
    attempts: int = Field(3, ge=1, le=20, description="Times a round is asked before giving up.")
    node_wait_s: float = Field(300.0, ge=0, description="Longest wait for sites to appear, s.")
    poll_s: float = Field(
        1.0, gt=0, le=60, description="Longest pause between looks for replies, s."
    )
    pretrained: Path | None = Field(
        None,
        description="Released model file, relative to this file, where run.yaml says pretrained.",
    )
    threads: int = Field(1, ge=1, le=256, description="CPU threads of the server process.")
    metrics: str | None = Field(
        None, description="IP:port on loopback that shows figures to Prometheus; None: none."
    )

    @field_validator("address", "listen", "superlink", "metrics")
    @classmethod
    def _addresses_can_be_used(cls, value: str | None) -> str | None:
        if value is not None and (problem := address_problem(value)):
            raise ValueError(problem)
        return value

    @field_validator("listen", "superlink")
    @classmethod
    def _is_an_ip(cls, value: str) -> str:
        host = split_address(value)[0]
        try:
            ipaddress.ip_address(host)
        except ValueError:
            raise ValueError(
                f"{host!r:.80} is no IP address; use 0.0.0.0 for all of this machine's, or "
                "127.0.0.1 for this machine only"
            ) from None
        return value

    @field_validator("superlink")
    @classmethod
    def _stays_on_this_machine(cls, value: str) -> str:
        if not ipaddress.ip_address(split_address(value)[0]).is_loopback:
            raise ValueError(
                "must be loopback, e.g. 127.0.0.1:8000: whoever reaches a SuperLink's port can "
                "start code on every hospital (flwr 1.41); sites reach the gateway instead"
            )
        return value

    @field_validator("metrics")
    @classmethod
    def _is_for_this_machine(cls, value: str | None) -> str | None:
        if value is not None and not is_loopback(value):
            raise ValueError(
                "must be loopback, e.g. 127.0.0.1:9464: the figures name the sites and are for "
                "this machine; let a Prometheus or its agent here collect them"
            )
        return value

    @model_validator(mode="after")
    def _two_ports(self) -> Self:
        listen, superlink = (
            ipaddress.ip_address(split_address(a)[0]) for a in (self.listen, self.superlink)
        )
        overlap = listen.is_unspecified or listen == superlink
        port = split_address(self.listen)[1]
        if overlap and port == split_address(self.superlink)[1]:
            raise ValueError(f"listen and superlink both take port {port}; use two")
        return self

    @property
    def host(self) -> str:
        """Return the host that sites call; the server certificate must name it."""
        return split_address(self.address)[0]


def load_hosting(folder: Folder) -> HostingConfig:
    """Return consortium.yaml with the path of the run made absolute.

    Raises:
        ConfigError: unreadable or wrong; all problems are listed.
    """
    config = load_yaml(folder.consortium, HostingConfig)
    start = None if config.pretrained is None else folder.root / config.pretrained
    return config.model_copy(update={"run": folder.root / config.run, "pretrained": start})


def load_hosted_run(hosting: HostingConfig) -> RunConfig:
    """Return the agreed run of a loaded consortium.yaml."""
    return load_yaml(hosting.run, RunConfig)


def default_quorum(sites: int) -> int:
    """Return more than half of the sites: two rounds can then never rest on disjoint ones."""
    return sites // 2 + 1


def consortium_of(
    hosting: HostingConfig,
    admitted: Iterable[str],
    *,
    deadline_s: float | None = None,
    grace_s: float | None = None,
) -> ConsortiumConfig:
    """Return what the server app reads for one run.

    Args:
        hosting: consortium.yaml; a number set there goes before a measured one.
        admitted: names of the sites to ask.
        deadline_s: from earlier rounds, seconds; None keeps the default of `RoundRules`.
        grace_s: likewise.

    Raises:
        ConfigError: no site is admitted, or fewer than the quorum.
    """
    names = tuple(sorted(admitted))
    if not names:
        reason = "no site is admitted; run `mfm-server site add FOLDER REQUEST` first"
        raise ConfigError("consortium", [reason])
    times = {
        "deadline_s": _first(hosting.deadline_s, deadline_s, RoundRules, "deadline_s"),
        "grace_s": _first(hosting.grace_s, grace_s, RoundRules, "grace_s"),
    }
    kept = ("attempts", "node_wait_s", "poll_s", "threads", "pretrained")
    fields = {name: getattr(hosting, name) for name in kept} | times
    quorum = hosting.quorum or default_quorum(len(names))
    try:
        return ConsortiumConfig.model_validate(
            {**fields, "sites": names, "quorum": quorum, "output": Path()}
        )
    except ValidationError as error:
        advice = "admit more sites, or lower quorum in consortium.yaml"
        raise ConfigError("consortium", [*problems_of(error), advice]) from None


def _first(wanted: float | None, measured: float | None, part: type[Part], name: str) -> float:
    default = part.model_fields[name].default
    return float(next(value for value in (wanted, measured, default) if value is not None))


def write_consortium(config: ConsortiumConfig, run_folder: Path) -> Path:
    """Write the settings of one run into its folder and return their path.

    The run itself travels in the app bundle, so the file names none.
    """
    run_folder.mkdir(parents=True, exist_ok=True)
    path = run_folder / "consortium.yaml"
    part = path.with_name(".consortium.yaml.part")
    dump_yaml(config, part)
    part.replace(path)
    return path
