"""How far few labels go: head, LoRA, all weights and pseudo-labels after label-free pre-training.

For every cell (a data set) one model is pre-trained on all training images without a label. Then,
once per seed, a share of the patients' labels is shown, class by class and at least one patient
each, smaller shares within larger ones, and the model is fine-tuned with each method, by the
functions of sites and server (`fine_tune`, `with_update`, `pseudo_labels`, `fit_heads`). One
hospital never shows a label. Methods on all images in one place, for the curve:

- `head`, `lora`, `all`: the labelled hospitals; their unlabelled images train the autoencoder;
- `semi`: LoRA with the unlabelled hospital, and pseudo-labels in the second half of the rounds.

`federated_lora` and `federated_semi` are the same with one update per hospital and round, which is
what the unlabelled hospital's gain is read from; `local` is `federated_lora` with a head that this
hospital makes from its own pseudo-labels. What crosses a hospital's boundary: nothing.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mfm_core.atlas import Atlas
from mfm_core.autoencoder import Autoencoder, build_autoencoder
from mfm_core.checkpoint import load_flat_weights, load_model, save_model
from mfm_core.config import PseudoLabelConfig
from mfm_core.dataset import ImageSet
from mfm_core.errors import ConfigError
from mfm_core.evaluation import metric_sum, metrics_from
from mfm_core.finetuning import (
    Lesson,
    fine_tune,
    labelled_with,
    update_schema,
    weight_of,
    with_update,
)
from mfm_core.head import Head, candidate_sum, chosen_head, fit_heads
from mfm_core.inference import latents_of
from mfm_core.latent_sums import latent_sum
from mfm_core.local_head import local_head
from mfm_core.patches import patch_moments, start_linear_path
from mfm_core.pseudo_labels import NO_LABEL, class_atlas, pseudo_labels
from mfm_core.sums import Sum
from mfm_core.training import Schedule, train
from mfm_core.whole_file import write_whole
from simulation.baselines import pool
from simulation.few_labels_config import CURVE, FewLabelsConfig, Method, study_of
from simulation.hospitals import open_hospitals, prepare
from simulation.progress import Display, Step
from strategies.answers import classes_alone
from strategies.config import RunConfig
from strategies.wire import model_size

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Result:
    """One fine-tuned model.

    Attributes:
        cell, seed, method, share: which.
        labelled: images that showed their label in training.
        auc: macro AUC on the test images of all hospitals.
        hospital_auc: likewise of the unlabelled hospital alone.
        pseudo: pseudo-labels in the last round; -1 where the method makes none.
        right: share of them that is right; None without any.
        numbers: that an update holds.
    """

    cell: str
    seed: int
    method: str
    share: float
    labelled: int
    auc: float
    hospital_auc: float
    pseudo: int = -1
    right: float | None = None
    numbers: int = 0


@dataclass(frozen=True)
class World:
    """One cell, pre-trained: images of all hospitals, the true labels among them.

    Attributes:
        run: what was agreed, without the fine-tuning.
        everything: all hospitals' images in one set.
        hospital: `[N]` index of each image's hospital.
        unlabelled: index of the hospital without labels.
        model: pre-trained without labels.
    """

    run: RunConfig
    everything: ImageSet
    hospital: Integers
    unlabelled: int
    model: Autoencoder


def open_world(config: FewLabelsConfig, name: str, data: Path, folder: Path) -> World:
    """Return a cell's images and its pre-trained model; both are kept in the folder.

    Raises:
        ConfigError: the unlabelled hospital is none of the study's. DataError: unusable images.
    """
    cell = config.cells[name]
    study, problems = study_of(cell, name)
    if study is None or problems:
        raise ConfigError(name, problems)
    prepare(study, data, folder)
    names, sets = open_hospitals(folder, study.run)
    if cell.unlabelled not in names:
        known = ", ".join(names)
        raise ConfigError(name, [f"unlabelled: {cell.unlabelled!r} is none of {known}"])
    everything = pool(sets)
    hospital = np.repeat(np.arange(len(sets)), [len(images) for images in sets])
    path = folder / f"pretrained{config.pretrain_steps}.safetensors"
    if not path.is_file():
        model = pretrain(study.run, everything, config.pretrain_steps)
        save_model(path, model, "", study.run.ontology)
    model = load_model(path)[0]
    return World(study.run, everything, hospital, names.index(cell.unlabelled), model)


def pretrain(run: RunConfig, images: ImageSet, steps: int) -> Autoencoder:
    """Return a model that learnt to reconstruct the training images; no label was read."""
    blind = replace(images, labels=np.full_like(images.labels, NO_LABEL))
    model = build_autoencoder(run.model, run.image, len(run.ontology.classes), run.seed)
    rows = blind.select("train")
    if run.model.linear_path:
        start_linear_path(model, patch_moments(blind, rows, run.model))
    schedule = Schedule(0, steps)
    train(model, blind, rows, run.learning, schedule=schedule, steps=steps, seed=run.seed)
    return model


def shown_labels(world: World, share: float, seed: int) -> Integers:
    """Return `[N]` labels of which only a share is shown; -1 elsewhere, test images too.

    Of every class and split a share of its patients at the labelled hospitals, in train at least
    one. The patients of a smaller share are among those of a larger one.
    """
    images, shown = world.everything, np.full(len(world.everything), NO_LABEL, dtype=np.int64)
    generator = np.random.default_rng(seed)
    for split, least in (("train", 1), ("val", 0)):
        here = np.zeros(len(images), dtype=bool)
        here[images.select(split)] = True
        here &= world.hospital != world.unlabelled
        for label in range(len(world.run.ontology.classes)):
            rows = np.flatnonzero(here & (images.labels == label))
            people = generator.permutation(np.unique(images.patients[rows]))
            some = people[: max(least, round(share * len(people)))]
            shown[rows[np.isin(images.patients[rows], some)]] = label
    return shown


def run_of(config: FewLabelsConfig, world: World, method: Method) -> RunConfig:
    """Return the agreed run of a method."""
    part = {"head": "head", "all": "all"}.get(method, "lora")
    semi = method in ("semi", "federated_semi")
    steps = config.steps_per_round
    if method == "head":
        steps = -(-config.head_steps // config.rounds)
    training = {
        "batch_size": config.batch_size,
        "learning_rate": config.learning_rate,
        "labelled_share": config.labelled_share,
        "steps_per_round": steps,
    }
    old = world.run.learning
    learning = old.model_copy(
        update={
            "trainable": part,
            "lora": config.lora,
            "pseudo_labels": config.pseudo_labels.model_copy(
                update={"from_round": config.rounds // 2 + 1 if semi else 0}
            ),
            "training": old.training.model_copy(update=training),
        }
    )
    return world.run.model_copy(update={"rounds": config.rounds, "learning": learning})


def sites_of(world: World, method: Method) -> list[Integers]:
    """Return the training images of every site that takes part: rows of the world's images."""
    train_rows = world.everything.select("train")
    where = world.hospital[train_rows]
    with_bare = method in ("semi", "federated_semi")
    some = train_rows[(where != world.unlabelled) | with_bare]
    if method in CURVE:
        return [some]
    groups = np.unique(world.hospital[some])
    return [some[world.hospital[some] == group] for group in groups]


