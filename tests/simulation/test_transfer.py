from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from mfm_core.errors import ConfigError, DataError
from mfm_core.tasks import UNKNOWN, slices_of
from simulation.__main__ import STUDIES, call
from simulation.transfer import (
    METHODS,
    World,
    adapt,
    joined_tasks,
    load_transfer,
    open_domains,
    pick_few,
    pretrain_without,
    split_all,
    split_anew,
)
from tests.simulation.samples import TINY_MODEL

DOMAINS = {"spots": ("left", "right"), "bars": ("thin", "thick"), "rings": ("small", "large")}


def write_world(folder: Path) -> None:
    """Three kinds of pictures of two classes, 36 each, two of a patient."""
    lines = ["file,label,patient_id,dataset"]
    for kind, (domain, classes) in enumerate(DOMAINS.items()):
        for number in range(36):
            label = number // 2 % 2
            pixels = np.random.default_rng([kind, number]).integers(0, 60, (32, 32))
            pixels[4 + 4 * kind : 16 + 4 * kind, 4 + 14 * label : 14 + 14 * label] += 150
            name = f"{domain}{number}.png"
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name)
            lines.append(f"{name},{classes[label]},{domain}p{number // 2},{domain}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")


def write_study(folder: Path, **more: Any) -> Path:
    domains = {
        name: {
            "classes": list(classes),
            "data": {"root": ".", "manifest": "labels.csv", "where": {"dataset": [name]}},
        }
        for name, classes in DOMAINS.items()
    }
    content = {
        "name": "move",
        "seeds": [0, 1],
        "shots": [2],
        "pretraining_steps": 3,
        "adaptation_steps": 2,
        "replicates": 20,
        "image": {"size_px": 32},
        "model": TINY_MODEL,
        "learning": {"training": {"batch_size": 8}},
        "domains": domains,
        **more,
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({"transfer": content}), encoding="utf-8")
    return path


@pytest.fixture
def world(tmp_path: Path) -> World:
    write_world(tmp_path)
    config = load_transfer(write_study(tmp_path))
    images = open_domains(config, tmp_path, tmp_path / "cache")
    return World(config, 0, {name: split_anew(found, 0) for name, found in images.items()})


def test_few_labels_come_from_training_groups_each_once_before_any_twice(world: World) -> None:
    images = world.images["spots"]
    few = pick_few(images, 4, seed=0)
    assert set(few) <= set(images.select("train"))
    assert np.bincount(images.labels[few]).tolist() == [4, 4]
    assert len(np.unique(images.patients[few])) == 8
    np.testing.assert_array_equal(few, pick_few(images, 4, seed=0))
    assert len(pick_few(images, 999, seed=0)) == len(images.select("train"))


def test_the_left_out_kind_and_all_test_images_teach_nothing(world: World) -> None:
    tasks, images = joined_tasks(world, ["bars", "rings"])
    assert images.targets is not None and set(tasks) == {"bars", "rings"}
    assert len(images) == 72
    parts = slices_of(tasks)
    assert (images.targets[:36, parts["rings"]] == UNKNOWN).all()
    assert (images.targets[:36, parts["bars"]].sum(axis=1) == 1).all()
    first = pretrain_without(world, "spots")
    noise = np.random.default_rng(0)
    changed = {}
    for name, found in world.images.items():
        pixels = found.images.copy()
        unseen = np.arange(len(found)) if name == "spots" else found.select("test")
        pixels[unseen] = noise.integers(0, 256, pixels[unseen].shape)
        changed[name] = replace(found, images=pixels)
    second = pretrain_without(replace(world, images=changed), "spots")
    for one, two in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_head_alone_leaves_the_released_encoder_and_full_adaptation_moves_it(
    world: World,
) -> None:
    released, few = pretrain_without(world, "spots"), pick_few(world.images["spots"], 2, 0)
    weights = released.to_latent.weight.detach().clone()
    head = adapt(world, "spots", few, released, full=False)
    full = adapt(world, "spots", few, released, full=True)
    assert torch.equal(head.to_latent.weight, weights)
    assert not torch.equal(full.to_latent.weight, weights)
    assert torch.equal(released.to_latent.weight, weights) and head.head.out_features == 2


