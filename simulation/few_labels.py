"""How far few labels go: head, LoRA, all weights and pseudo-labels after label-free pre-training.

For every cell (a data set) one model is pre-trained on all training images without a label. Then,
once per seed, a share of the patients' labels is shown, class by class and at least one patient
each, smaller shares within larger ones, and the model is fine-tuned with each method, by the
functions of sites and server (`fine_tune`, `with_update`, `pseudo_labels`, `fit_heads`). One
hospital never shows a label. Methods on all images in one place, for the curve:

- `head`, `lora`, `all`: the labelled hospitals; their unlabelled images train the autoencoder;
- `semi`: with the unlabelled hospital, and pseudo-labels in the second half of the rounds.

`federated` and `federated_semi` are the labelled hospitals and all of them with one update per
hospital and round, which is what the unlabelled hospital's gain is read from; `local` and `both`
are the same with a head that this hospital makes from its own pseudo-labels. Class sums and
pseudo-labels of each hospital keep to its `min_cell_count`, as at a site.
What crosses a hospital's boundary: nothing.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from client.limits import guarded_latent_sum
from mfm_core.atlas import Atlas
from mfm_core.autoencoder import Autoencoder, build_autoencoder
from mfm_core.checkpoint import load_flat_weights
from mfm_core.config import PseudoLabelConfig
from mfm_core.errors import ConfigError
from mfm_core.evaluation import metric_sum, metrics_from
from mfm_core.finetuning import (
    Lesson,
    fine_tune,
    head_of,
    labelled_with,
    update_schema,
    weight_of,
    with_update,
)
from mfm_core.head import Head, candidate_sum, chosen_head, fit_heads
from mfm_core.inference import latents_of
from mfm_core.local_head import local_head
from mfm_core.pseudo_labels import NO_LABEL, class_atlas, pseudo_labels, without_small
from mfm_core.sums import Sum
from mfm_core.training import Schedule
from mfm_core.whole_file import write_whole
from simulation.few_labels_config import CURVE, FewLabelsConfig, Method
from simulation.few_labels_world import World, check_worlds, open_world, shown_labels
from simulation.progress import Display, Step
from strategies.answers import classes_alone
from strategies.config import RunConfig
from strategies.wire import model_size

Integers = NDArray[np.int64]
WITH_PSEUDO: tuple[Method, ...] = ("semi", "federated_semi")
"""Methods with the unlabelled hospital, and pseudo-labels in the second half of the rounds."""

WITH_OWN_HEAD: dict[Method, Method] = {"federated": "local", "federated_semi": "both"}
"""What a federated method is called with the head of the unlabelled hospital's own."""


@dataclass(frozen=True)
class Result:
    """One fine-tuned model.

    Attributes:
        cell, seed, method, share: which.
        labelled: images that showed their label in training.
        auc: macro AUC on the test images of all hospitals.
        hospital_auc: likewise of the unlabelled hospital alone.
        pseudo: pseudo-labels in the last round; -1 where the method makes none.
        right: share that is right of those whose true label is known; None without any.
        numbers: that an update holds.
        patients: that showed their label in training.
        tested, hospital_tested: test images of all hospitals and of the unlabelled one.
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
    patients: int = 0
    tested: int = 0
    hospital_tested: int = 0


def run_of(config: FewLabelsConfig, world: World, method: Method) -> RunConfig:
    """Return the agreed run of a method."""
    part = method if method in ("head", "lora", "all") else config.trainable
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
            "pseudo_labels": old.pseudo_labels.model_copy(
                update={"from_round": config.rounds // 2 + 1 if method in WITH_PSEUDO else 0}
            ),
            "training": old.training.model_copy(update=training),
        }
    )
    return world.run.model_copy(update={"rounds": config.rounds, "learning": learning})


def sites_of(world: World, method: Method) -> list[Integers]:
    """Return the training images of every site that takes part: rows of the world's images."""
    train_rows = world.everything.select("train")
    where = world.hospital[train_rows]
    some = train_rows[(where != world.unlabelled) | (method in WITH_PSEUDO)]
    if method in CURVE:
        return [some]
    groups = np.unique(world.hospital[some])
    return [some[world.hospital[some] == group] for group in groups]


def sums_of(world: World, model: Autoencoder, labels: Integers, rows: Integers) -> Sum:
    """Return the merged class sums of all hospitals' images under the labels that are shown."""
    mu, total = latents_of(model, world.everything, rows), None
    for place in np.unique(world.hospital):
        here = world.hospital[rows] == place
        own = rows[here]
        cells = (
            labels[own],
            np.zeros((len(own), 0), dtype=np.int64),
            world.everything.patients[own],
        )
        found = guarded_latent_sum(mu[here], cells, classes_alone(world.run), world.smallest)
        total = found if total is None else total.merge(found)
    assert total is not None
    return total


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
    """Return the labels with those that each hospital gives its own images beside."""
    atlas = class_atlas(sums_of(world, model, shown, rows), world.run.ontology.classes)
    if atlas is None:
        return shown
    images, head = replace(world.everything, labels=shown), head_of(model)
    for place in np.unique(world.hospital[rows]):
        bare = rows[(shown[rows] == NO_LABEL) & (world.hospital[rows] == place)]
        if len(bare) > 0:
            mu = latents_of(model, images, bare)
            found = pseudo_labels(mu, atlas, agreed, head).labels
            found = without_small(found, images.patients[bare], world.smallest)
            images = labelled_with(images, bare, found)
    return images.labels


