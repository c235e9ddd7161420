"""The server's half of each exchange: what is sent, and what the pooled answers become.

    hello -> patch_moments -> (class_sums ->) train 1..R -> latent_sums -> heads -> mitigate 1..M
    -> evaluate -> atlas -> audit

Each phase is small and pure: from a RunState and pooled sums to the next RunState. The sites'
half is `client.app`; `strategies.answers` says what replies hold.
What crosses a hospital's boundary: towards it, the weights, candidate heads and pooled sums.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from mfm_core.atlas import Atlas, atlas_from
from mfm_core.checkpoint import encoder_hash, flat_weights
from mfm_core.erasure import why_not_comparable
from mfm_core.evaluation import metrics_from
from mfm_core.finetuning import update_schema
from mfm_core.head import Head, choose_head, chosen_head, fit_heads
from mfm_core.head_files import heads_from_sum, heads_to_sum
from mfm_core.mitigation import finish_round, start_heads
from mfm_core.patches import start_linear_path
from mfm_core.public_basis import PublicBasis
from mfm_core.public_pictures import Pixels
from mfm_core.sums import Sum
from server.audit import audit_figures, bias_rows, without_mitigated
from server.round_facts import spent_facts, spent_note, training_facts
from server.weights import attention_slice, head_of, model_with, new_model, next_weights, with_head
from strategies import aggregation
from strategies.answers import (
    CHOSEN,
    HEADS,
    LATENT,
    SUPPRESSED,
    Answer,
    answer_of,
    heads_sum,
    joined,
    mitigated_methods,
    part_of,
    trained_methods,
)
from strategies.atlas_release import basis_of, latent_sum_of, refuse_too_few_patients
from strategies.central_rounds import asked_of_sites, told_to_sites
from strategies.collector import Pooled
from strategies.config import RunConfig
from strategies.plan import Kind, Step, attention_stage, plan_of
from strategies.scaffold import CONTROL, control_told, mean_control
from strategies.starting_weights import first_weights
from strategies.strategy import Phase, RunState
from strategies.wire import Payload, model_size

CLASS_SUMS = "class_sums"
CLASS_CELLS = ("class.count", "class.sum")
SITE_CELLS = "site_cells"
"""The class cells of each site, which make the site itself a field of the bias ranking."""


def first_state(run: RunConfig, pictures: Pixels | None = None) -> RunState:
    """Return the state before the first phase; `pictures` are the public ones of the run."""
    moving = model_size(update_schema(new_model(run), run.learning))
    weights = first_weights(run, pictures)
    return RunState(0, weights, aggregation.init(run.aggregation, moving))


def pooled_atlas(run: RunConfig, state: RunState, config_hash: str) -> Atlas:
    """Return the atlas of the state's latent sums, made for the state's weights."""
    encoder = encoder_hash(model_with(run, state.weights))
    return atlas_from(state.sums[LATENT], run.ontology, encoder, config_hash)


def phases_of(run: RunConfig, pictures: Pixels | None = None) -> tuple[Phase, ...]:
    """Return every phase of a run, hello first; `pictures` are the public ones of the run."""
    kinds: dict[Kind, Callable[[RunConfig, Step], Phase]] = {
        "hello": Asking,
        "patch_moments": PatchMoments,
        "class_sums": ClassSums,
        "train": Training,
        "latent_sums": partial(LatentSums, pictures=pictures),
        "heads": Heads,
        "mitigate": Mitigation,
        "evaluate": Evaluation,
        "atlas": Spreading,
        "audit": Audit,
        "receipts": Asking,
    }
    return tuple(kinds[step.kind](run, step) for step in (Step("hello"), *plan_of(run)))


@dataclass(frozen=True)
class Asking:
    """An exchange that asks and changes nothing: hello, where sites name themselves and count."""

    run: RunConfig
    step: Step

    def request(self, state: RunState) -> Payload:
        """Return what every site is sent."""
        return Payload()

    def answer(self, state: RunState) -> Answer:
        """Return what every site must reply."""
        return answer_of(self.run, self.step.kind)

    def note(self, total: Sum | None, images: int) -> dict[str, Any]:
        """Return the facts kept of one site's reply."""
        return {}

    def finish(self, state: RunState, pooled: Pooled) -> tuple[RunState, dict[str, Any]]:
        """Return the next state and facts for the ledger line."""
        return state, {}


