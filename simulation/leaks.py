"""The leak audit on phantoms: a model that must be caught, ordinary ones and private ones.

Federated runs of simulation/studies/leaks.yaml with little changed each, and the audit of the
largest hospital (the first of equals) as `mfm-client audit --privacy` makes it. Overfitted: 110
patients a hospital in place of 400, no augmentation, 480 steps in place of 200, at twice the rate.
Ordinary: as the file stands. Private: DP-SGD of all weights by patient, noise as in NOISE. Half of
each hospital's patients are held out.

So few patients leave the gate open whatever is attacked: that a chance attack has at most 2 % hits
at 1 % false alarms shows in 6 of 10 audits with 4,000 members and 5,000 others, in all of 60 with
8,000 and 10,000. The last two settings have 24,000 patients in one hospital. Ordinary, many:
nothing else is changed. Private, many: the encoder is the PCA of public phantoms and stays so, the
head is trained by DP-SGD, the atlas is released with noise, all of it under a secure sum.
What crosses a hospital's boundary: nothing; there is no real patient here.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from client.config import SiteConfig
from client.leak_audit import Asked, audit_leaks
from mfm_core.config import dump_yaml, load_yaml
from mfm_core.errors import ConfigError
from simulation.config import load_study
from simulation.progress import Display
from simulation.study import Order, finished_results, run_study

STUDY = Path(__file__).parent / "studies" / "leaks.yaml"
NOISE = 4.0

NO_AUGMENTATION = (
    "{rotation_deg: 0, scale: 0, shift: 0, perspective: 0, flip_probability: 0, brightness: 0, "
    "blur_sigma_px: 0, noise_std: 0, erase_boxes: 0, erase_fraction: 0}"
)
FEW = (
    "[{name: north, patients: 110}, {name: harbour, patients: 110}, {name: valley, patients: 110}]"
)
MANY = (
    "[{name: north, patients: 24000}, {name: harbour, patients: 4000}, "
    "{name: valley, patients: 4000}]"
)

SETTINGS: dict[str, dict[str, str]] = {
    "overfitted": {
        "run.name": "leaks-overfitted",
        "run.learning.augmentation": NO_AUGMENTATION,
        "run.learning.training": "{batch_size: 32, steps_per_round: 80, learning_rate: 0.004, "
        "weight_decay: 0}",
        "run.rounds": "6",
        "source.phantoms.hospitals": FEW,
    },
    "ordinary": {"run.name": "leaks-ordinary"},
    "private": {
        "run.name": "leaks-private",
        "run.statistics.refit_head": "false",
        "run.privacy": f"{{training: dp_sgd, noise_multiplier: {NOISE}, "
        "unprotected: [latent_sums, evaluate]}",
    },
    "ordinary, many": {"run.name": "leaks-many", "source.phantoms.hospitals": MANY},
    "private, many": {
        "run.name": "leaks-many-private",
        "source.phantoms.hospitals": MANY,
        "public": "{kind: phantoms, phantoms: {seed: 8, size_px: 32, "
        "hospitals: [{name: public, patients: 512}]}}",
        "run.learning.training": "{batch_size: 128, steps_per_round: 40, learning_rate: 0.01}",
        "run.statistics.refit_head": "false",
        "run.secure_sum": "{enabled: true}",
        "run.privacy": "{training: dp_sgd, trainable: head, noise_multiplier: 2.0, "
        "unprotected: [evaluate], atlas: {mechanism: gaussian, epsilon: 2.0}}",
    },
}
"""Setting to what it changes in the study file."""


def run_leaks(
    out: Path,
    display: Display,
    minutes: float,
    changes: Mapping[str, str] | None = None,
    say: Callable[[str], None] = lambda text: None,
    settings: Mapping[str, dict[str, str]] = SETTINGS,
) -> dict[str, Any]:
    """Run the settings and return the audit's record of each, with the run's figures.

    Args:
        out: folder of the run folders; finished runs there are taken as they are.
        display: shows the runs.
        minutes: of each audit.
        changes: of the study, for all settings.
        say: is told what is done.
        settings: some or all of SETTINGS.
    """
    found = {}
    for name, setting in settings.items():
        order = Order(load_study(STUDY, {**setting, **(changes or {})}), STUDY.parent, out)
        results = finished_results(order) or run_study(order, display)
        say(f"{name}: run finished, attacking")
        record = audit_largest_site(order.folder, minutes)
        figures = {key: results[key] for key in ("macro_auc", "reconstruction_ssim")}
        found[name] = {**record, "run": figures}
    return found


def chosen_settings(only: Sequence[str] | None) -> dict[str, dict[str, str]]:
    """Return the settings of these names, all of them for None, in the order of the table.

    Raises:
        ConfigError: there is no such setting.
    """
    if unknown := [name for name in only or () if name not in SETTINGS]:
        known = ", ".join(repr(name) for name in SETTINGS)
        raise ConfigError("--only", [f"no setting {name!r}; there are {known}" for name in unknown])
    return {name: setting for name, setting in SETTINGS.items() if not only or name in only}


def audit_largest_site(folder: Path, minutes: float) -> dict[str, Any]:
    """Return the audit's record of the hospital with the most patients of a finished run folder."""
    files = sorted((folder / "sites").glob("*.yaml"), key=lambda path: int(path.stem))
    site = load_yaml(max(files, key=_patients), SiteConfig)
    path = folder / "sites" / "audited.site"
    dump_yaml(site.model_copy(update={"run": Path("..") / "run.yaml"}), path)
    asked = Asked(path, minutes, folder / "server.json", out=folder / "leaks")
    return audit_leaks(asked).content


