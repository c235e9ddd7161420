"""The ServerApp: load what was agreed, go on from the last state, run the phases, write results.

The order of work is in `run_federation`; each step is a named function here or a module beside
it. What crosses a hospital's boundary: nothing; messages are composed in `strategies.strategy`.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import torch
from flwr.app import Array, ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp

from mfm_core.atlas import save_atlas
from mfm_core.autoencoder import count_parameters
from mfm_core.checkpoint import arrays_hash, encoder_hash, save_model, weight_schema
from mfm_core.config import canonical_hash
from mfm_core.errors import ConfigError, MfmError, is_full, system_refusal
from mfm_core.finetuning import update_schema
from mfm_core.head_files import heads_from_sum, save_heads
from mfm_core.public_pictures import Pixels
from server.config import (
    ConsortiumConfig,
    load_agreed_run,
    load_consortium,
    load_public_pictures,
)
from server.journal import RunFolder, write_json
from server.phases import pooled_atlas
from server.receipt_key import signer_of
from server.run_files import read_lines
from server.start import starting_state
from server.task_phases import phases_for, task_results
from server.weights import model_with, new_model
from strategies.answers import HEADS, refuse_too_large
from strategies.central_noise import CENTRAL, spent_by, spent_words
from strategies.central_rounds import CentralRounds
from strategies.code_hash import code_hash
from strategies.collector import Identity
from strategies.config import RunConfig
from strategies.plan import plan_of
from strategies.privacy import label_of
from strategies.receipts import Receipts
from strategies.strategy import PhasedStrategy, RunState
from strategies.wire import MODEL

log = logging.getLogger("flwr.mfm")
app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation that `server-config` describes; called by Flower."""
    path = str(context.run_config.get("server-config", ""))
    if not path:
        raise ConfigError("run config", ["server-config: name the path of consortium.yaml"])
    consortium = load_consortium(Path(path))
    run_federation(grid, consortium, resume=bool(context.run_config.get("resume", False)))


def run_federation(grid: Grid, consortium: ConsortiumConfig, resume: bool) -> RunState:
    """Run every phase that is not done, write the results and return the final state.

    Raises:
        MfmError: with what to do; the run folder then holds the last finished phase.
        Exception: one that was not foreseen; progress.json says so. A folder that holds another
            run is left as it is.
    """
    torch.set_num_threads(consortium.threads)
    run = load_agreed_run(consortium)
    refuse_too_large(run)
    folder = RunFolder(consortium.output, canonical_hash(run), code_hash(), run.rounds)
    kept, phases = folder.open(resume), len(plan_of(run))
    try:
        pictures = load_public_pictures(consortium, run)
        state = kept or starting_state(run, consortium, pictures)
        strategy = strategy_of(run, consortium, folder, state, pictures)
        strategy.start(grid, ArrayRecord({MODEL: Array(strategy.state.weights)}))
        write_results(folder.folder, run, strategy.state)
    except Exception as error:
        text = describe_failure(error)
        log.error("%s", text)
        folder.end("failed", phases, text)
        raise
    folder.end("done", phases, "the run is complete")
    return strategy.state


def strategy_of(
    run: RunConfig,
    consortium: ConsortiumConfig,
    folder: RunFolder,
    state: RunState,
    pictures: Pixels | None = None,
) -> PhasedStrategy:
    """Return the engine of a run, ready to go on from `state`; `pictures` are public ones."""
    model = new_model(run)
    schema, update = weight_schema(model), update_schema(model, run.learning)
    secure = run.secure_sum if run.secure_sum.enabled else None
    identity = Identity(
        canonical_hash(run),
        code_hash(),
        schema,
        update,
        run.aggregation,
        consortium.sites,
        secure,
        run.ontology.tasks,
    )
    hashes = (identity.config_hash, identity.code_hash)
    receipts = Receipts(hashes, signer_of(consortium.receipt_key), read_lines(folder.folder))
    phases = phases_for(run, pictures)
    strategy = PhasedStrategy(phases, identity, consortium.rules, folder, state, receipts)
    if run.privacy.private_sum:
        strategy.protect(CentralRounds(run, schema, folder))
    return strategy