def sums_of(world: World, model: Autoencoder, labels: Integers, rows: Integers) -> Sum:
    """Return the class sums of some images under the labels that are shown."""
    known = rows[labels[rows] != NO_LABEL]
    nothing = np.zeros((len(known), 0), dtype=np.int64)
    mu = latents_of(model, world.everything, known)
    people = world.everything.patients[known]
    return latent_sum(mu, labels[known], nothing, people, classes_alone(world.run))


def tune(
    config: FewLabelsConfig, world: World, method: Method, shown: Integers, seed: int
) -> tuple[Autoencoder, Integers, int]:
    """Return the fine-tuned model, the labels of its last round and the numbers of an update."""
    run, images = run_of(config, world, method), replace(world.everything, labels=shown)
    model = build_autoencoder(run.model, run.image, len(run.ontology.classes), 0)
    model.load_state_dict(world.model.state_dict())
    sites, used = sites_of(world, method), shown
    numbers = model_size(update_schema(model, run.learning))
    everybody = np.concatenate(sites)
    for number in range(1, run.rounds + 1):
        used = shown
        if run.learning.pseudo_labels.used_in(number):
            used = _with_pseudo(world, model, shown, everybody, run.learning.pseudo_labels)
        steps = run.learning.training.steps_per_round
        total, weight = np.zeros(numbers), 0
        start = {name: value.clone() for name, value in model.state_dict().items()}
        for place, rows in enumerate(sites):
            lesson = Lesson(
                Schedule((number - 1) * steps, run.rounds * steps),
                steps=steps,
                seed=100_000 * seed + 100 * number + place,
                shared_seed=seed,
            )
            own = replace(images, labels=used)
            update, _ = fine_tune(model, own, rows, run.learning, lesson)
            model.load_state_dict(start)
            many = weight_of(run.learning, used[rows])
            total, weight = total + many * update.astype(np.float64), weight + many
        load_flat_weights(model, with_update(model, run.learning, seed, total / weight))
    return model.eval(), used, numbers


def _with_pseudo(
    world: World, model: Autoencoder, shown: Integers, rows: Integers, agreed: PseudoLabelConfig
) -> Integers:
    """Return the labels with those that the class Gaussians of this model give beside."""
    atlas = class_atlas(sums_of(world, model, shown, rows), world.run.ontology.classes)
    bare = rows[shown[rows] == NO_LABEL]
    if atlas is None or len(bare) == 0:
        return shown
    found = pseudo_labels(latents_of(model, world.everything, bare), atlas, agreed).labels
    return labelled_with(replace(world.everything, labels=shown), bare, found).labels