class PatchMoments(Asking):
    """One federated PCA of patches starts the linear path."""

    def finish(self, state: RunState, pooled: Pooled) -> tuple[RunState, dict[str, Any]]:
        """Return the state with the linear path started from all sites' patches."""
        assert pooled.total is not None
        model = model_with(self.run, state.weights)
        start_linear_path(model, pooled.total)
        return replace(state, weights=flat_weights(model)), {}


class ClassSums(Asking):
    """The class Gaussians under the weights of one round, for its pseudo-labels."""

    def request(self, state: RunState) -> Payload:
        """Return the weights that the round starts from."""
        return Payload(state.weights)

    def finish(self, state: RunState, pooled: Pooled) -> tuple[RunState, dict[str, Any]]:
        """Return the state with the pooled class sums.

        Raises:
            DataError: too few labelled patients the first time, so that nothing could be labelled
                and the run end without an atlas. Later ones may lack a site: that round goes on.
        """
        assert pooled.total is not None
        if CLASS_SUMS not in state.sums:
            refuse_too_few_patients(pooled.total["class.count"])
        return replace(state, sums={**state.sums, CLASS_SUMS: pooled.total}), {}


class Training(Asking):
    """One round: local training, averaged; validation of the weights before it."""

    def request(self, state: RunState) -> Payload:
        """Return the global weights; with class sums, mean gradient or clip where they are used."""
        if self.run.learning.pseudo_labels.used_in(self.step.round):
            return Payload(state.weights, state.sums[CLASS_SUMS])
        if self.run.aggregation.kind == "scaffold":
            return Payload(state.weights, control_told(self.run, state.sums.get(CONTROL)))
        return Payload(state.weights, told_to_sites(self.run, state.facts))

    def answer(self, state: RunState) -> Answer:
        """Return what every site must reply: an update within the clip, if one is agreed."""
        return asked_of_sites(self.run, state.facts)

    def note(self, total: Sum | None, images: int) -> dict[str, Any]:
        """Return a site's loss terms and validation figures; nothing in a private run."""
        return {} if total is None else training_facts(self.run, total, images)

    def finish(self, state: RunState, pooled: Pooled) -> tuple[RunState, dict[str, Any]]:
        """Return the state after the server optimiser's step.

        Outside attention stage one the attention map stays, whatever momentum the optimiser has.
        """
        assert pooled.update is not None
        server, weights = next_weights(self.run, state, pooled.update)
        if attention_stage(self.run, self.step.round) != 1:
            fixed = attention_slice(self.run)
            weights[fixed] = state.weights[fixed]
        changed = replace(state, server=server, weights=weights)
        if pooled.total is None:
            return changed, {}
        facts = training_facts(self.run, pooled.total, pooled.images)
        if self.run.aggregation.kind == "scaffold":
            control = mean_control(pooled.total, pooled.images)
            changed = replace(changed, sums={**state.sums, CONTROL: control})
        own = {
            name: {part: noted[part] for part in ("loss", "val")}
            for name, noted in pooled.seen.items()
        }
        return changed, {**facts, "of_site": own}