def describe_failure(error: Exception) -> str:
    """Return what progress.json says of the error that ended a run."""
    if isinstance(error, MfmError):
        return str(error)
    if isinstance(error, OSError) and is_full(error):
        return f"{system_refusal(error)}, then resume the run from its last finished phase"
    return (
        f"an error that was not foreseen ended the run ({type(error).__name__}: {error}); the last "
        "finished phase is kept: see the server's log, mend the cause and resume the run"
    )


def write_results(folder: Path, run: RunConfig, state: RunState) -> None:
    """Write final.safetensors, atlas.safetensors and server.json."""
    config_hash = canonical_hash(run)
    model = model_with(run, state.weights)
    save_model(folder / "final.safetensors", model, config_hash, run.ontology)
    if not run.ontology.tasks:
        save_atlas(folder / "atlas.safetensors", pooled_atlas(run, state, config_hash))
    if run.mitigation.attribute is not None and "mitigation" not in state.facts:
        heads = heads_from_sum(state.sums[HEADS])
        save_heads(
            folder / "heads.safetensors", heads, encoder_hash(model), run.mitigation.attribute
        )
    results = summarise(run, state, read_lines(folder))
    write_json(folder / "server.json", {"parameters": count_parameters(model), **results})


def final_hash(state: RunState) -> str:
    """Return the SHA-256 (hex) of the final weights and of every pooled sum that is kept."""
    digest = hashlib.sha256(arrays_hash({"weights": state.weights}).encode())
    for kind in sorted(kind for kind in state.sums if state.sums[kind].arrays):
        digest.update(f"{kind}\0{arrays_hash(state.sums[kind].arrays)}".encode())
    return digest.hexdigest()


def summarise(run: RunConfig, state: RunState, lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the content of server.json from the final state and the ledger.

    `status` is complete when every admitted site answered usably in every exchange, else degraded.
    """
    outcomes = [outcome for line in lines for outcome in line["sites"].values()]
    names = sorted({name for line in lines for name in line["sites"]})
    training = [line for line in lines if line["phase"] == "train"]
    sent = [size for line in training for size in line["bytes"].values()]
    timing: dict[str, float] = {}
    for line in lines:
        timing[line["phase"]] = round(timing.get(line["phase"], 0.0) + line["seconds"], 3)
    return {
        "status": "complete" if set(outcomes) == {"ok"} else "degraded",
        "rounds": run.rounds,
        "sites": len(names),
        "site_names": names,
        "seconds": round(sum(timing.values()), 3),
        "bytes_per_site_and_round": max(sent, default=0),
        "final_hash": final_hash(state),
        "config_hash": canonical_hash(run),
        "code_hash": code_hash(),
        "privacy": {kind: label_of(run, kind).to_dict() for kind in timing},
        **_spent(run, state),
        "rounds_table": training,
        "timing": timing,
        **(task_results(run, state) if run.ontology.tasks else _class_results(run, state)),
    }


def _class_results(run: RunConfig, state: RunState) -> dict[str, Any]:
    """Return the figures of a run on classes."""
    pooled = state.facts["evaluate"]["pooled"]
    return {
        "macro_auc": pooled["macro_auc"]["value"],
        "macro_auc_interval": [pooled["macro_auc"]["low"], pooled["macro_auc"]["high"]],
        "reconstruction_ssim": pooled["ssim"]["value"],
        "reconstruction_ssim_interval": [pooled["ssim"]["low"], pooled["ssim"]["high"]],
        "n_test": pooled["ssim"]["n"],
        "pooled": pooled,
        "per_site": state.facts["evaluate"]["per_site"],
        "heads": state.facts.get("heads"),
        "latent_sums": state.facts["latent_sums"],
        "mitigation": run.mitigation.model_dump() | state.facts.get("mitigation", {})
        if run.mitigation.attribute
        else None,
        "audit": state.facts.get("audit"),
        "spent": state.facts.get("spent"),
    }


def _spent(run: RunConfig, state: RunState) -> dict[str, Any]:
    """Return what the noisy sums of a run with central DP cost, for a site and for a patient."""
    if not run.privacy.private_sum:
        return {}
    told = state.facts[CENTRAL]
    spent = spent_by(run, int(told["draws"]))
    return {CENTRAL: {**spent, "last_clip": told["clip"], "words": spent_words(spent)}}