def refitted(world: World, model: Autoencoder, shown: Integers) -> tuple[Head, Atlas | None]:
    """Return the head that a run would end with, and the atlas of the labels that are shown."""
    trained = Head(model.head.weight.detach().numpy(), model.head.bias.detach().numpy())
    rows, val = world.everything.select("train"), world.everything.select("val")
    atlas = class_atlas(sums_of(world, model, shown, rows), world.run.ontology.classes)
    if atlas is None:
        return trained, None
    known = val[shown[val] != NO_LABEL]
    heads = (trained, *fit_heads(atlas))
    mu = latents_of(model, world.everything, known)
    return chosen_head(heads, candidate_sum(mu, shown[known], heads)), atlas


def macro_auc(world: World, mu: NDArray[np.float32], head: Head, rows: Integers) -> float:
    """Return the macro AUC of a head on images with latents `mu`; nan where it has none."""
    images, logits = world.everything, head.logits(mu)
    blank = np.zeros(len(rows))
    total = metric_sum(logits, images.labels[rows], blank, images.patients[rows], 0, 0)
    value = metrics_from(total, world.run.ontology.classes).macro_auc.value
    return float("nan") if value is None else float(value)


def measure(
    config: FewLabelsConfig, world: World, cell: str, method: Method, share: float, seed: int
) -> list[Result]:
    """Return the figures of one method at one share; `federated_lora` gives `local` as well."""
    shown = shown_labels(world, share, seed)
    model, used, numbers = tune(config, world, method, shown, seed)
    head, atlas = refitted(world, model, shown)
    images, train_rows = world.everything, world.everything.select("train")
    given = train_rows[(shown[train_rows] == NO_LABEL) & (used[train_rows] != NO_LABEL)]
    test = images.select("test")
    there = world.hospital[test] == world.unlabelled
    mu = latents_of(model, images, test)
    right = float((used[given] == images.labels[given]).mean()) if len(given) else None
    makes = run_of(config, world, method).learning.pseudo_labels.from_round > 0
    found = Result(
        cell,
        seed,
        method,
        share,
        labelled=int((shown[train_rows] != NO_LABEL).sum()),
        auc=macro_auc(world, mu, head, test),
        hospital_auc=macro_auc(world, mu[there], head, test[there]),
        pseudo=len(given) if makes else -1,
        right=right,
        numbers=numbers,
    )
    if method != "federated_lora" or atlas is None:
        return [found]
    own = train_rows[world.hospital[train_rows] == world.unlabelled]
    latents, people = latents_of(model, images, own), images.patients[own]
    adapted, taken = local_head(head, atlas, latents, people, config.pseudo_labels)
    local = replace(
        found,
        method="local",
        auc=float("nan"),
        hospital_auc=macro_auc(world, mu[there], adapted, test[there]),
        pseudo=taken,
        right=None,
    )
    return [found, local]


def plan_of_cells(config: FewLabelsConfig) -> list[tuple[int, str, float, Method]]:
    """Return (seed, cell, share, method) of everything that is trained: heads, then by seed."""
    curve = [(share, method) for share in config.shares for method in CURVE]
    federated: tuple[Method, ...] = ("federated_lora", "federated_semi")
    there = [(share, method) for share in config.hospital_shares for method in federated]
    wanted = [
        (seed, cell, share, method)
        for seed in config.seeds
        for cell in config.cells
        for share, method in (*there, *curve)
    ]
    return sorted(wanted, key=lambda item: item[-1] != "head")


def run_few_labels(
    config: FewLabelsConfig, data: Path, folder: Path, display: Display
) -> list[Result]:
    """Return all results; what stands in the folder's results.jsonl is not trained again.

    Raises:
        ConfigError: the folder holds a study with other settings.
    """
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    _hold_settings(config, folder)
    path = folder / "results.jsonl"
    found = read_results(path)
    done = {(r.seed, r.cell, r.share, r.method) for r in found}
    todo, worlds = plan_of_cells(config), dict[str, World]()
    for number, (seed, cell, share, method) in enumerate(todo):
        display.show(Step("few labels", number, len(todo), f"{cell} {seed}: {method} {share:g}"))
        if (seed, cell, share, method) in done:
            continue
        if cell not in worlds:
            worlds[cell] = open_world(config, cell, data, folder / cell)
        new = measure(config, worlds[cell], cell, method, share, seed)
        with path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(asdict(result)) + "\n" for result in new)
        found += new
    display.show(Step("few labels", len(todo), len(todo)))
    return found


def _hold_settings(config: FewLabelsConfig, folder: Path) -> None:
    """Write what decides a result, or refuse a folder that was written with something else.

    Seeds, shares and cells may be added later: each result says its own.
    """
    wanted = config.model_dump(mode="json", exclude={"name", "seeds", "shares", "hospital_shares"})
    path = folder / "settings.json"
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != wanted:
        raise ConfigError(str(folder), ["holds a study with other settings; give another --out"])
    write_whole(path, json.dumps(wanted, indent=1).encode())


def read_results(path: Path) -> list[Result]:
    """Return the results of a file, none where it is absent."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [Result(**json.loads(line)) for line in lines if line.endswith("}")]
