"""What a hospital answers: limits before work, coded words instead of texts, everything listed."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from client.app import Request, app, store_atlas, train_heads
from client.audit_counts import open_kept
from client.limits import guarded_latent_sum
from client.site import HEADS_FILE, OWN_HEAD, Site, close_sites, open_site
from mfm_core.checkpoint import flat_weights, weight_schema
from mfm_core.config import canonical_hash, dump_yaml
from mfm_core.errors import unforeseen_word
from mfm_core.head import Head
from mfm_core.head_files import save_heads
from mfm_core.inference import infer
from mfm_core.sums import Sum
from strategies import chain, wire
from strategies.answers import CHOSEN, LATENT, answer_of, joined, request_schema
from strategies.code_hash import code_hash
from strategies.config import MitigationConfig
from strategies.plan import MESSAGE_TYPES, Kind
from strategies.rounds import FAILED, REFUSED
from tests.server.hospitals import RUN, lay_out, site_config
from tests.strategies.records import with_array


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    return lay_out(tmp_path_factory.mktemp("hospital"), ("north",))


@pytest.fixture(autouse=True)
def _fresh(folder: Path) -> None:
    close_sites()
    dump_yaml(site_config("north"), folder / "sites" / "0.yaml")


def ask(
    folder: Path, kind: Kind, record: RecordDict | None = None, number: int = 0, site: int = 0
) -> Message:
    """Return the real app's reply to a message of a kind."""
    content = message(folder, kind, number) if record is None else record
    sent = Message(content, 5, MESSAGE_TYPES[kind], group_id=str(number))
    run_config = {"sites-folder": str(folder / "sites")}
    return app(sent, Context(1, 5, {"partition-id": site}, RecordDict(), run_config))


def message(folder: Path, kind: Kind, number: int = 0, **header: object) -> RecordDict:
    filled = {"config_hash": canonical_hash(RUN), "code_hash": code_hash(), **header}
    made = wire.Header(kind, number, **filled)  # type: ignore[arg-type]
    if kind in ("hello", "patch_moments"):
        return wire.encode(made, wire.Payload())
    model = open_site(folder / "sites" / "0.yaml").model
    return wire.encode(made, wire.Payload(flat_weights(model)), weight_schema(model))


def refusal(reply: Message) -> tuple[int, str | None]:
    assert reply.has_error()
    return reply.error.code, reply.error.reason


@pytest.mark.parametrize("kind", ["hello", "patch_moments", "train", "latent_sums", "evaluate"])
def test_replies_hold_what_was_agreed_and_no_more(folder: Path, kind: Kind) -> None:
    number = 1 if kind == "train" else 0
    reply = ask(folder, kind, number=number)
    answer, site = answer_of(RUN, kind), open_site(folder / "sites" / "0.yaml")
    expected = wire.Expected(
        kind, number, canonical_hash(RUN), code_hash(), site.schema if answer.update else None,
        answer.total, "north", (1, 48),
    )  # fmt: skip
    header, _ = wire.decode(reply.content, expected)
    line = chain.read(folder / "state" / "north" / "outbox.jsonl")[-1]
    assert (line["kind"], line["hash"]) == (kind, header.ledger_hash)


def test_training_is_the_same_bits_each_time_and_other_bits_each_round(folder: Path) -> None:
    def update(number: int) -> bytes:
        record = message(folder, "train", number)
        return wire.arrays_of(ask(folder, "train", record, number).content)["model"]

    # The message's weights are read before training changes the model of this process.
    start = message(folder, "train", 1)
    first = wire.arrays_of(ask(folder, "train", start, 1).content)["model"]
    again = wire.arrays_of(ask(folder, "train", start, 1).content)["model"]
    assert first == again
    assert update(2) != first