def test_a_refitted_linear_path_is_that_of_the_few_images_and_the_rest_is_released(
    world: World,
) -> None:
    released, few = pretrain_without(world, "spots"), pick_few(world.images["spots"], 2, 0)
    config = world.config.model_copy(update={"refit_linear_path": True})
    found = adapt(replace(world, config=config), "spots", few, released, full=False)
    scratch = adapt(world, "spots", few, None, full=False)
    assert found.linear_path and scratch.linear_path and released.linear_path
    assert torch.equal(found.linear_path.basis, scratch.linear_path.basis)
    assert not torch.equal(found.linear_path.basis, released.linear_path.basis)
    assert torch.equal(found.to_latent.weight, released.to_latent.weight)


def test_a_study_ends_in_a_table_goes_on_where_it_stopped_and_repeats(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_world(tmp_path)
    arguments = ["transfer", str(write_study(tmp_path)), "--data", str(tmp_path)]
    arguments += ["--out", str(tmp_path / "runs")]
    assert call(arguments) == 0
    said, folder = capsys.readouterr().out, tmp_path / "runs/move"
    rows = json.loads((folder / "rows.json").read_text())
    assert len(rows) == 2 * 3 * len(METHODS) and {row["method"] for row in rows} == set(METHODS)
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows)
    assert "| spots | 2 |" in said
    kept = folder / "bars-seed1.json"
    before = kept.read_text()
    kept.unlink()
    assert call(arguments) == 0
    assert [{**row, "seconds_of_pretraining": 0} for row in json.loads(before)] == [
        {**row, "seconds_of_pretraining": 0} for row in json.loads(kept.read_text())
    ]
    assert call([*arguments, "--set", "transfer.adaptation_steps=9"]) == 1
    assert "holds another study" in capsys.readouterr().err


def test_one_kind_of_image_alone_can_be_left_out(tmp_path: Path) -> None:
    write_world(tmp_path)
    arguments = ["transfer", str(write_study(tmp_path, left_out=["bars"], shots=[2], seeds=[0]))]
    assert call([*arguments, "--data", str(tmp_path), "--out", str(tmp_path / "runs")]) == 0
    rows = json.loads((tmp_path / "runs/move/rows.json").read_text())
    assert {row["left_out"] for row in rows} == {"bars"}
    with pytest.raises(ConfigError, match="left_out: moons is no domain; here are"):
        load_transfer(write_study(tmp_path, left_out=["moons"]))


def test_a_domain_that_cannot_be_learnt_or_tested_is_named_before_anything_is_trained(
    world: World,
) -> None:
    bars = world.images["bars"]
    one = {**world.images, "bars": replace(bars, labels=np.zeros_like(bars.labels))}
    with pytest.raises(DataError) as caught:
        split_all(world.config, one)
    assert len(caught.value.problems) == 2 * len(world.config.seeds)  # train and test
    assert "bars, seed 0: train has images of thin alone" in caught.value.problems[0]
    assert set(split_all(world.config, world.images)) == set(world.config.seeds)


def test_a_wrong_study_is_said_and_the_shipped_one_is_right(tmp_path: Path) -> None:
    assert set(load_transfer(STUDIES / "transfer.yaml").domains) == {
        *("brain_mr", "chest_xray", "breast_us", "skin")
    }
    with pytest.raises(ConfigError, match=r"transfer\.shots"):
        load_transfer(write_study(tmp_path, shots=[]))
    (tmp_path / "other.yaml").write_text("grid: {}\n")
    with pytest.raises(ConfigError, match="the one key transfer"):
        load_transfer(tmp_path / "other.yaml")