@dataclass(frozen=True)
class LatentSums(Asking):
    """The one release of class and attribute sums."""

    pictures: Pixels | None = None

    def basis(self, state: RunState) -> PublicBasis:
        """Return the public basis of the weights."""
        return basis_of(self.run, state.weights, self.pictures)

    def request(self, state: RunState) -> Payload:
        """Return the trained weights; with the public basis where the atlas is private."""
        if self.run.privacy.atlas.private:
            return Payload(state.weights, self.basis(state).to_sum())
        return Payload(state.weights)

    def note(self, total: Sum | None, images: int) -> dict[str, Any]:
        """Return how many small cells the site left out, and its class cells."""
        if total is None or self.run.privacy.atlas.private:
            return {}
        cells = {name: total[name].tolist() for name in CLASS_CELLS}
        return {"suppressed_cells": int(total[SUPPRESSED][0]), "cells": cells}

    def finish(self, state: RunState, pooled: Pooled) -> tuple[RunState, dict[str, Any]]:
        """Return the state with the pooled latent sums.

        Raises:
            DataError: too few patients for an atlas; nothing is kept, so a resume asks again.
        """
        assert pooled.total is not None
        if self.run.privacy.atlas.private:
            basis = self.basis(state)
            made, facts = latent_sum_of(self.run, basis, pooled.total, pooled.sites)
            sums = {**state.sums, LATENT: made, SITE_CELLS: Sum()}
            return replace(state, sums=sums, facts={**state.facts, "latent_sums": facts}), facts
        refuse_too_few_patients(pooled.total["class.count"])
        counts = [round(float(count)) for count in pooled.total["class.count"]]
        facts = {
            "patients_per_class": dict(zip(self.run.ontology.classes, counts, strict=True)),
            "suppressed_cells": {n: f["suppressed_cells"] for n, f in pooled.seen.items()},
        }
        cells = {
            f"{site}/{name}": np.array(noted["cells"][name])
            for site, noted in pooled.seen.items()
            for name in CLASS_CELLS
        }
        sums = {**state.sums, LATENT: pooled.total, SITE_CELLS: Sum(cells)}
        return replace(state, sums=sums, facts={**state.facts, "latent_sums": facts}), facts


class Heads(Asking):
    """The choice between the trained head and closed-form heads, on all validation images."""

    def candidates(self, state: RunState) -> tuple[Head, ...]:
        """Return the trained head, then one head per shrinkage."""
        return (head_of(self.run, state.weights), *fit_heads(pooled_atlas(self.run, state, "")))

    def request(self, state: RunState) -> Payload:
        """Return the weights and the candidates."""
        return Payload(state.weights, heads_sum(self.candidates(state)))

    def finish(self, state: RunState, pooled: Pooled) -> tuple[RunState, dict[str, Any]]:
        """Return the state with the chosen head in the weights."""
        assert pooled.total is not None
        head = chosen_head(self.candidates(state), pooled.total)
        number = max(1.0, float(pooled.total["images"][0]))
        facts = {
            "chosen_head": choose_head(pooled.total),
            "val_accuracy": [float(n) / number for n in pooled.total["correct"]],
        }
        changed = replace(state, weights=with_head(self.run, state.weights, head))
        return replace(changed, facts={**state.facts, "heads": facts}), facts


class Evaluation(Asking):
    """Test figures of the final weights, pooled and per site, with intervals by patient."""

    def request(self, state: RunState) -> Payload:
        """Return the final weights."""
        return Payload(state.weights)

    def note(self, total: Sum | None, images: int) -> dict[str, Any]:
        """Return a site's own figures."""
        assert total is not None
        return {"metrics": metrics_from(total, self.run.ontology.classes).to_dict()}

    def finish(self, state: RunState, pooled: Pooled) -> tuple[RunState, dict[str, Any]]:
        """Return the state with the figures in its facts and the counts in its sums."""
        assert pooled.total is not None
        metrics = metrics_from(pooled.total, self.run.ontology.classes).to_dict()
        per_site = {name: noted["metrics"] for name, noted in pooled.seen.items()}
        counts = {name: pooled.total[name] for name in ("confusion", "histogram", "ssim")}
        brief = {key: metrics[key]["value"] for key in ("macro_auc", "macro_ap", "ssim")}
        facts = {**state.facts, "evaluate": {"pooled": metrics, "per_site": per_site}}
        sums = {**state.sums, "evaluate": Sum(counts)}
        return replace(state, facts=facts, sums=sums), {"test": brief}


def why_not_mitigated(run: RunConfig, state: RunState) -> str:
    """Return why no head can leave the run's attribute out; empty if one can.

    The pooled sums decide, which every site gets too, so both ends come to the same answer.
    """
    return why_not_comparable(pooled_atlas(run, state, ""), run.mitigation.recipe.attribute)