def _patients(path: Path) -> int:
    data = load_yaml(path, SiteConfig).data
    assert data.manifest is not None
    with (path.parent / data.manifest).open(encoding="utf-8", newline="") as file:
        return len({row[data.columns.patient] for row in csv.DictReader(file)})


def lines_of(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the table as Markdown: a row an attack, a column a setting."""
    names = list(dict.fromkeys(row["name"] for each in found.values() for row in each["attacks"]))
    heads = [f"{name} ({each['members']} + {each['others']})" for name, each in found.items()]
    lines = [f"| | {' | '.join(heads)} |", "| --- " * (len(heads) + 1) + "|"]
    for name in names:
        cells = [_cell(each, name) for each in found.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    for title, cell in MORE.items():
        lines.append(f"| {title} | {' | '.join(cell(each) for each in found.values())} |")
    return lines


def _cell(each: Mapping[str, Any], name: str) -> str:
    row = next((row for row in each["attacks"] if row["name"] == name), None)
    if row is None:
        return "not done"
    strength, hits = row["strength"], row["strength"]["hits"][0]
    low, high = strength["auc_interval"]
    text = f"{strength['auc']:.3f} ({low:.3f}-{high:.3f}); {hits['value']:.3f}"
    if row["bound"]:
        text += f"; bound {row['bound']['auc']:.3f}, {row['bound']['hits'][0]:.3f}"
    elif row["expected_auc"] is not None:
        text += f"; formula {row['expected_auc']:.3f}"
    return f"{text}; {row['verdict']}" if row["verdict"] else text


def _single(each: Mapping[str, Any]) -> str:
    single = each.get("inversion", {}).get("single", [])
    if not single:
        return "not done"
    ssim = sorted(row["ssim"] for row in single)[len(single) // 2]
    blind = sorted(row["blind_ssim"] for row in single)[len(single) // 2]
    first = sum(row["rank"] == 1 for row in single)
    return f"{ssim:.3f} (mean image {blind:.3f}); found {first} of {len(single)}"


def _update(each: Mapping[str, Any]) -> str:
    row = each.get("inversion", {}).get("update")
    if row is None:
        return "not done"
    return f"{row['ssim']:.3f} (mean image {row['blind_ssim']:.3f}); rank {row['rank']}"


def _bits(each: Mapping[str, Any]) -> str:
    found = each.get("canaries")
    if found is None:
        return "not done"
    bits = ", ".join(f"{part} {value:.2f}" for part, value in found["bits"].items())
    return f"{bits} (chance {found['chance_bits']:.2f}, most {found['most_bits']:.2f})"


def _epsilon(each: Mapping[str, Any]) -> str:
    spent = each.get("epsilon")
    return f"{spent['epsilon']:.2f} at {spent['delta']:g}" if spent else "none"


def _nearest(each: Mapping[str, Any]) -> str:
    return "not done" if each["nearest_p"] is None else f"{each['nearest_p']:.3f}"


MORE: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "gradient of one image, median SSIM": _single,
    "update of a local round, SSIM": _update,
    "exposure of canaries, bits": _bits,
    "decoded class means, p": _nearest,
    "epsilon": _epsilon,
    "macro AUC of the run": lambda each: f"{each['run']['macro_auc']:.3f}",
    "SSIM of the run": lambda each: f"{each['run']['reconstruction_ssim']:.3f}",
}
"""Rows below the attacks."""
