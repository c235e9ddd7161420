"""Baselines: each does what its name says, is judged on the pooled test set, and is kept."""

import json
from pathlib import Path

import numpy as np
import pytest

from mfm_core.dataset import ImageSet
from mfm_core.errors import RunFailed
from mfm_core.finetuning import Lesson
from simulation import jobs
from simulation.baselines import (
    fit_alone,
    logistic_scores,
    nearest_scores,
    pool,
    run_local,
    run_pixels,
    run_pooled,
    small_pixels,
)
from simulation.config import StudyConfig
from simulation.hospitals import prepare
from simulation.jobs import Job, plan_jobs, run_job, run_jobs
from simulation.progress import SilentDisplay
from tests.simulation.samples import tiny_study

STUDY = StudyConfig.model_validate(tiny_study(baselines={}))
RUN = STUDY.run


def make_set(seed: int, count: int = 60) -> ImageSet:
    """Images whose class is a bright quarter: easy for every baseline."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 5
    images = rng.integers(0, 60, (count, 1, 32, 32))
    for row, label in enumerate(labels):
        if label:
            y, x = divmod(int(label) - 1, 2)
            images[row, 0, 16 * y : 16 * y + 16, 16 * x : 16 * x + 16] += 150
    splits = np.repeat([0, 1, 2], [count - 20, 10, 10])
    attributes = rng.integers(0, 2, (count, 1))
    return ImageSet(images.astype(np.uint8), labels, attributes, np.arange(count) // 2, splits)


def test_pooling_keeps_patients_of_different_hospitals_apart() -> None:
    sets = [make_set(0), make_set(1)]
    pooled = pool(sets)
    assert len(pooled) == 120
    assert len(np.unique(pooled.patients)) == 60
    assert np.array_equal(pooled.images[60:], sets[1].images)
    assert len(pooled.select("test")) == 20


def test_nearest_neighbour_copies_the_label_of_the_nearest_image() -> None:
    rng = np.random.default_rng(0)
    train, labels = rng.random((50, 12), dtype=np.float32), rng.integers(0, 3, 50)
    x = rng.random((20, 12), dtype=np.float32)
    scores = nearest_scores(train, labels, x, 4)
    distance = ((x[:, None] - train[None]) ** 2).sum(axis=2)
    assert np.array_equal(scores.argmax(axis=1), labels[distance.argmin(axis=1)])
    assert np.isfinite(scores).all()
    assert (scores[:, 3] < scores[:, :3].min()).all()


def test_logistic_scores_are_log_probabilities_and_leave_absent_classes_far_behind() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    train = rng.normal(labels[:, None], 0.5, (60, 8)).astype(np.float32)
    scores = logistic_scores(train, labels, train, 3)
    assert np.exp(scores).sum(axis=1) == pytest.approx(1.0, abs=1e-5)
    assert (scores[:, 2] == -30).all()
    assert (scores.argmax(axis=1) == labels).mean() > 0.9


def test_small_pixels_are_block_means() -> None:
    images = make_set(0)
    large = ImageSet(
        np.repeat(np.repeat(images.images, 2, axis=2), 2, axis=3),
        images.labels,
        images.attributes,
        images.patients,
        images.splits,
    )
    rows = np.arange(4)
    assert small_pixels(large, rows) == pytest.approx(small_pixels(images, rows), abs=1e-6)


@pytest.mark.parametrize("kind", ["nearest_neighbour", "pca_logistic"])
def test_pixel_baselines_solve_an_easy_task_on_the_pooled_test_set(kind: str) -> None:
    done = run_pixels(RUN, [make_set(0), make_set(1)], kind).to_dict()
    assert done["macro_auc"]["value"] > 0.95
    assert done["macro_auc"]["n"] == 20
    assert done["macro_auc"]["low"] is not None
    assert done["ssim"] is None
    assert done["train_images"] == 80


def test_a_local_model_takes_the_federations_steps_and_sees_its_own_images_only() -> None:
    names, first, second = ("north", "south"), make_set(0), make_set(1)
    done = run_local(RUN, [first, second], names, 0)
    assert (done.name, done.site, done.steps) == ("north alone", "north", 4)
    assert done.train_images == 40
    assert done.pooled.ssim.n == 20
    assert done.own is not None and done.own.ssim.n == 10
    other = ImageSet(
        255 - second.images, second.labels, second.attributes, second.patients, second.splits
    )
    again = run_local(RUN, [first, other], names, 0)
    assert again.own == done.own
    assert again.pooled != done.pooled


def test_the_pooled_model_takes_the_steps_that_are_stated() -> None:
    sets = [make_set(0), make_set(1)]
    done = run_pooled(RUN, sets, ("north", "south"), 3).to_dict()
    assert list(done["by_site"]) == ["north", "south"]
    tested = [len(images.select("test")) for images in sets]
    assert [site["ssim"]["n"] for site in done["by_site"].values()] == tested
    assert done["steps"] == 12
    assert "12 steps" in done["name"]
    assert done["train_images"] == 80


def test_training_alone_is_the_same_to_the_bit_for_the_same_seed() -> None:
    images = make_set(0)
    first, again, other = (fit_alone(RUN, images, 3, seed) for seed in (1, 1, 2))
    for one, two in zip(first.state_dict().values(), again.state_dict().values(), strict=True):
        assert one.equal(two)
    assert not first.head.weight.equal(other.head.weight)


def test_attention_gets_the_same_part_of_the_steps_as_in_the_federation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[tuple[int, int, int]] = []

    def note(*given: object) -> tuple[None, dict[str, float]]:
        lesson = given[-1]
        assert isinstance(lesson, Lesson)
        calls.append((lesson.attention_stage, lesson.schedule.first_step, lesson.steps))
        return None, {}

    monkeypatch.setattr("simulation.baselines.fine_tune", note)
    content = tiny_study()["run"]
    content["rounds"] = 10
    content["learning"]["objective"] = {"attention": {"rounds": 4}}
    fit_alone(type(RUN).model_validate(content), make_set(0), 50, 0)
    assert calls == [(1, 0, 20), (2, 20, 30)]


@pytest.mark.parametrize("part", ["head", "lora"])
def test_a_baseline_trains_what_the_federation_trains(part: str) -> None:
    learning = RUN.learning.model_copy(update={"trainable": part})
    bare = RUN.statistics.model_copy(update={"refit_head": False})
    run = RUN.model_copy(update={"learning": learning, "statistics": bare})
    one, none = (fit_alone(run, make_set(0), steps, 1) for steps in (3, 0))
    assert not one.head.weight.equal(none.head.weight)
    assert one.encoder.norm.weight.equal(none.encoder.norm.weight)
    same = one.to_latent.weight.equal(none.to_latent.weight)
    assert same == (part == "head")


def test_jobs_are_planned_longest_first_without_repeats(tmp_path: Path) -> None:
    planned = plan_jobs(STUDY, tmp_path, 3)
    assert [job.kind for job in planned][:4] == ["pooled", "local", "local", "local"]
    assert planned[0].factor == 3
    assert len({job.result for job in planned}) == len(planned) == 6


def test_finished_jobs_are_read_and_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = StudyConfig.model_validate(tiny_study())
    prepare(study, tmp_path, tmp_path)
    (job,) = plan_jobs(study, tmp_path, 2)
    job.result.parent.mkdir()
    assert json.loads(run_job(job).read_text())["kind"] == "nearest_neighbour"
    monkeypatch.setattr(jobs, "ProcessPoolExecutor", None)
    (result,) = run_jobs([job], 2, SilentDisplay())
    assert result["kind"] == "nearest_neighbour"


def test_a_failed_job_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"baseline local-0 failed: .*run\.yaml"):
        run_jobs([Job(tmp_path, "local")], 1, SilentDisplay())
