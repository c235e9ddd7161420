"""What a worker process keeps of a site between messages: images, model, outbox, log.

In a simulation one process answers for several sites and rounds, in deployment every message has
a process of its own; either way nothing is decoded twice, because the pixels lie in the site's
cache. What crosses the hospital's boundary: nothing here.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from flwr.app import Context
from numpy.typing import NDArray

from client.config import SiteConfig, load_site_config, load_site_run
from client.folder import Folder
from client.outbox import Outbox
from client.own_parts import AFTER_LAST_ROUND, own_places, recall, remember, with_own
from client.privacy_ledger import PrivacyLedger
from mfm_core.autoencoder import Autoencoder, build_autoencoder
from mfm_core.checkpoint import encoder_hash, flat_weights, load_flat_weights, weight_schema
from mfm_core.config import canonical_hash
from mfm_core.dataset import ImageSet, open_images
from mfm_core.devices import check_precision, choose_device
from mfm_core.errors import ConfigError
from mfm_core.finetuning import update_schema
from mfm_core.inference import latents_of
from mfm_core.sums import Schema
from strategies.config import RunConfig

LEDGER, LOG, CACHE = "outbox.jsonl", "site.log", "cache"
PRIVACY_LEDGER = "privacy.jsonl"
FINAL, ATLAS, HEADS_FILE = "final.safetensors", "atlas.safetensors", "heads.safetensors"
OWN_HEAD = "own-head.safetensors"
NOT_YET = (
    "not there yet; the last step of a run on classes leaves model and atlas in the state folder, "
    "a pre-training on tasks leaves none. Take part in a run on classes"
)
"""What is said where model or atlas are missing."""


@dataclass(frozen=True)
class Site:
    """One hospital in this process; `node_key` is its private key's file, None in a simulation."""

    config: SiteConfig
    run: RunConfig
    config_hash: str
    node_key: Path | None = None
    _latents: dict[str, tuple[str, NDArray[np.float32]]] = field(
        default_factory=dict, repr=False, compare=False
    )

    @cached_property
    def images(self) -> ImageSet:
        """Return the site's images, from the cache once they have been decoded."""
        cache = self.config.state_folder / CACHE
        return open_images(self.config.data, self.run.ontology, self.run.image, cache)

    @cached_property
    def model(self) -> Autoencoder:
        """Return the one model of this process, on the site's device; `load` gives it weights."""
        classes, device = len(self.run.ontology.classes), choose_device(self.config.device)
        check_precision(device, self.config.precision)
        built = build_autoencoder(self.run.model, self.run.image, classes, self.run.seed)
        return built.to(device)

    @cached_property
    def schema(self) -> Schema:
        """Return names and shapes of the weights."""
        return weight_schema(self.model)

    @cached_property
    def update_schema(self) -> Schema:
        """Return names and shapes of what a training reply changes."""
        return update_schema(self.model, self.run.learning)

    @cached_property
    def starting_weights(self) -> NDArray[np.float32]:
        """Return `[D] float32`, the weights of a new model of this run."""
        classes = len(self.run.ontology.classes)
        new = build_autoencoder(self.run.model, self.run.image, classes, self.run.seed)
        return flat_weights(new)

    @cached_property
    def personal(self) -> tuple[str, ...]:
        """Return the parts this site has a version of its own of; a head needs labels to learn."""
        agreed = self.run.aggregation.personal
        if "head" not in agreed:  # most runs ask for no image here
            return agreed
        labels = self.images.labels[self.images.select("train")]
        return agreed if (labels >= 0).any() else tuple(part for part in agreed if part != "head")

    @cached_property
    def outbox(self) -> Outbox:
        """Return the door of this site."""
        return Outbox(self.config.state_folder / LEDGER, self.config.limits)

    @cached_property
    def privacy(self) -> PrivacyLedger:
        """Return the ledger in which this site pays for private training."""
        return privacy_ledger_of(self.config)

    @cached_property
    def log(self) -> logging.Logger:
        """Return the site's own log file, which stays here."""
        self.config.state_folder.mkdir(parents=True, exist_ok=True)
        logger = logging.getLogger(f"mfm.site.{self.config.name}.{self.config_hash[:12]}")
        logger.propagate = False
        logger.setLevel(logging.INFO)
        handler = logging.FileHandler(self.config.state_folder / LOG, delay=True)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.handlers[:] = [handler]
        return logger

    def load(self, weights: NDArray[np.float32], before: int = AFTER_LAST_ROUND) -> Autoencoder:
        """Return the model with the given flat weights and this site's own version of its parts.

        Args:
            weights: `[D] float32`, the global ones.
            before: the round that is about to begin; own parts are those of the rounds before it.
        """
        load_flat_weights(self.model, weights)
        if personal := self.personal:
            own = recall(self.config.state_folder, self.config_hash, "parts", before)
            if own is not None:
                places = own_places(self.schema, personal)
                load_flat_weights(self.model, with_own(weights, places, own))
        return self.model

    def keep_own(self, number: int) -> None:
        """Keep the site's own parts of the loaded model as what round `number` left."""
        if personal := self.personal:
            own = flat_weights(self.model)[own_places(self.schema, personal)]
            remember(self.config.state_folder, self.config_hash, number, {"parts": own})

    def correction(self, mean: NDArray[np.float32], number: int) -> NDArray[np.float32]:
        """Return `[D]` what round `number` adds to this site's gradients: `mean` less its own."""
        folder = self.config.state_folder
        own = recall(folder, self.config_hash, "control", number)
        return mean if own is None else mean - own

    def keep_control(self, found: NDArray[np.float32], number: int) -> None:
        """Keep the mean gradient that round `number` found."""
        remember(self.config.state_folder, self.config_hash, number, {"control": found})

    def latents(self, split: str) -> NDArray[np.float32]:
        """Return `[N, L]`, the latent means of a split's images under the loaded model.

        Computed once per autoencoder: rounds that change the head only see the same latents.
        """
        encoder = encoder_hash(self.model)
        kept = self._latents.get(split)
        if kept is None or kept[0] != encoder:
            kept = encoder, latents_of(self.model, self.images, self.images.select(split))
            self._latents[split] = kept
        return kept[1]


