"""Survival: a secure sum over real processes, whoever drops out at whichever step, lies or asks.

What the server opens is held against the same run in memory without masks, in which exactly those
sites are silent that the ledger of the real run calls absent from each sum: exact updates have the
same bits. SuperNodes are killed by SIGKILL and kept down until the exchange is over.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Message

from client.config import load_site_config
from client.private_release import KEPT
from client.secret import keep_secret
from client.secure_opened import FILE as OPENED
from mfm_core.atlas import atlas_from, load_atlas
from mfm_core.checkpoint import flat_weights, load_model, read_arrays
from mfm_core.config import DataConfig
from mfm_core.public_basis import smooth_pictures
from mfm_core.public_pictures import write_public
from mfm_core.sums import Sum
from server.app import final_hash, run_federation
from server.phases import SITE_CELLS
from simulation.consortium import RUN_LIMIT_S, Consortium, Hospital
from strategies import wire
from strategies.atlas_release import basis_of, latent_sum_of
from strategies.config import RunConfig
from strategies.private_atlas import CELLS
from tests.federation.hostile_world import EVIL, HostileConsortium, run_of, secret_of
from tests.federation.striking import Strike, armed_python, finished, strike, wait_until
from tests.federation.survival import Case, Outcome
from tests.server.hospitals import consortium, lay_out, make_grid

FOUR = ("east", "north", "south", EVIL)
FIVE = ("centre", *FOUR)
HOSTING = {"deadline_s": 300.0, "grace_s": 40.0, "poll_s": 0.5, "node_wait_s": 240.0, "quorum": 3}
DOWN_S = 60.0
"""Longer than the grace: a SuperNode that is down so long has missed the exchange."""

HOOK = Path(__file__).with_name("small_set_hook.py")


def masked_run(name: str, rounds: int, **changes: Any) -> RunConfig:
    """Return a short run whose answers are masked, exact updates."""
    content = run_of(name, rounds).model_dump(mode="json")
    content["statistics"]["bootstrap_replicates"] = 0
    content["secure_sum"] = {"enabled": True, "updates": "exact"}
    return RunConfig.model_validate({**content, **changes})


def hospitals_of(folder: Path, names: Sequence[str], run: RunConfig) -> dict[str, Hospital]:
    """Write images of hospitals below a folder and return what they bring."""
    lay_out(folder, tuple(names), run)
    found = {}
    for name in names:
        images = folder / "images" / name
        place = {"root": images, "manifest": images / "manifest.csv", "columns": {"split": "split"}}
        data = DataConfig.model_validate(place)
        found[name] = Hospital(data, {"min_cell_count": 1}, secret_of(name))
    return found


def visible_hash(
    folder: Path, names: Sequence[str], run: RunConfig, lines: Sequence[Mapping[str, Any]]
) -> str:
    """Return the final hash of the run in memory without masks, with the same sites absent."""
    plain = run.model_copy(update={"secure_sum": type(run.secure_sum)()})
    lay_out(folder, tuple(names), plain)
    for path in (folder / "sites").glob("*.yaml"):
        config = load_site_config(path)
        keep_secret(config.state_folder, secret_of(config.name))
    present = {
        (line["phase"], line["round"]): {n for n, o in line["sites"].items() if o == "ok"}
        for line in lines
        if "failed" not in line
    }

    def absent(name: str) -> Callable[[Any], Any]:
        def fault(node: Any) -> Any:
            def answer(message: Message) -> Message | None:
                header = message.content.config_records[wire.HEADER]
                there = present.get((header["kind"], header["round"]), set(names))
                return node(message) if name in there else None

            return answer

        return fault

    faults = {index: absent(name) for index, name in enumerate(names)}
    waits = {"deadline_s": 60.0, "grace_s": 0.0, "quorum": 3, "simulated_sites": len(names)}
    grid = make_grid(folder, len(names), faults)
    state = run_federation(grid, consortium(folder, "out", **waits), resume=False)
    sums = {kind: total for kind, total in state.sums.items() if kind != SITE_CELLS}
    return final_hash(dataclasses.replace(state, sums=sums))  # masked, nobody sees single cells


def down(words: str, point: str, when: str, who: str) -> Strike:
    """Return a kill of a hospital's SuperNode that outlasts the exchange."""
    return Strike(f"SuperNode killed {words}", point, when, who, "supernode", who, DOWN_S, 0)