class Mitigation(Asking):
    """One round of heads that leave an attribute out; the encoder is frozen.

    Where the released cells cannot compare the attribute's values the heads stay what they were
    and the reason stands in the facts: a run does not fail at its end for want of them.
    """

    def heads(self, state: RunState) -> dict[str, Head]:
        """Return the chosen head and every mitigated one, as they stand before this round."""
        if HEADS in state.sums:
            return heads_from_sum(state.sums[HEADS])
        atlas, chosen = pooled_atlas(self.run, state, ""), head_of(self.run, state.weights)
        methods, recipe = mitigated_methods(self.run), self.run.mitigation.recipe
        if why_not_mitigated(self.run, state):
            return {CHOSEN: chosen, **{str(method): chosen for method in methods}}
        started = start_heads(methods, atlas, chosen, recipe)
        return {CHOSEN: chosen, **{str(method): head for method, head in started.items()}}

    def request(self, state: RunState) -> Payload:
        """Return the weights, the latent sums and the heads that are trained."""
        trained, heads = trained_methods(self.run), self.heads(state)
        parts = {
            LATENT: state.sums[LATENT],
            HEADS: heads_to_sum({method: heads[method] for method in trained}),
        }
        return Payload(state.weights, joined(parts))

    def finish(self, state: RunState, pooled: Pooled) -> tuple[RunState, dict[str, Any]]:
        """Return the state with the next heads; after the last round with the one to be used."""
        assert pooled.total is not None
        heads, settings = self.heads(state), self.run.mitigation
        trained = {method: heads[method] for method in trained_methods(self.run)}
        finished = finish_round(trained, pooled.total)
        heads |= {str(method): head for method, head in finished.items()}
        weights = state.weights
        if settings.use is not None and self.step.round == settings.exchanges:
            weights = with_head(self.run, weights, heads[settings.use])
        sums = {**state.sums, HEADS: heads_to_sum(heads)}
        facts, reason = {}, why_not_mitigated(self.run, state)
        if reason:
            facts = {"mitigation": {"not_made": reason}}
        changed = replace(state, weights=weights, sums=sums, facts={**state.facts, **facts})
        return changed, facts


class Spreading(Asking):
    """Every site gets the final model and the pooled sums, from which it makes its atlas.

    Of a private run each says what training has cost its patients.
    """

    def request(self, state: RunState) -> Payload:
        """Return the final weights, the pooled latent sums and the mitigated heads."""
        parts = {part: state.sums[part] for part in (LATENT, HEADS) if part in state.sums}
        return Payload(state.weights, joined(parts))

    def note(self, total: Sum | None, images: int) -> dict[str, Any]:
        """Return what a site of a private run has spent."""
        return spent_note(total)

    def finish(self, state: RunState, pooled: Pooled) -> tuple[RunState, dict[str, Any]]:
        """Return the state with what every site has spent in its facts."""
        facts = spent_facts(self.run, pooled)
        return replace(state, facts={**state.facts, **facts}), facts


class Audit(Asking):
    """What the sites count about the final model, and the ranking of possible biases."""

    def note(self, total: Sum | None, images: int) -> dict[str, Any]:
        """Return a site's own figures."""
        assert total is not None
        return audit_figures(self.run, total)

    def finish(self, state: RunState, pooled: Pooled) -> tuple[RunState, dict[str, Any]]:
        """Return the state with the figures of all sites and of each."""
        assert pooled.total is not None
        found = audit_figures(self.run, pooled.total)
        per_site = {name: {key: noted[key] for key in found} for name, noted in pooled.seen.items()}
        if "mitigation" in state.facts:
            found = without_mitigated(found)
            per_site = {name: without_mitigated(own) for name, own in per_site.items()}
        atlas, head = pooled_atlas(self.run, state, ""), head_of(self.run, state.weights)
        seen = state.sums.get(SITE_CELLS, Sum())  # nothing under a secure sum, nor in a kept state
        released = sorted({name.partition("/")[0] for name in seen.arrays})
        cells = {name: part_of(seen, name) for name in released}
        biases = bias_rows(atlas, cells, head)
        facts = {"pooled": found, "per_site": per_site, "biases": biases}
        return replace(state, facts={**state.facts, "audit": facts}), {}
