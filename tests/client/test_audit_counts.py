"""A site's audit counts: from the files that a run left, in the schema that was agreed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.audit_counts import audit_sum, open_kept
from client.site import ATLAS, FINAL, HEADS_FILE, Site, close_sites, open_site
from mfm_core.atlas import atlas_from, save_atlas
from mfm_core.checkpoint import encoder_hash, save_model
from mfm_core.errors import CheckpointError
from mfm_core.head import Head
from mfm_core.head_files import save_heads
from mfm_core.inference import infer
from mfm_core.latent_sums import latent_sum
from strategies.answers import CHOSEN, answer_of, part_of
from tests.server.hospitals import RUN, lay_out


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Return a site whose state folder holds a model, its atlas and one head per method."""
    folder = lay_out(tmp_path, names=("north",))
    close_sites()
    found = open_site(folder / "sites" / "0.yaml")
    images, model, state = found.images, found.model, found.config.state_folder
    train = images.select("train")
    parts = (images.labels[train], images.attributes[train], images.patients[train])
    total = latent_sum(infer(model, images, train).mu, *parts, RUN.ontology)
    encoder = encoder_hash(model)
    save_model(state / FINAL, model, found.config_hash, RUN.ontology)
    save_atlas(state / ATLAS, atlas_from(total, RUN.ontology, encoder))
    rng = np.random.default_rng(0)
    shape = (2, model.latent_size)
    heads = {
        name: Head(rng.normal(size=shape).astype(np.float32), np.zeros(2, dtype=np.float32))
        for name in (CHOSEN, *RUN.mitigation.methods)
    }
    save_heads(state / HEADS_FILE, heads, encoder, "view")
    return found


def test_the_counts_have_the_agreed_schema_and_count_every_head(site: Site) -> None:
    kept = open_kept(site.config.state_folder, site.config_hash)
    chosen = site.images.select("test")
    found = audit_sum(kept, site.images, chosen, RUN, 1, len)
    assert found.schema == answer_of(RUN, "audit").total
    one, other = (part_of(found, f"subgroups/{name}") for name in ("chosen", "leace"))
    assert any(not np.array_equal(one[name], other[name]) for name in one.arrays)


def test_with_a_large_smallest_cell_no_patient_is_counted(site: Site) -> None:
    kept = open_kept(site.config.state_folder)
    chosen = site.images.select("test")
    found = audit_sum(kept, site.images, chosen, RUN, 1000, len)
    for name, array in part_of(found, "flips/chosen").arrays.items():
        assert name == "flip.images" or not array.any(), name


def test_before_the_end_of_a_run_there_is_nothing_to_count(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        open_kept(tmp_path)


def test_an_atlas_of_another_encoder_is_refused(site: Site) -> None:
    state = site.config.state_folder
    kept = open_kept(state)
    save_atlas(
        state / ATLAS, kept.atlas.__class__(**{**vars(kept.atlas), "encoder_hash": "0" * 64})
    )
    with pytest.raises(CheckpointError, match="same run"):
        open_kept(state)


def test_a_damaged_head_is_named_with_its_file(site: Site) -> None:
    state, kept = site.config.state_folder, open_kept(site.config.state_folder)
    other = Head(np.zeros((3, 5), dtype=np.float32), np.zeros(3, dtype=np.float32))
    save_heads(state / HEADS_FILE, {**kept.heads, "leace": other}, encoder_hash(kept.model), "view")
    with pytest.raises(CheckpointError, match=r"heads\.safetensors: head 'leace' has weight"):
        open_kept(state)


def test_heads_of_another_run_are_named(site: Site) -> None:
    kept = open_kept(site.config.state_folder)
    fewer = replace(kept, heads={CHOSEN: kept.heads[CHOSEN]})
    with pytest.raises(CheckpointError, match=r"the run's heads .*leace"):
        audit_sum(fewer, site.images, site.images.select("test"), RUN, 1, len)