def drop_with_keys(folder: Path) -> Iterator[Outcome]:
    """Yield a row per kill before keys and before shares: that site is in no sum of the session."""
    run = masked_run("masks-keys", 1)
    blows = (
        down("before it shows keys", "secret", "secure_keys", EVIL),
        down("after keys, before its shares", "secret", "secure_shares", "east"),
    )
    hospitals = hospitals_of(folder, FIVE, run)
    with (
        armed_python(folder) as strikes,
        Consortium(folder / "real", run, hospitals, HOSTING) as real,
    ):
        real.start()
        following = real.submit()
        afters = [  # the grace ends the exchange of keys while the first SuperNode is kept down
            strike(real, run.name, blows[:1], strikes, blows[1:]),
            strike(real, run.name, blows[1:], strikes, armed=True),
        ]
        real.wait(following, RUN_LIMIT_S)
        lines = real.rounds()
        status, same = ended(real), is_same(real, folder / "visible", (FIVE, run))
        broken = ledgers_of(real)
    for blow, after in zip(blows, afters, strict=True):
        problems = [*after.problems, *broken, *([] if same else [NOT_SAME])]
        sums = [line["sites"].get(blow.who) for line in lines if line["phase"] == "train"]
        if sums not in (["offline"], ["left-out"]):  # words for a site that was not asked
            problems.append(f"{blow.who} was asked for a masked answer: {sums}")
        yield Outcome(blow.words, status, after.lost, same, after.seconds, tuple(problems))


NOT_SAME = "the sum is not that of the sites that are named in it"


def ended(real: Consortium) -> str:
    """Return how the agreed run ended."""
    ending = real.ending()
    return "no end" if ending is None else f"{ending.status}: {ending.message}"[:160]


def is_same(real: Consortium, folder: Path, what: tuple[Sequence[str], RunConfig]) -> bool:
    """Tell whether the final hash is that of the visible run with the same sites absent."""
    ending = real.ending()
    if ending is None or "final_hash" not in ending.results:
        return False
    return bool(ending.results["final_hash"] == visible_hash(folder, *what, real.rounds()))


def ledgers_of(real: Consortium) -> list[str]:
    """Return what is wrong with the sites' ledgers."""
    return [f"{name}: {text}" for name in real.names for text in real.ledger(name).problems]


EXPECTED = {
    1: ("killed after shares, before its masked reply", {"no-reply", "offline", "error:5"}),
    35: ("a masked reply with one bit turned over", {"rejected:digest"}),
    36: ("its own earlier masked reply, byte for byte", {"rejected:round"}),
    37: ("killed after its masked reply, at unmask", {"ok"}),
}
"""Round of training: what a site does, and what the ledger says of it; the others bring it back,
which takes a minute or two of rounds that take two seconds."""


def drop_out_and_lie(folder: Path) -> Iterator[Outcome]:
    """Yield a row per round: dropouts at both later steps, a tampered and a replayed answer."""
    run = masked_run("masks-lies", max(EXPECTED))
    hospitals = hospitals_of(folder, FOUR, run)
    blows = (
        down("after shares", "ask", "train 1", EVIL),
        down("at unmask", "secret", "secure_unmask", EVIL),
    )
    with (
        armed_python(folder) as strikes,
        HostileConsortium(folder / "real", run, hospitals, HOSTING) as real,
    ):
        real.play({"train 35": "tampered", "train 36": "replay", "otherwise": "honest"})
        real.start()
        following = real.submit()
        afters = [strike(real, run.name, blows[:1], strikes)]
        wait_until(lambda: ("train", 36) in finished(real, run.name), RUN_LIMIT_S)
        afters.append(strike(real, run.name, blows[1:], strikes))
        real.wait(following, RUN_LIMIT_S)
        status, same = ended(real), is_same(real, folder / "visible", (FOUR, run))
        shared = [*ledgers_of(real), *([] if same else [NOT_SAME])]
        shared += [text for after in afters for text in after.problems]
        trained = {line["round"]: line for line in real.rounds() if line["phase"] == "train"}
    for number, (words, expected) in EXPECTED.items():
        line = trained.get(number, {"sites": {}, "seconds": 0.0})
        found = line["sites"].get(EVIL)
        problems = list(shared)
        if found not in expected or any(line["sites"].get(n) != "ok" for n in FOUR[:3]):
            problems.append(f"expected {sorted(expected)} of {EVIL}, found {line['sites']}")
        yield Outcome(words, f"{found}; {status}", 0, same, line["seconds"], tuple(problems))