@pytest.mark.parametrize(
    ("limits", "kind"),
    [
        ({"accepted_runs": ["f" * 64]}, "hello"),
        ({"allowed_kinds": ["hello"]}, "latent_sums"),
        ({"max_message_mib": 0.01}, "train"),
        ({"allowed_arrays": {"latent_sums": ["class.*"]}}, "latent_sums"),
        ({"max_numbers": {"train": 10}}, "train"),
    ],
)
def test_limits_refuse_before_any_image_is_opened(
    folder: Path, limits: dict[str, object], kind: Kind
) -> None:
    record = message(folder, kind, 1 if kind == "train" else 0)
    close_sites()
    dump_yaml(site_config("north", **limits), folder / "sites" / "0.yaml")
    lines = len(chain.read(folder / "state" / "north" / "outbox.jsonl"))
    reply = ask(folder, kind, record, 1 if kind == "train" else 0)
    assert refusal(reply) == (REFUSED, "limit")
    assert "images" not in vars(open_site(folder / "sites" / "0.yaml"))
    assert len(chain.read(folder / "state" / "north" / "outbox.jsonl")) == lines


@pytest.mark.parametrize(
    ("changed", "word"),
    [({"code_hash": "0" * 64}, "code"), ({"config_hash": "0" * 64}, "config")],
)
def test_other_code_or_another_run_is_refused(
    folder: Path, changed: dict[str, object], word: str
) -> None:
    assert refusal(ask(folder, "hello", message(folder, "hello", **changed))) == (REFUSED, word)


@pytest.mark.parametrize("number", [0, -1, RUN.rounds + 1])
def test_a_round_outside_the_plan_is_refused_before_work(folder: Path, number: int) -> None:
    record = message(folder, "train", number)
    close_sites()
    assert refusal(ask(folder, "train", record, number)) == (REFUSED, "plan")
    assert "images" not in vars(open_site(folder / "sites" / "0.yaml"))


@pytest.mark.parametrize(
    ("kind", "changed"),
    [
        ("patch_moments", {"model": RUN.model.model_copy(update={"linear_path": False})}),
        ("heads", {"statistics": RUN.statistics.model_copy(update={"refit_head": False})}),
    ],
)
def test_a_step_the_run_does_not_have_is_refused(
    tmp_path: Path, kind: Kind, changed: dict[str, object]
) -> None:
    run = RUN.model_copy(update=changed)
    other = lay_out(tmp_path / "other", ("north",), run)
    record = message(other, kind, config_hash=canonical_hash(run))
    close_sites()
    assert refusal(ask(other, kind, record)) == (REFUSED, "plan")
    site = open_site(other / "sites" / "0.yaml")
    assert "images" not in vars(site)
    assert not (site.config.state_folder / "outbox.jsonl").exists()


def test_a_crafted_model_is_refused(folder: Path) -> None:
    crafted = np.zeros(3, dtype=np.float32)
    record = with_array(message(folder, "train", 1), wire.MODEL, crafted, seal=False)
    assert refusal(ask(folder, "train", record, 1)) == (REFUSED, "digest")


def test_broken_data_leaves_as_one_word_and_stays_in_the_log(folder: Path) -> None:
    config = site_config("north")
    broken = config.data.model_copy(update={"manifest": Path("../images/north/secret_patient.csv")})
    state = Path("../state/broken")
    changed = config.model_copy(update={"data": broken, "state_folder": state})
    dump_yaml(changed, folder / "sites" / "1.yaml")
    reply = ask(folder, "hello", site=1)
    assert refusal(reply)[1] in ("data", "config")
    assert refusal(reply)[0] == FAILED
    assert "secret_patient" in (folder / "state" / "broken" / "site.log").read_text()


def test_what_nobody_expected_leaves_as_internal(folder: Path) -> None:
    reply = ask(folder, "hello", RecordDict(), site=0)
    assert refusal(reply) == (REFUSED, "record")
    (folder / "sites" / "7.yaml").write_text("name: [")
    assert refusal(ask(folder, "hello", site=7)) == (FAILED, "config")
    (folder / "blocked").write_text("a file")
    blocked = site_config("north").model_copy(update={"state_folder": Path("../blocked/state")})
    dump_yaml(blocked, folder / "sites" / "8.yaml")
    assert refusal(ask(folder, "hello", site=8)) == (FAILED, "internal")