def forget_heads(folder: Path) -> None:
    """Remove the heads that an earlier run left: they are of another encoder than the new model."""
    for name in (HEADS_FILE, OWN_HEAD):
        (folder / name).unlink(missing_ok=True)


def privacy_ledger_of(config: SiteConfig) -> PrivacyLedger:
    """Return the privacy ledger of a site's settings."""
    folder = config.state_folder
    return PrivacyLedger(folder / PRIVACY_LEDGER, folder / LEDGER, config.limits)


def find_site_file(context: Context) -> Path:
    """Return this node's settings file: named in the node config, or by partition in simulation.

    Raises:
        ConfigError: neither is given.
    """
    named = str(context.node_config.get("site-config", ""))
    if named:
        return Path(named)
    folder = str(context.run_config.get("sites-folder", ""))
    if folder and "partition-id" in context.node_config:
        return Path(folder) / f"{context.node_config['partition-id']}.yaml"
    raise ConfigError("node config", ["site-config: name the path of the site's site.yaml"])


_SITES: dict[Path, Site] = {}


def open_site(path: Path) -> Site:
    """Return the site of a settings file, opened once per process.

    Raises:
        ConfigError: the settings or the run cannot be used.
    """
    key = path.resolve()
    if key not in _SITES:
        config = load_site_config(path)
        torch.set_num_threads(config.threads)
        run = load_site_run(config)
        node_key = Folder(key.parent).key
        known = node_key if node_key.exists() else None
        _SITES[key] = Site(config, run, canonical_hash(run), known)
    return _SITES[key]


def close_sites() -> None:
    """Forget every site of this process, so that settings are read anew."""
    _SITES.clear()