REFUSALS = (
    ("a roster of two sites", "secure_shares"),
    ("two of three are to answer", "train"),
    ("shares for the sum of two", "secure_unmask"),
)
"""What the lying server asks in each attempt, and the exchange in which it must fail."""


def ask_for_too_few(folder: Path) -> Iterator[Outcome]:
    """Yield a row per way to ask for a small set; every site refuses and opens nothing."""
    run, names = masked_run("masks-few", 1), FOUR[:3]
    hospitals = hospitals_of(folder, names, run)
    with (
        armed_python(folder, HOOK),
        Consortium(folder / "real", run, hospitals, HOSTING) as real,
    ):
        real.start()
        real.run()
        failed = [line for line in real.rounds() if "failed" in line]
        status, shared = ended(real), ledgers_of(real)
        opened = [name for name in names if (real.hospital(name).root / "state" / OPENED).exists()]
    shared += [f"{name} opened an exchange" for name in opened]
    if not status.startswith("failed"):
        shared.append(f"the run ended {status}")
    for number, (words, phase) in enumerate(REFUSALS):
        line = failed[number] if number < len(failed) else {"phase": "none", "sites": {}}
        said = sorted(set(line["sites"].values()))
        problems = list(shared)
        if line["phase"] != phase or not said or not all(o.startswith("refused:") for o in said):
            problems.append(f"expected refusals in {phase}, found {line['phase']}: {said}")
        yield Outcome(words, f"{', '.join(said)}; {status}", 0, None, 0.0, tuple(problems))


ATLAS = {
    "mechanism": "gaussian", "noise_multiplier": 1.0, "directions": 2, "min_sites": 3,
    "min_cell_count": 1,
}  # fmt: skip


def release_an_atlas(folder: Path) -> Iterator[Outcome]:
    """Yield the row of a private atlas under masks, its directions from public pictures."""
    names = FOUR[:3]
    pictures = (255 * smooth_pictures((1, 32), 64, 3)).astype(np.uint8)
    wanted = write_public(folder, pictures)
    run = masked_run("masks-atlas", 1, privacy={"atlas": ATLAS, "public_pictures": wanted})
    hospitals = hospitals_of(folder, names, run)
    real = Consortium(folder / "real", run, hospitals, HOSTING, public=folder)
    with real:
        real.start()
        real.run()
        status, problems = ended(real), ledgers_of(real)
        cells = []
        for name in names:
            found = list((real.hospital(name).root / "state" / KEPT).glob("*.safetensors"))
            problems += [] if len(found) == 1 else [f"{name} keeps {len(found)} releases"]
            cells += [np.asarray(read_arrays(path)[0][CELLS]) for path in found]
        model, _ = load_model(real.run_folder() / "final.safetensors")
        basis = basis_of(run, flat_weights(model), pictures)
        total, facts = latent_sum_of(run, basis, Sum({CELLS: np.sum(cells, axis=0)}), len(names))
        atlas = load_atlas(real.run_folder() / "atlas.safetensors", None)
        expected = atlas_from(total, run.ontology, atlas.encoder_hash)
        results = json.loads((real.run_folder() / "server.json").read_text(encoding="utf-8"))
    same = bool(np.allclose(atlas.means, expected.means, atol=1e-12))
    problems += [] if same else ["the atlas is not that of the sum of what the sites released"]
    if results["latent_sums"]["private"] != facts["private"]:
        problems.append(f"expected {facts['private']}, found {results['latent_sums']}")
    ending = f"{status}; {results['privacy']['latent_sums']['mechanism']}"
    seconds = float(results["timing"]["latent_sums"])
    what = "a private atlas, masked, with public pictures"
    yield Outcome(what, ending[:160], 0, same, seconds, tuple(problems))


CASES = (
    Case("masked: absent", "left out of the session, the sum of the rest exact", drop_with_keys),
    Case("masked: answers", "each sum that of its own sites, bit for bit", drop_out_and_lie),
    Case("masked: too few", "refused by every site, nothing opened", ask_for_too_few),
    Case("masked: atlas", "the sum of the noisy cells and nothing else", release_an_atlas),
)
