"""The dry run shows the very messages, and leaves the real state as it was."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from client.config import SiteConfig, load_site_config
from client.dry_run import (
    Exchange,
    last_words,
    protection_of,
    rehearse,
    suppressed_cells,
    tensors_of,
)
from client.folder import Folder
from client.outbox import Outbox
from client.site import LEDGER, open_site
from mfm_core.config import dump_yaml
from mfm_core.sums import Sum
from strategies import wire
from strategies.answers import answer_of
from strategies.config import RunConfig
from strategies.plan import KEYS, KINDS
from tests.client.hospital_folder import make_hospital, make_kit, settings
from tests.server.hospitals import RUN


def quiet(done: int, total: int) -> None:
    pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    place = tmp_path_factory.mktemp("dry")
    return make_hospital(place / "north", make_kit(place / "kit"))


@pytest.fixture(scope="module")
def config(folder: Folder) -> SiteConfig:
    config = load_site_config(folder.site_file)
    header = wire.Header("hello", 0, "0" * 64, "0" * 64, site="north")
    total = Sum({"images": np.zeros(3)})
    outbox = Outbox(config.state_folder / LEDGER, config.limits)
    outbox.release(header, wire.Payload(total=total), (), answer_of(RUN, "hello"))
    return config


@pytest.fixture(scope="module")
def played(folder: Folder, config: SiteConfig) -> tuple[Exchange, ...]:
    return rehearse(config, RUN, folder.dry_run, quiet)


def kept(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_every_exchange_of_the_run_is_played_once(played: tuple[Exchange, ...]) -> None:
    never = (*KEYS, "class_sums")  # neither a secure sum nor pseudo-labels were agreed
    assert [exchange.kind for exchange in played] == [kind for kind in KINDS if kind not in never]
    assert {exchange.outcome for exchange in played} == {"leaves", "leaves nothing"}
    assert {exchange.kind: exchange.times for exchange in played if exchange.times > 1} == {
        "train": RUN.rounds,
        "mitigate": RUN.mitigation.rounds,
    }


def test_what_is_shown_is_what_was_agreed_tensor_by_tensor(played: tuple[Exchange, ...]) -> None:
    for exchange in played:
        answer = answer_of(RUN, exchange.kind)  # type: ignore[arg-type]
        shown = {tensor.name: tensor.shape for tensor in exchange.tensors}
        assert ("update of the weights" in shown) == answer.update
        shown.pop("update of the weights", None)
        assert shown == dict(answer.total or ())


def test_the_written_file_is_the_very_message(folder: Folder, played: tuple[Exchange, ...]) -> None:
    for exchange in played:
        content = json.loads((folder.dry_run / exchange.files[0]).read_text())
        if len(exchange.files) == 1:
            assert exchange.kind in ("atlas", "receipts")
            continue
        arrays = load_file(folder.dry_run / exchange.files[1])
        sums = {n.removeprefix("sum/"): a for n, a in arrays.items() if n.startswith("sum/")}
        payload = wire.Payload(arrays.get("model"), Sum(sums))
        header = wire.Header(exchange.kind, exchange.round, "", "")
        again = wire.encode(header, payload, ())
        assert wire.record_bytes(again) == exchange.bytes
        assert again.config_records["header"]["payload_hash"] == content["header"]["payload_hash"]


def test_norms_and_values_are_those_of_the_message(
    folder: Folder, played: tuple[Exchange, ...]
) -> None:
    latent = next(exchange for exchange in played if exchange.kind == "latent_sums")
    arrays = load_file(folder.dry_run / latent.files[1])
    for tensor in latent.tensors:
        array = arrays[f"sum/{tensor.name}"]
        assert tensor.norm == pytest.approx(float(np.linalg.norm(array)))
        assert tensor.bytes == array.nbytes
        if tensor.values:
            assert np.array_equal(np.array(tensor.values), array.ravel())
    assert dict((t.name, t.values) for t in latent.tensors)["class.count"] == (6.0, 6.0)


def test_nothing_of_the_real_state_changes_but_the_cache(
    folder: Folder, config: SiteConfig
) -> None:
    before = kept(config.state_folder)
    assert LEDGER in before
    rehearse(config, RUN, folder.root / "again", quiet)
    after = kept(config.state_folder)
    assert {name: found for name, found in after.items() if not name.startswith("pixels")} == {
        name: found for name, found in before.items() if not name.startswith("pixels")
    }


def test_limits_bind_in_the_dry_run_and_small_cells_are_counted(
    folder: Folder, tmp_path: Path
) -> None:
    limits = {"min_cell_count": 7, "allowed_kinds": ["hello", "patch_moments", "latent_sums"]}
    dump_yaml(settings(**limits), folder.root / "strict.yaml")
    strict = load_site_config(folder.root / "strict.yaml")
    done = {e.kind: e for e in rehearse(strict, RUN, tmp_path, quiet)}
    assert done["train"].outcome == "refused" and "allowed_kinds" in done["train"].reason
    assert done["latent_sums"].suppressed == 2
    assert "below 7" in done["latent_sums"].mechanism
    assert done["heads"].outcome == "not made" and "too few" in done["heads"].reason
    assert done["atlas"].outcome == "not made"
    assert not any(tensor for e in done.values() if e.outcome != "leaves" for tensor in e.tensors)


def test_a_run_that_is_not_accepted_yet_can_be_looked_at_by_day_and_alone(
    folder: Folder, tmp_path: Path
) -> None:
    limits = {"accepted_runs": ["f" * 64], "manual": True, "hours": "00:00-00:01"}
    dump_yaml(settings(**limits), folder.root / "waiting.yaml")
    waiting = load_site_config(folder.root / "waiting.yaml")
    done = rehearse(waiting, RUN, tmp_path, quiet)
    assert {e.outcome for e in done} == {"leaves", "leaves nothing"}


def test_messages_of_an_earlier_dry_run_do_not_stay(folder: Folder, config: SiteConfig) -> None:
    out = folder.root / "third"
    out.mkdir()
    (out / "04-old.json").write_text("{}")
    (out / "mine.txt").write_text("mine")
    rehearse(config, RUN, out, quiet)
    assert not (out / "04-old.json").exists() and (out / "mine.txt").exists()


def test_no_protection_is_called_one_unless_it_has_an_epsilon(folder: Folder) -> None:
    site = open_site(folder.site_file)
    for kind in KINDS:
        mechanism, epsilon = protection_of(RUN, kind, site)
        assert epsilon == "none"
        assert mechanism.startswith("none") or "heuristic" in mechanism


def test_suppressed_cells_are_added_over_all_parts() -> None:
    total = Sum({"a/suppressed": np.array([1.0, 2.0]), "suppressed": np.array([4.0])})
    assert suppressed_cells(wire.Payload(total=total)) == 7
    assert suppressed_cells(wire.Payload(total=Sum({"images": np.ones(1)}))) is None
    assert suppressed_cells(wire.Payload()) is None


def test_only_small_arrays_are_shown_in_full() -> None:
    shown = tensors_of(wire.Payload(total=Sum({"a": np.arange(8.0), "b": np.arange(9.0)})))
    assert len(shown[0].values) == 8 and shown[1].values == ()


def test_class_sums_of_a_later_round_are_shown_too(config: SiteConfig, tmp_path: Path) -> None:
    content = {**RUN.model_dump(), "mitigation": {}, "audit": {"enabled": False}}
    content["learning"]["pseudo_labels"]["from_round"] = 2
    run = RunConfig.model_validate(content)
    (found,) = (e for e in rehearse(config, run, tmp_path / "out", quiet) if e.kind == "class_sums")
    assert (found.round, found.times, found.outcome) == (2, 1, "leaves")
    assert {t.name: t.shape for t in found.tensors} == dict(
        answer_of(run, "class_sums").total or ()
    )


def test_the_last_words_are_every_line_of_the_last_error(tmp_path: Path) -> None:
    log = tmp_path / "site.log"
    log.write_text(
        "1 ERROR hello DataError: an earlier one\n"
        "2 ERROR train DataError: images: 2 problems\n  - row 2\n  - row 7\n"
    )
    assert last_words(log) == "train DataError: images: 2 problems\n  - row 2\n  - row 7"
    log.write_text("1 ERROR train: unexpected\nTraceback (most recent call last):\n  File\n")
    assert last_words(log) == "train: unexpected"
