"""Do keys, kit, settings and installed code fit each other and the agreed run.

What crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from client.config import ANY, SiteConfig, load_site_config, load_site_run
from client.finding import Finding
from client.folder import Folder
from client.keys import key_problems, public_text, read_key, read_request
from client.kit import read_kit
from client.limits import check_arrays
from mfm_core.autoencoder import build_autoencoder, parameters_of
from mfm_core.config import canonical_hash
from mfm_core.errors import ConfigError, LimitRefusal
from mfm_core.finetuning import update_schema
from mfm_core.sums import Schema
from strategies.answers import answer_of, request_has_model, request_schema
from strategies.bundle import bundle_hash, stage_bundle
from strategies.config import RunConfig
from strategies.onboarding import KIT_SITE, Kit, fingerprint
from strategies.plan import Kind, plan_of
from strategies.wire import MODEL, model_size


@dataclass(frozen=True)
class Settings:
    """What the other parts of the doctor need; a part that could not be read is None."""

    kit: Kit | None
    config: SiteConfig | None
    run: RunConfig | None


def read_settings(folder: Folder) -> tuple[Settings, list[Finding]]:
    """Return kit, settings and run, and a finding for each that cannot be read."""
    found: list[Finding] = []
    kit = config = run = None
    try:
        kit = read_kit(folder.kit)
    except ConfigError as error:
        found.append(_unreadable(error, "get the kit again and `mfm-client join` it"))
    try:
        config = load_site_config(folder.site_file)
    except ConfigError as error:
        found.append(_unreadable(error, f"correct {KIT_SITE}"))
    if config is not None:
        try:
            run = load_site_run(config)
        except ConfigError as error:
            found.append(_unreadable(error, f"set run: kit/run.yaml in {KIT_SITE}"))
    return Settings(kit, config, run), found


def _unreadable(error: ConfigError, advice: str) -> Finding:
    return Finding("settings", "fail", f"{error.subject} cannot be used", advice, error.problems)


def check_settings(folder: Folder, settings: Settings) -> Iterator[Finding]:
    """Yield whether names, run hash and limits fit the agreed run."""
    kit, config, run = settings.kit, settings.config, settings.run
    if kit is None or config is None or run is None:
        return
    try:
        named = {read_request(folder).name, kit.site, config.name}
    except ConfigError as error:
        yield _unreadable(error, "restore request.json, or send a new request")
        named = {kit.site, config.name}
    if len(named) > 1:
        yield Finding(
            "settings",
            "fail",
            f"request, kit and {KIT_SITE} name different sites: {', '.join(sorted(named))}",
            f"set name: {kit.site} in {KIT_SITE}, or ask for this site's own kit",
        )
    yield check_run(kit, config, canonical_hash(run))
    yield from check_pins(kit, config)
    yield from check_limits(config, run)


def check_run(kit: Kit, config: SiteConfig, found: str) -> Finding:
    """Return whether the site accepts the kit's run, and only what it named."""
    accepted = config.limits.accepted_runs
    if found != kit.run_hash:
        return Finding(
            "settings",
            "fail",
            f"the run that {KIT_SITE} names has hash {found[:12]}, the kit's {kit.run_hash[:12]}",
            f"set run: kit/run.yaml in {KIT_SITE}",
        )
    if ANY in accepted:
        return Finding(
            "settings",
            "warn",
            f"limits.accepted_runs is '{ANY}': every run is answered",
            f"name the run you read and agreed to: {kit.run_hash}",
        )
    if kit.run_hash not in accepted:
        return Finding(
            "settings",
            "fail",
            f"run {kit.run_hash[:12]} of the kit is not in limits.accepted_runs",
            f"read kit/run.yaml; if you agree add {kit.run_hash} to {KIT_SITE}",
        )
    return Finding("settings", "ok", f"run {kit.run_hash[:12]} is accepted, as the kit names it")


def check_pins(kit: Kit, config: SiteConfig) -> Iterator[Finding]:
    """Yield whether the site names the kit's bundle and the key of the kit's receipts."""
    bundles = config.limits.accepted_bundles
    if bundles and kit.bundle_hash not in bundles:
        text = f"bundle {kit.bundle_hash[:12]} of the kit is not in limits.accepted_bundles"
        advice = f"if you installed and accept that version add {kit.bundle_hash} to {KIT_SITE}"
        yield Finding("settings", "fail", text, advice)
    if config.receipt_key == kit.receipt_key:
        yield Finding("settings", "ok", "the server's receipts are checked with the kit's key")
        return
    text = "no receipt_key: the server's receipts are kept, but their signatures are not checked"
    if config.receipt_key is not None:
        text = "receipt_key is not the kit's: the server's receipts will be shown as wrong"
    advice = f"compare the key with the coordinator, then set receipt_key: {kit.receipt_key}"
    yield Finding("settings", "warn", text, advice)


