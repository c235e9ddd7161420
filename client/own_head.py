"""Does this hospital read its patients better with a head of its own: the choice, and the file.

The common model stays in use unless a head made here wins on this site's validation images
(`mfm_core.personal_head`). Then `own-head.safetensors` in the state folder is the common encoder
and decoder with that head: a model file for every command that takes --model.
What crosses the hospital's boundary: nothing. The file learned from few patients: keep it here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from client.config import load_site_config
from client.site import ATLAS, CACHE, FINAL, NOT_YET, OWN_HEAD
from mfm_core.atlas import load_atlas
from mfm_core.checkpoint import encoder_hash, load_model, save_model
from mfm_core.dataset import open_images
from mfm_core.errors import CheckpointError
from mfm_core.personal_head import PersonalHead, personal_head


@dataclass(frozen=True)
class Decided:
    """What was decided at a site; `file` is the model to use there."""

    site: str
    file: Path
    chosen: PersonalHead

    def to_dict(self) -> dict[str, Any]:
        """Return the decision for --json."""
        return {"site": self.site, "model": str(self.file), **self.chosen.to_dict()}


def decide(config: Path) -> Decided:
    """Choose the head of this site; write the model with its own, or take an earlier one away.

    Args:
        config: the site's settings, site.yaml.

    Raises:
        ConfigError: the settings cannot be used.
        CheckpointError: there is no model or atlas of a run, or they do not belong together.
        DataError: images cannot be used.
    """
    site = load_site_config(config)
    folder = site.state_folder
    absent = [str(folder / name) for name in (FINAL, ATLAS) if not (folder / name).is_file()]
    if absent:
        raise CheckpointError(f"{' and '.join(absent)}: {NOT_YET}")
    torch.set_num_threads(site.threads)
    model, metadata = load_model(folder / FINAL)
    atlas = load_atlas(folder / ATLAS, encoder_hash(model))
    images = open_images(site.data, atlas.ontology, model.image_config, folder / CACHE)
    chosen = personal_head(model, images, atlas.ontology)
    path = folder / OWN_HEAD
    if not chosen.own:
        path.unlink(missing_ok=True)
        return Decided(site.name, folder / FINAL, chosen)
    with torch.no_grad():
        model.head.weight.copy_(torch.from_numpy(chosen.head.weight))
        model.head.bias.copy_(torch.from_numpy(chosen.head.bias))
    save_model(path, model, metadata["config_hash"], atlas.ontology)
    return Decided(site.name, path, chosen)


def lines_of(decided: Decided) -> list[str]:
    """Return the decision in words."""
    chosen = decided.chosen
    which = f"its own, {chosen.share:.0%} of it" if chosen.own else "the common one"
    return [
        f"{decided.site}: head in use is {which}; on {chosen.patients} validation patients the "
        f"site's own is {chosen.reason}"
        if chosen.error is not None
        else f"{decided.site}: head in use is the common one; {chosen.reason}",
        f"Model: {decided.file}",
    ]
