"""A coordinator of one site: makes each message of the agreed run from the site's own answers.

It takes the server's part in a dry run, with the same arithmetic on the sums of this site alone,
so that the real client app can be asked everything that the real server would ask. Only the first
round of each kind is played. What crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from mfm_core.atlas import Atlas, atlas_from
from mfm_core.autoencoder import Autoencoder, build_autoencoder
from mfm_core.checkpoint import encoder_hash, flat_weights, load_flat_weights
from mfm_core.errors import DataError
from mfm_core.finetuning import with_update
from mfm_core.head import Head, chosen_head, fit_heads
from mfm_core.head_files import heads_to_sum
from mfm_core.mitigation import finish_round, start_heads
from mfm_core.patches import start_linear_path
from mfm_core.public_basis import PublicBasis
from mfm_core.public_pictures import Pixels
from mfm_core.sums import Sum
from strategies.answers import (
    CHOSEN,
    HEADS,
    LATENT,
    heads_sum,
    joined,
    mitigated_methods,
    request_has_model,
    trained_methods,
)
from strategies.atlas_release import basis_of, latent_sum_of
from strategies.central_rounds import told_to_sites
from strategies.config import RunConfig
from strategies.plan import Kind, shared_seed
from strategies.scaffold import control_told
from strategies.starting_weights import first_weights
from strategies.wire import Payload


class LocalCoordinator:
    """What a coordinator would hold if this site were the only one."""

    def __init__(self, run: RunConfig, pictures: Pixels | None = None) -> None:
        self.run, self.pictures = run, pictures
        self.weights: NDArray[np.float32] = first_weights(run, pictures)
        self._latent: Sum | None = None
        self._class_sums: Sum | None = None
        self._heads: dict[str, Head] = {}
        self._candidates: tuple[Head, ...] = ()

    def message(self, kind: Kind) -> Payload:
        """Return what the site is sent.

        Raises:
            DataError: an earlier answer is missing, or too few patients for what is needed.
        """
        return Payload(self.weights, self._told(kind)) if request_has_model(kind) else Payload()

    def _told(self, kind: Kind) -> Sum | None:
        """Return the Sum that goes with the weights."""
        if kind == "heads":
            self._candidates = (self._own_head(), *fit_heads(self._atlas()))
            return heads_sum(self._candidates)
        if kind == "mitigate":
            heads, methods = self._mitigated(), trained_methods(self.run)
            trained = heads_to_sum({str(method): heads[method] for method in methods})
            return joined({LATENT: self._sums(), HEADS: trained})
        if kind == "atlas":
            self._atlas()  # refuses what a site could not make an atlas of
            parts = {LATENT: self._sums()}
            if mitigated_methods(self.run):
                parts[HEADS] = heads_to_sum(self._mitigated())
            return joined(parts)
        if kind == "latent_sums" and self.run.privacy.atlas.private:
            return self.basis().to_sum()
        return self._told_to_train() if kind == "train" else None

    def _told_to_train(self) -> Sum | None:
        """Return what goes with the weights of the first training round that has anything."""
        if self.run.aggregation.kind == "scaffold":
            return control_told(self.run, None)
        return told_to_sites(self.run, {}) if self._class_sums is None else self._class_sums

    def take(self, kind: Kind, reply: Payload) -> None:
        """Take an answer in, as the server would if it were the only one."""
        total = reply.total
        if kind == "train" and reply.model is not None:
            seed = shared_seed(self.run)
            self.weights = with_update(self._model(), self.run.learning, seed, reply.model)
        elif kind == "class_sums" and total is not None:
            self._class_sums = total
        elif kind == "patch_moments" and total is not None:
            model = self._model()
            start_linear_path(model, total)
            self.weights = flat_weights(model)
        elif kind == "latent_sums" and total is not None:
            self._latent = self._understood(total)
        elif kind == "heads" and total is not None:
            self._use(chosen_head(self._candidates, total))
        elif kind == "mitigate" and total is not None:
            heads = self._mitigated()
            trained = {method: heads[method] for method in trained_methods(self.run)}
            finished = finish_round(trained, total)
            self._heads = {**heads, **{str(method): head for method, head in finished.items()}}

    def _understood(self, total: Sum) -> Sum:
        """Return the latent Sum; of noisy cells as if this site were as many as are agreed."""
        agreed = self.run.privacy.atlas
        if not agreed.private:
            return total
        return latent_sum_of(self.run, self.basis(), total, agreed.min_sites)[0]

    def basis(self) -> PublicBasis:
        """Return the public basis of the present weights."""
        return basis_of(self.run, self.weights, self.pictures)

    def _new(self) -> Autoencoder:
        run = self.run
        return build_autoencoder(run.model, run.image, len(run.ontology.classes), run.seed)

    def _model(self) -> Autoencoder:
        model = self._new()
        load_flat_weights(model, self.weights)
        return model.eval()

    def _own_head(self) -> Head:
        head = self._model().head
        return Head(head.weight.detach().numpy(), head.bias.detach().numpy())

    def _use(self, head: Head) -> None:
        model = self._model()
        with torch.no_grad():
            model.head.weight.copy_(torch.from_numpy(head.weight))
            model.head.bias.copy_(torch.from_numpy(head.bias))
        self.weights = flat_weights(model)

    def _sums(self) -> Sum:
        if self._latent is None:
            raise DataError("dry run", ["the latent sums were not released, so nothing follows"])
        return self._latent

    def _atlas(self) -> Atlas:
        latent = self._sums()
        counts = latent["class.count"]
        if counts.sum() <= (counts > 0).sum():
            raise DataError(
                "dry run",
                [
                    f"{counts.sum():.0f} patients leave in the latent sums of this site alone, too "
                    "few for an atlas; with other sites there may be enough"
                ],
            )
        return atlas_from(latent, self.run.ontology, encoder_hash(self._model()), "")

    def _mitigated(self) -> dict[str, Head]:
        """Return the chosen head and the mitigated ones; made when first asked for."""
        if not self._heads:
            atlas, chosen = self._atlas(), self._own_head()
            methods, recipe = mitigated_methods(self.run), self.run.mitigation.recipe
            started = start_heads(methods, atlas, chosen, recipe)
            self._heads = {CHOSEN: chosen, **{str(name): head for name, head in started.items()}}
        return self._heads
