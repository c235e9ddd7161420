"""Our pure functions give what Flower's own strategies give on the same replies."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdam, FedAvg, FedYogi
from flwr.supercore.task_identity import TaskIdentity

from strategies import aggregation
from strategies.config import AggregationConfig

SIZE, ROUNDS = 400, 4


@pytest.fixture(autouse=True)
def _identity() -> None:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1


def replies(weights: list[np.ndarray], images: list[int]) -> list[Message]:
    made = []
    for node, (flat, number) in enumerate(zip(weights, images, strict=True), start=2):
        asked = Message(RecordDict(), node, "train", group_id="1")
        content = RecordDict(
            {
                "arrays": ArrayRecord({"model": Array(flat)}),
                "metrics": MetricRecord({"num-examples": number}),
            }
        )
        made.append(Message(content, reply_to=asked))
    return made


def flower(kind: str, config: AggregationConfig) -> FedAvg:
    if kind in ("fedavg", "fedprox"):
        return FedAvg()
    settings = {
        "eta": config.server_learning_rate,
        "beta_1": config.beta_1,
        "beta_2": config.beta_2,
        "tau": config.tau,
    }
    return (FedAdam if kind == "fedadam" else FedYogi)(**settings)


@pytest.mark.parametrize("kind", ["fedavg", "fedprox", "fedadam", "fedyogi"])
def test_equal_to_flower_over_rounds(kind: str) -> None:
    generator = np.random.default_rng(3)
    config = AggregationConfig(
        kind=kind, proximal_mu=0.1 if kind == "fedprox" else 0.0, server_learning_rate=0.05
    )
    theirs, state = flower(kind, config), aggregation.init(config, SIZE)
    weights = generator.normal(size=SIZE).astype(np.float32)
    reference = weights.copy()
    for number in range(1, ROUNDS + 1):
        images = [int(n) for n in generator.integers(5, 200, size=3)]
        updates = [generator.normal(0, 0.1, SIZE).astype(np.float32) for _ in images]
        if kind in ("fedadam", "fedyogi"):
            theirs.current_arrays = {"model": reference}
        record, _ = theirs.aggregate_train(
            number, replies([reference + update for update in updates], images)
        )
        assert record is not None
        reference = record["model"].numpy().astype(np.float32)
        mean = np.average([u.astype(np.float64) for u in updates], axis=0, weights=images)
        state, weights = aggregation.apply(config, state, weights, mean)
        assert np.abs(weights - reference).max() < 1e-6
    assert state.rounds == ROUNDS


def test_one_site_is_its_own_weights() -> None:
    config = AggregationConfig()
    start = np.ones(5, dtype=np.float32)
    _, weights = aggregation.apply(config, aggregation.init(config, 5), start, np.full(5, 0.25))
    assert np.array_equal(weights, np.full(5, 1.25, dtype=np.float32))


def test_fedavg_remembers_nothing_and_the_state_is_not_changed() -> None:
    config = AggregationConfig(kind="fedadam")
    before = aggregation.init(config, 3)
    aggregation.apply(config, before, np.zeros(3, dtype=np.float32), np.ones(3))
    assert before.rounds == 0 and not before.first_moment.any()
    assert aggregation.init(AggregationConfig(), 3).first_moment.shape == (0,)


def test_fedprox_is_fedavg_at_the_server() -> None:
    """A FedProx run differs at the site only: the server half is FedAvg."""
    prox = AggregationConfig(kind="fedprox", proximal_mu=0.5)
    args = (np.zeros(2, dtype=np.float32), np.array([1.0, -2.0]))
    _, one = aggregation.apply(prox, aggregation.init(prox, 2), *args)
    _, two = aggregation.apply(AggregationConfig(), aggregation.init(prox, 2), *args)
    assert np.array_equal(one, two)
