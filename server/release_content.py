"""What a release's files say of each other: hashes, run, weights, atlas, heads, gates and card.

Works on private copies (`server.release_check`); a file that is absent has been reported and is
left out. Every comparison is against something computed here from the files themselves.
What crosses a hospital's boundary: nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import ValidationError

from mfm_core.atlas import Atlas, load_atlas
from mfm_core.autoencoder import Autoencoder
from mfm_core.checkpoint import encoder_hash, load_model, read_arrays
from mfm_core.config import ImageConfig, ModelConfig, OntologyConfig, parse_yaml, problems_of
from mfm_core.errors import ConfigError, MfmError
from mfm_core.head_files import load_heads
from mfm_core.model_card_page import draw_html, draw_markdown
from server.judging import judge
from server.release_figures import brief_of
from server.release_files import (
    ATLAS,
    CARD,
    FORMAT,
    HEADS,
    MARKDOWN,
    METRICS,
    MODEL,
    PAGE,
    RELEASE,
    ROUNDS,
    RUN,
    SUMS,
    content_hash,
    hash_of,
    release_id,
)
from strategies.answers import CHOSEN
from strategies.code_hash import code_hash
from strategies.config import RunConfig
from strategies.plan import plan_of

Files = Mapping[str, str]
MAX_TEXT_BYTES = 64 * 2**20
MAX_RUN_BYTES = 2**20


def content_problems(
    copies: Path, found: Files, listed: Files, problems: list[str]
) -> dict[str, Any]:
    """Add everything that does not fit together to `problems`; return release.json.

    Args:
        copies: folder with the private copies.
        found: name to SHA-256 (hex) of each copy.
        listed: the same of SHA256SUMS.
        problems: lines are added.
    """
    release = _json(copies, RELEASE, found, problems)
    facts = release.get("facts")
    if release and not isinstance(facts, dict):
        problems.append(f"{RELEASE}: has no facts")
    facts = facts if isinstance(facts, dict) else {}
    if facts:
        _check_release(release, facts, (found, listed), problems)
    run = _run(copies, found, facts, problems)
    figures = _json(copies, METRICS, found, problems)
    card = _json(copies, CARD, found, problems)
    _check_card(copies, (card, release, figures), found, problems)
    if run is not None:
        _check_gates(run, figures, release, problems)
        _check_weights(copies, run, (facts, figures), found, problems)
    if ROUNDS in found:
        _check_rounds(copies / ROUNDS, problems)
    return release


def _json(copies: Path, name: str, found: Files, problems: list[str]) -> dict[str, Any]:
    if name not in found:
        return {}
    try:
        content = json.loads(_text(copies / name, MAX_TEXT_BYTES))
    except (ValueError, RecursionError) as error:
        problems.append(f"{name}: not JSON ({str(error)[:100]})")
        return {}
    if not isinstance(content, dict) or not content:
        problems.append(f"{name}: expected names and values")
        return {}
    return content


def _text(path: Path, limit: int) -> str:
    if path.stat().st_size > limit:
        raise ValueError(f"larger than {limit:,} bytes")
    return path.read_text(encoding="utf-8")


def _check_release(
    release: Mapping[str, Any],
    facts: Mapping[str, Any],
    hashes: tuple[Files, Files],
    problems: list[str],
) -> None:
    """Compare release.json with itself, with the files and with SHA256SUMS."""
    found, listed = hashes
    if release.get("format") != FORMAT:
        problems.append(f"{RELEASE}: its format is not {FORMAT}; use the version that wrote it")
    if release.get("release_id") != release_id(release):
        problems.append(f"{RELEASE}: its release id is not that of its content")
    named = release.get("files")
    if not isinstance(named, dict):
        problems.append(f"{RELEASE}: names no files")
        return
    own = {name: digest for name, digest in found.items() if name not in (SUMS, RELEASE)}
    for name in sorted({*own, *named} & {*own, *listed}):
        if name in own and named.get(name) != own[name]:
            problems.append(f"{name}: is not the file that {RELEASE} names")
    for name in sorted(named.keys() - listed.keys()):
        problems.append(f"{str(name)[:80]!r}: named by {RELEASE}, not listed in {SUMS}")
    if facts.get("content_hash") != content_hash(facts, named):
        problems.append(f"{RELEASE}: its content hash is not that of files and facts")


def _run(
    copies: Path, found: Files, facts: Mapping[str, Any], problems: list[str]
) -> RunConfig | None:
    """Return the agreed run; say when its hash is not the one in release.json."""
    if RUN not in found:
        return None
    try:
        text = _text(copies / RUN, MAX_RUN_BYTES)
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
            raise ValueError("an alias; a release writes none")
        raw = parse_yaml(text)
        digest = hash_of(raw)
    except (ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        problems.append(f"{RUN}: not readable ({str(error)[:100]})")
        return None
    if facts and digest != facts.get("run_hash"):
        problems.append(f"{RUN}: has run hash {digest[:12]}, {RELEASE} says "
                        f"{str(facts.get('run_hash'))[:12]}")  # fmt: skip
    try:
        return RunConfig.model_validate(raw)
    except ValidationError as error:
        problems += [f"{RUN}: {problem}" for problem in problems_of(error)[:10]]
        return None


def _check_rounds(path: Path, problems: list[str]) -> None:
    try:
        rows = [json.loads(line) for line in _text(path, MAX_TEXT_BYTES).splitlines()]
    except (ValueError, RecursionError):
        rows = []
    if not rows or not all(isinstance(row, dict) and "phase" in row for row in rows):
        problems.append(f"{ROUNDS}: expected a line of JSON per exchange")


def _check_card(
    copies: Path,
    parts: tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]],
    found: Files,
    problems: list[str],
) -> None:
    """Compare the card with release.json, metrics.json and the pages drawn from it."""
    card, release, figures = parts
    if not card:
        return
    try:
        brief = brief_of(figures) if figures else None
    except AttributeError:
        problems.append(f"{METRICS}: its figures are of another form")
        brief = None
    for key, where, other in (
        ("release", RELEASE, release.get("facts")),
        ("gates", RELEASE, release.get("gates")),
        ("figures", METRICS, brief),
    ):
        if other is not None and card.get(key) != other:
            problems.append(f"{CARD}: {key} is not what {where} says")
    facts = card.get("release")
    if not isinstance(facts, dict) or facts.get("written_by") != code_hash():
        return  # another version may draw the same card in another way
    for name, draw in ((MARKDOWN, draw_markdown), (PAGE, draw_html)):
        if name not in found:
            continue
        try:
            same = _text(copies / name, MAX_TEXT_BYTES) == draw(card)
        except (ConfigError, ValueError, RecursionError) as error:
            problems.append(f"{CARD}: {name} cannot be drawn from it ({str(error)[:100]})")
            continue
        if not same:
            problems.append(f"{name}: does not say what {CARD} says")


def _check_gates(
    run: RunConfig, figures: Mapping[str, Any], release: Mapping[str, Any], problems: list[str]
) -> None:
    """Judge the gates again and compare; a gate that holds back needs its reason."""
    told = release.get("gates")
    if not figures or not release:
        return
    try:
        again = judge(run, figures)
        rows = {row["gate"]: row for row in told or ()}
    except (ValidationError, TypeError, KeyError, AttributeError, ValueError):
        problems.append(f"{METRICS} or the gates in {RELEASE}: not of a form that can be judged")
        return
    for verdict in again:
        row = rows.get(verdict.gate)
        if row is None or row.get("state") != verdict.state:
            said = "nothing" if row is None else repr(row.get("state"))[:40]
            problems.append(
                f"{RELEASE}: gate {verdict.gate} says {said}, judged again it is {verdict.state}"
            )
        elif verdict.blocks and not row.get("accepted"):
            problems.append(f"{RELEASE}: gate {verdict.gate} holds it back, without a reason")


def _check_weights(
    copies: Path,
    run: RunConfig,
    told: tuple[Mapping[str, Any], Mapping[str, Any]],
    found: Files,
    problems: list[str],
) -> None:
    """Load model, atlas and heads; compare them with the run, the facts and each other."""
    facts, figures = told
    needed = {ATLAS: any(step.kind == "latent_sums" for step in plan_of(run)),
              HEADS: run.mitigation.attribute is not None}  # fmt: skip
    problems += [f"{n}: is missing" for n, need in needed.items() if need and n not in found]
    if MODEL not in found:
        return
    model = _model(copies / MODEL, run, facts, problems)
    if model is None:
        return
    encoder = encoder_hash(model)
    if ATLAS in found:
        _atlas(copies / ATLAS, run, (encoder, facts, figures), problems)
    if HEADS in found:
        _heads(copies / HEADS, run, (model, encoder), problems)


def _model(
    path: Path, run: RunConfig, facts: Mapping[str, Any], problems: list[str]
) -> Autoencoder | None:
    """Return the model; its shape is compared with the run's before anything is built from it."""
    try:
        _, metadata = read_arrays(path)
        shape = (
            ModelConfig.model_validate_json(metadata["model"]),
            ImageConfig.model_validate_json(metadata["image"]),
            OntologyConfig.model_validate_json(metadata["ontology"]),
        )
        if shape != (run.model, run.image, run.ontology):
            problems.append(f"{MODEL}: another model, image or ontology than {RUN}")
            return None
        model, metadata = load_model(path)
    except (KeyError, ValidationError):
        problems.append(f"{MODEL}: does not say what it is; no model of this software")
        return None
    except MfmError as error:
        problems.append(_without(path, error))
        return None
    own = {**metadata, "encoder_hash": encoder_hash(model)}
    for key, fact in (("config_hash", "run_hash"), ("encoder_hash", "encoder_hash"),
                      ("weights_hash", "weights_hash")):  # fmt: skip
        if facts and own.get(key) != facts.get(fact):
            problems.append(f"{MODEL}: its {fact.replace('_', ' ')} is {str(own.get(key))[:12]}, "
                            f"{RELEASE} says {str(facts.get(fact))[:12]}")  # fmt: skip
    if metadata.get("encoder_hash") != own["encoder_hash"]:
        problems.append(f"{MODEL}: its encoder hash is not that of its weights")
    return model