def test_a_full_disk_leaves_as_a_word_of_its_own() -> None:
    assert unforeseen_word(OSError(errno.ENOSPC, "No space left on device")) == "disk"
    assert unforeseen_word(OSError(errno.EDQUOT, "Quota exceeded")) == "disk"
    assert unforeseen_word(OSError(errno.EACCES, "Permission denied")) == "internal"
    assert unforeseen_word(ValueError("28")) == "internal"


def test_small_cells_do_not_leave(folder: Path) -> None:
    dump_yaml(site_config("north", min_cell_count=1000), folder / "sites" / "0.yaml")
    close_sites()
    reply = ask(folder, "latent_sums")
    total = answer_of(RUN, "latent_sums").total
    site = open_site(folder / "sites" / "0.yaml")
    expected = wire.Expected(
        "latent_sums", 0, site.config_hash, code_hash(), None, total, "north", (0, 48)
    )
    _, payload = wire.decode(reply.content, expected)
    assert payload.total is not None and payload.total["suppressed"] == 2
    assert not payload.total["class.sum"].any() and not payload.total["second_moment"].any()


@pytest.mark.parametrize(("smallest", "leaves"), [(12, True), (13, False)])
def test_a_mean_image_of_few_patients_does_not_leave(
    folder: Path, smallest: int, leaves: bool
) -> None:
    """The train split holds 24 images of 12 patients: patients count, not images."""
    dump_yaml(site_config("north", min_cell_count=smallest), folder / "sites" / "0.yaml")
    close_sites()
    ledger = folder / "state" / "north" / "outbox.jsonl"
    lines = len(chain.read(ledger))
    reply = ask(folder, "patch_moments")
    assert len(chain.read(ledger)) == lines + leaves
    if leaves:
        assert not reply.has_error()
        return
    assert refusal(reply) == (REFUSED, "limit")
    assert "12 patients" in (folder / "state" / "north" / "site.log").read_text()


def head_request(site: Site, kind: Kind, number: int = 0) -> Request:
    """Return a checked message of weights, latent sums and heads of zeros."""
    schema, train = request_schema(site.run, kind), site.images.select("train")
    assert schema is not None
    images = site.images
    cells = (images.labels[train], images.attributes[train], images.patients[train])
    latent = guarded_latent_sum(infer(site.model, images, train).mu, cells, site.run.ontology, 1)
    arrays = {name: np.zeros(shape) for name, shape in schema} | joined({LATENT: latent}).arrays
    return Request(site, kind, number, wire.Payload(flat_weights(site.model), Sum(arrays)))


def test_the_images_of_a_site_are_those_its_heads_learn_from(tmp_path: Path) -> None:
    site = open_site(lay_out(tmp_path, ("north",)) / "sites" / "0.yaml")
    request, train = head_request(site, "mitigate", 1), site.images.select("train")
    labels = site.images.labels.copy()
    labels[train[:4]] = -1
    site.__dict__["images"] = replace(site.images, labels=labels)
    total = train_heads(request).payload.total
    assert total is not None and total.schema == answer_of(RUN, "mitigate").total
    assert total["images"].tolist() == [len(train) - 4]


def test_heads_of_an_earlier_run_do_not_outlive_its_model(tmp_path: Path) -> None:
    run = RUN.model_copy(update={"mitigation": MitigationConfig()})
    site = open_site(lay_out(tmp_path, ("north",), run) / "sites" / "0.yaml")
    state, old = site.config.state_folder, Head(np.eye(2, dtype=np.float32), np.zeros(2))
    save_heads(state / HEADS_FILE, {"leace": old}, "0" * 64, "view")
    (state / OWN_HEAD).write_bytes(b"the earlier encoder with a head of this site's own")
    store_atlas(head_request(site, "atlas"))
    assert not (state / OWN_HEAD).exists()
    assert set(open_kept(state, site.config_hash).heads) == {CHOSEN}
