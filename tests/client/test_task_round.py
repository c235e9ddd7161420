from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from client.site import Site, close_sites, open_site
from client.task_round import judge_tasks, train_tasks
from mfm_core.errors import DataError
from mfm_core.tasks import slices_of
from strategies.answers import answer_of
from strategies.task_answers import TASK_IMAGES, rows_in_weights
from tests.server.task_hospitals import HELD, lay_out_tasks


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Site]:
    folder = lay_out_tasks(tmp_path_factory.mktemp("tasks"))
    opened = {name: open_site(folder / f"sites/{n}.yaml") for n, name in enumerate(HELD)}
    close_sites()
    return opened


def test_a_site_sends_zeros_for_the_heads_of_tasks_it_has_not(sites: dict[str, Site]) -> None:
    south = sites["south"]
    weights = south.starting_weights.copy()
    rows = rows_in_weights(south.schema, south.run.ontology.tasks)
    for parts in rows:
        weights[parts[0]] = 0.3  # decay would move them
    images, payload = train_tasks(south, weights, 1)
    assert images == 16 and payload.model is not None and payload.total is not None
    assert payload.total.schema == answer_of(south.run, "train").total
    names = list(slices_of(south.run.ontology.tasks))
    for name, parts, count in zip(names, rows, payload.total[TASK_IMAGES], strict=True):
        moved = any(payload.model[part].any() for part in parts)
        assert moved == name.startswith("chest/") == (count == 16)


def test_the_change_of_a_head_is_weighted_by_its_images_at_the_site(
    sites: dict[str, Site],
) -> None:
    north = sites["north"]
    images, payload = train_tasks(north, north.starting_weights, 1)
    assert payload.model is not None and payload.total is not None
    assert images == 28 and payload.total[TASK_IMAGES].tolist() == [16.0, 16.0, 12.0, 12.0]


def test_test_counts_have_the_agreed_shape(sites: dict[str, Site]) -> None:
    images, payload = judge_tasks(sites["north"], sites["north"].starting_weights, 0)
    assert images == 4 + 3
    assert payload.total is not None
    assert payload.total.schema == answer_of(sites["north"].run, "evaluate").total


def test_a_site_with_no_task_of_the_run_says_so(tmp_path: Path) -> None:
    folder = lay_out_tasks(tmp_path / "a")
    text = (folder / "run.yaml").read_text().replace("chest/", "heart/")
    (folder / "run.yaml").write_text(text)
    south = open_site(folder / "sites/1.yaml")
    close_sites()
    with pytest.raises(DataError, match="no data set has a task of this run"):
        train_tasks(south, np.zeros(3, dtype=np.float32), 1)