def shown_limits(config: SiteConfig) -> Iterator[Finding]:
    """Yield every limit in force; no run can widen one."""
    for name, value in config.limits.model_dump().items():
        yield Finding("settings", "ok", f"limits.{name}: {_shown(value)}")
    yield Finding("settings", "ok", f"work is done on the {config.device}, whatever a run says")


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{kind} {_shown(of)}" for kind, of in value.items()) or "as agreed"
    if isinstance(value, tuple):
        return ", ".join(str(item)[:16] for item in value) or "none named"
    return "none" if value is None else str(value)


def _array_problems(config: SiteConfig, run: RunConfig, asked: Iterable[Kind]) -> Iterator[str]:
    """Yield why the site's own names and sizes of arrays will refuse an agreed record."""
    new = build_autoencoder(run.model, run.image, len(run.ontology.classes), run.seed)
    learnt = model_size(update_schema(new, run.learning))
    for kind in asked:
        answer = answer_of(run, kind)
        shapes = {MODEL: (learnt,)} if answer.update else {}
        try:
            check_arrays(config.limits, kind, shapes | dict(answer.total or ()))
        except LimitRefusal as error:
            yield str(error)


def check_limits(config: SiteConfig, run: RunConfig) -> Iterator[Finding]:
    """Yield what the site's own limits will refuse of the agreed run."""
    asked: list[Kind] = list(
        dict.fromkeys(["hello", *(step.kind for step in plan_of(run)), "receipts"])
    )
    refused = [kind for kind in asked if kind not in config.limits.allowed_kinds]
    if refused:
        yield Finding(
            "settings",
            "warn",
            f"limits.allowed_kinds leaves out {', '.join(refused)}; these will be refused",
            "the run cannot finish with this site in it unless the coordinator counts on that",
        )
    if found := tuple(_array_problems(config, run, asked)):
        text = "limits.allowed_arrays or limits.max_numbers will refuse agreed records"
        advice = "agree on it with the coordinator: a run without these answers may not finish"
        yield Finding("settings", "warn", text, advice, found)
    yield from shown_limits(config)
    if config.limits.manual or config.limits.hours is not None:
        waits = ["lets every message wait for a person"] if config.limits.manual else []
        waits += [f"works {config.limits.hours} only"] if config.limits.hours else []
        advice = "agree on it with the coordinator, whose rounds wait no longer than their deadline"
        yield Finding("settings", "warn", f"this site {', '.join(waits)} (limits)", advice)
    sizes = {kind: message_bytes(run, kind) for kind in asked}
    largest = max(sizes, key=lambda kind: sizes[kind])
    text = (
        f"largest message is {largest} with {sizes[largest] / 2**20:.1f} MiB, "
        f"limits.max_message_mib is {config.limits.max_message_mib:g}"
    )
    if sizes[largest] > config.limits.max_message_bytes:
        yield Finding("settings", "fail", text, "raise the limit to take part in this run")
    else:
        yield Finding("settings", "ok", text)


def message_bytes(run: RunConfig, kind: Kind) -> int:
    """Return the bytes of the arrays of a kind's message or reply, whichever is larger."""
    weights = 4 * parameters_of(run.model, run.image, len(run.ontology.classes))
    answer = answer_of(run, kind)
    back = weights * answer.update + _sum_bytes(answer.total)
    sent = _sum_bytes(request_schema(run, kind, run.rounds))
    return max(back, weights * request_has_model(kind) + sent)


def _sum_bytes(schema: Schema | None) -> int:
    return 8 * sum(int(np.prod(shape)) for _, shape in schema or ())


def check_keys(folder: Folder) -> Finding:
    """Return whether the key pair is whole, private and the one in the request."""
    if problems := key_problems(folder):
        return Finding(
            "keys", "fail", "the site's keys cannot be used", problems[0], tuple(problems)
        )
    own = fingerprint(public_text(read_key(folder)))
    return Finding(
        "keys", "ok", f"private key readable by its owner only, request matches it; it is {own}"
    )


def check_code(kit: Kit | None, run: RunConfig | None) -> Finding:
    """Return whether the installed code gives the bundle that the coordinator will send."""
    if kit is None or run is None:
        return Finding("code", "skip", "needs a kit and a run")
    with tempfile.TemporaryDirectory(prefix="mfm-bundle-") as place:
        found = bundle_hash(stage_bundle(run, Path(place)))
    if found != kit.bundle_hash:
        return Finding(
            "code",
            "fail",
            f"installed code gives bundle {found[:12]}, the kit names {kit.bundle_hash[:12]}",
            "install the version that the coordinator runs; this site answers no other code",
        )
    return Finding("code", "ok", f"installed code gives the kit's bundle {found[:12]}")
