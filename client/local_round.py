"""What a site trains with in one round: schedule and seeds of the agreed run, and which labels.

In a round that uses pseudo-labels the server sends the class sums of all sites; labelled sites have
given theirs just before (`class_sums`). A site labels its own unlabelled images with them, for this
round only. Sums are the server's word: made up, they could pick one patient's images and nobody
else's, and the update would show them. So a class of fewer patients than `limits.min_cell_count` is
not labelled, which is a heuristic as all small cells are.
What crosses the hospital's boundary: class sums of labelled images, small cells as zeros; with
SCAFFOLD the site's mean gradient. Which images got a label stays in the site's own log, and how
many: the weight of an update does not say.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from client.limits import guarded_latent_sum
from client.site import Site
from mfm_core.control_variates import ControlVariate
from mfm_core.dataset import ImageSet
from mfm_core.finetuning import Lesson, head_of, labelled_with, weight_of
from mfm_core.pseudo_labels import NO_LABEL, class_atlas, pseudo_labels, without_small
from mfm_core.sums import Sum
from mfm_core.training import Schedule
from strategies.answers import classes_alone
from strategies.plan import attention_stage, derive_seed, shared_seed
from strategies.scaffold import CONTROL, with_control


def control_of(site: Site, number: int, sums: Sum | None) -> ControlVariate | None:
    """Return what corrects the gradients of a round of SCAFFOLD; None in every other run.

    Args:
        site: with its own mean gradient of an earlier round, if it has one.
        number: of the training round.
        sums: the mean gradient of all sites, in such a run.
    """
    if site.run.aggregation.kind != "scaffold" or sums is None:
        return None
    return ControlVariate(site.correction(sums[CONTROL].astype(np.float32), number))


def lesson_of(site: Site, number: int, sums: Sum | None = None) -> Lesson:
    """Return schedule and seeds of a training round; they follow from the agreed run alone.

    Args:
        site: what trains.
        number: of the round.
        sums: what the server sent beside the weights; read where it corrects gradients.
    """
    steps = site.run.learning.training.steps_per_round
    return Lesson(
        schedule=Schedule((number - 1) * steps, site.run.rounds * steps),
        steps=steps,
        seed=derive_seed(site.run, site.config.name, "train", number),
        shared_seed=shared_seed(site.run),
        attention_stage=attention_stage(site.run, number),
        proximal_mu=site.run.aggregation.proximal_mu,
        control=control_of(site, number, sums),
        precision=site.config.precision,
    )


def with_own(site: Site, lesson: Lesson, number: int, reply: tuple[Sum, int]) -> Sum:
    """Return a reply's Sum as it leaves; with the mean gradient that SCAFFOLD found, kept here too.

    Args:
        site: what trained.
        lesson: of the training that is over.
        number: of the round.
        reply: figures of the training, and the images that they stand for.
    """
    total, images = reply
    if lesson.control is None:
        return total
    site.keep_control(lesson.control.found, number)
    return with_control(total, lesson.control.found, images)


def class_sums(site: Site) -> Sum:
    """Return the guarded class sums of the training images under the loaded model."""
    images, chosen = site.images, site.images.select("train")
    nothing = np.zeros((len(chosen), 0), dtype=np.int64)
    cells = (images.labels[chosen], nothing, images.patients[chosen])
    smallest = site.config.limits.min_cell_count
    return guarded_latent_sum(site.latents("train"), cells, classes_alone(site.run), smallest)


def with_pseudo_labels(site: Site, number: int, sums: Sum | None) -> ImageSet:
    """Return the site's images; in a round that says so with labels for unlabelled ones.

    Args:
        site: the weights that the sums were made with are loaded.
        number: of the training round.
        sums: class sums of all sites, in a round that uses them.
    """
    images, agreed = site.images, site.run.learning.pseudo_labels
    if not agreed.used_in(number) or sums is None:
        return images
    chosen = images.select("train")
    bare = images.labels[chosen] == NO_LABEL
    atlas = class_atlas(sums, site.run.ontology.classes)
    if atlas is None or not bare.any():
        return images
    found = pseudo_labels(site.latents("train")[bare], atlas, agreed, head_of(site.model)).labels
    found = without_small(found, images.patients[chosen[bare]], site.config.limits.min_cell_count)
    taken = int((found != NO_LABEL).sum())
    site.log.info("round %d: pseudo-labels for %d of %d images", number, taken, len(found))
    return labelled_with(images, chosen[bare], found)


def weight_in(site: Site, number: int, labels: NDArray[np.int64]) -> int:
    """Return how many images an update of training round `number` stands for.

    As `weight_of`, but where a head is trained on pseudo-labels it is all images, or 1 without any
    label: their number would answer the server how many images lie near what it sent.

    Args:
        site: its run says what learns.
        number: of the round.
        labels: `[M]` that were trained with, pseudo-labels among them.
    """
    learning = site.run.learning
    if learning.trainable == "head" and learning.pseudo_labels.used_in(number):
        return len(labels) if (labels != NO_LABEL).any() else 1
    return weight_of(learning, labels)