def refitted(world: World, model: Autoencoder, shown: Integers) -> tuple[Head, Atlas | None]:
    """Return the head that a run would end with, and the atlas of the labels that are shown."""
    trained = head_of(model)
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


def part_right(given: Integers, true: Integers) -> float | None:
    """Return which part of pseudo-labels is the true label; None where no true one is known."""
    known = true != NO_LABEL
    return float((given == true)[known].mean()) if known.any() else None


def measure(
    config: FewLabelsConfig, world: World, cell: str, method: Method, share: float, seed: int
) -> list[Result]:
    """Return the figures of one method at one share; federated ones with an own head as well."""
    shown = shown_labels(world, share, seed)
    model, used, numbers = tune(config, world, method, shown, seed)
    head, atlas = refitted(world, model, shown)
    images, train_rows = world.everything, world.everything.select("train")
    given = train_rows[(shown[train_rows] == NO_LABEL) & (used[train_rows] != NO_LABEL)]
    test = images.select("test")
    there = world.hospital[test] == world.unlabelled
    mu = latents_of(model, images, test)
    right = part_right(used[given], images.labels[given])
    known = train_rows[shown[train_rows] != NO_LABEL]
    found = Result(
        cell,
        seed,
        method,
        share,
        labelled=len(known),
        auc=macro_auc(world, mu, head, test),
        hospital_auc=macro_auc(world, mu[there], head, test[there]),
        pseudo=len(given) if method in WITH_PSEUDO else -1,
        right=right,
        numbers=numbers,
        patients=len(np.unique(images.patients[known])),
        tested=len(test),
        hospital_tested=int(there.sum()),
    )
    if method not in WITH_OWN_HEAD or atlas is None:
        return [found]
    own = train_rows[world.hospital[train_rows] == world.unlabelled]
    latents, agreed = latents_of(model, images, own), world.run.learning.pseudo_labels
    adapted, labels = local_head(
        head, atlas, latents, images.patients[own], agreed, trained=head_of(model)
    )
    taken = labels != NO_LABEL
    with_own = replace(
        found,
        method=WITH_OWN_HEAD[method],
        auc=float("nan"),
        hospital_auc=macro_auc(world, mu[there], adapted, test[there]),
        pseudo=int(taken.sum()),
        right=part_right(labels[taken], images.labels[own][taken]),
    )
    return [found, with_own]


def plan_of_cells(config: FewLabelsConfig) -> list[tuple[int, str, float, Method]]:
    """Return (seed, cell, share, method) of everything that is trained: heads, then by seed."""
    curve = [(share, method) for share in config.shares for method in config.methods]
    there = [(share, method) for share in config.hospital_shares for method in WITH_OWN_HEAD]
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

    Every data set that is still needed is opened before anything is trained; then one at a time.

    Raises:
        ConfigError: the folder holds a study with other settings.
        ConfigError, DataError: data sets cannot be used; the problems of all at once.
    """
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    _hold_settings(config, folder)
    path = folder / "results.jsonl"
    found = read_results(path)
    done: set[tuple[int, str, float, str]] = {(r.seed, r.cell, r.share, r.method) for r in found}
    todo = plan_of_cells(config)
    waiting = [item for item in todo if item not in done]
    check_worlds(
        config, tuple(dict.fromkeys(cell for _, cell, *_ in waiting)), data, folder, display
    )
    opened, world = "", None
    for number, (seed, cell, share, method) in enumerate(todo):
        display.show(Step("few labels", number, len(todo), f"{cell} {seed}: {method} {share:g}"))
        if (seed, cell, share, method) in done:
            continue
        if world is None or cell != opened:
            opened, world = cell, None  # its images go before the next ones come
            world = open_world(config, cell, data, folder / cell)
        new = measure(config, world, cell, method, share, seed)
        with path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(asdict(result)) + "\n" for result in new)
        found += new
    display.show(Step("few labels", len(todo), len(todo)))
    return found


def _hold_settings(config: FewLabelsConfig, folder: Path) -> None:
    """Write what decides a result, or refuse a folder that was written with something else.

    Seeds, shares and methods may be added later: each result says its own.
    """
    free = {"name", "seeds", "shares", "hospital_shares", "methods"}
    wanted = config.model_dump(mode="json", exclude=free)
    path = folder / "settings.json"
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != wanted:
        raise ConfigError(
            str(folder), ["holds a study with other settings; give another --out, or use --fresh"]
        )
    write_whole(path, json.dumps(wanted, indent=1).encode())


def as_json_values(result: Result) -> dict[str, Any]:
    """Return a result as JSON knows it: null where there is no number."""
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in asdict(result).items()
    }


def read_results(path: Path) -> list[Result]:
    """Return the results of a file, none where it is absent."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [Result(**json.loads(line)) for line in lines if line.endswith("}")]