def _atlas(
    path: Path,
    run: RunConfig,
    others: tuple[str, Mapping[str, Any], Mapping[str, Any]],
    problems: list[str],
) -> None:
    encoder, facts, figures = others
    try:
        atlas: Atlas = load_atlas(path, encoder)
    except MfmError as error:
        problems.append(_without(path, error))
        return
    if facts and atlas.config_hash != facts.get("run_hash"):
        problems.append(f"{ATLAS}: made by another run")
    if atlas.ontology != run.ontology:
        problems.append(f"{ATLAS}: another ontology than {RUN}")
        return
    counts = [round(float(count)) for count in atlas.counts]
    told = figures.get("patients_per_class")
    if told is not None and told != dict(zip(run.ontology.classes, counts, strict=True)):
        problems.append(f"{ATLAS}: other patients per class than {METRICS}")


def _heads(
    path: Path, run: RunConfig, others: tuple[Autoencoder, str], problems: list[str]
) -> None:
    model, encoder = others
    try:
        heads, attribute = load_heads(path, encoder)
    except MfmError as error:
        problems.append(_without(path, error))
        return
    if attribute != run.mitigation.attribute:
        problems.append(f"{HEADS}: made for another attribute than {RUN}")
    own = model.head.weight.detach().numpy(), model.head.bias.detach().numpy()
    if any(head.weight.shape != own[0].shape or head.bias.shape != own[1].shape
           or not (np.isfinite(head.weight).all() and np.isfinite(head.bias).all())
           for head in heads.values()):  # fmt: skip
        problems.append(f"{HEADS}: a head has another shape than the model's, or no numbers")
        return
    used = heads.get(str(run.mitigation.use or CHOSEN))
    if used is None or not (np.array_equal(used.weight, own[0]) and
                            np.array_equal(used.bias, own[1])):  # fmt: skip
        problems.append(f"{HEADS}: the head in use is not that of {MODEL}")


def _without(path: Path, error: MfmError) -> str:
    """Return an error's text without the place of the private copy."""
    return str(error).replace(f"{path}: ", f"{path.name}: ")[:300]
