"""The evidence pack in words: sections of items and tables, made of `client.dpo_facts` alone.

What crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from client.commands_privacy import units_of
from mfm_core.report_words import NONE, several
from mfm_core.report_words import size as larger

Facts = Mapping[str, Any]
Row = Sequence[str]
NOT_DONE = "not done"
NEVER = (
    "An image, the latent of one patient, a patient id or pseudonym, a file name, the text of an "
    "error, these settings."
)
MEANINGS = (
    "Formal: differential privacy, with epsilon. Heuristic: a rule that makes attacks harder and "
    "promises nothing. The word none: nothing beyond adding up."
)
FLOWER = "Node and message identifiers, times, sizes, and the address the connection comes from."


def sections_of(facts: Facts) -> list[dict[str, Any]]:
    """Return the sections of the page, most asked for first."""
    return [
        _flow(facts),
        _left(facts),
        _protection(facts),
        _attacks(facts["leak_audit"]),
        _cohort(facts["cohort"]),
        _limits(facts["limits"]),
        _readers(facts),
        _files(facts),
        _threats(facts),
        _proof(facts),
        _stop(facts),
        _arrays(facts["flow"]["exchanges"]),
    ]


def glance_of(facts: Facts) -> list[tuple[str, str, str]]:
    """Return anchor, title and one sentence per question that is asked first."""
    flow, left, spent = facts["flow"]["exchanges"], facts["left"], facts["accounting"]
    levels = [row["label"]["level"] for row in flow]
    counts = ", ".join(
        f"{levels.count(level)} {level}" for level in ("formal", "heuristic", "none")
    )
    whole = all(not ledger["problems"] for ledger in facts["ledgers"])
    audit = facts["leak_audit"]
    attacked = _attacked(audit)
    paid = f"epsilon {_figure(spent['epsilon'])} spent of {spent['max_epsilon']:g}"
    return [
        (
            "flow",
            "What may leave",
            f"{several(len(flow), 'kind')} of answer; protection: {counts}.",
        ),
        ("left", "What has left", f"{several(left['records'], 'record')}, {size(left['bytes'])}."),
        ("protection", "Formal privacy", f"{paid}." if spent["runs"] else "None was paid for."),
        ("attacks", "Leak audit", attacked),
        ("proof", "Proof", "Every list is whole." if whole else "A LIST IS NOT WHOLE, see below."),
    ]


def _attacked(audit: Facts) -> str:
    if audit["state"] != "done":
        return f"{audit['state'].capitalize()}."
    last = max(row["date"] for row in audit["attacks"])
    return f"{several(len(audit['attacks']), 'attack')}, the last one on {last}."


def size(count: int) -> str:
    """Return bytes, in powers of ten from a thousand on."""
    return f"{count} B" if count < 1000 else larger(count)


def _figure(value: float | None) -> str:
    return "without bound" if value is None else f"{value:.3f}"


def item(title: str, text: str, done: bool = True) -> dict[str, Any]:
    """Return one fact with its title; what is not done says so."""
    return {"title": title, "text": text, "done": done}


def table(caption: str, head: Row, rows: Sequence[Row]) -> dict[str, Any]:
    """Return a table of texts; the first column names the row."""
    return {"caption": caption, "head": list(head), "rows": [list(row) for row in rows]}


def part(
    anchor: str, title: str, items: Sequence[Mapping[str, Any]], tables: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return a section; tables without rows are left out."""
    shown = [each for each in tables if each["rows"]]
    return {"anchor": anchor, "title": title, "items": list(items), "tables": shown}


def _flow(facts: Facts) -> dict[str, Any]:
    rows = []
    for each in facts["flow"]["exchanges"]:
        splits = ", ".join(each["splits"]) or "no image"
        answered = "yes" if each["answered"] else "refused by this site"
        numbers = "keys and shares" if each["keys"] else f"{each['numbers']:,}"
        figures = (str(each["times"] or "as needed"), numbers)
        rows.append((each["kind"], splits, *figures, each["label"]["words"], answered))
    head = ("kind", "images used", "times a run", "numbers", "protection", "answered")
    items = [
        item("Header of every answer", ", ".join(facts["flow"]["header"])),
        item("An error", "Leaves as one coded word, never as a text."),
        item("Added by the transport (Flower)", FLOWER),
        item("Never", NEVER),
        item("Protection", MEANINGS),
    ]
    first = table("Every kind of answer in the agreed run; its arrays stand last", head, rows)
    return part("flow", "What may leave", items, [first])


def _arrays(exchanges: Sequence[Facts]) -> dict[str, Any]:
    """Return every array of every kind; heads that have the same arrays share their rows."""
    tables = []
    for each in exchanges:
        rows: dict[tuple[str, str], list[str]] = {}
        for array in each["arrays"]:
            place, _, name = array["name"].rpartition("/")
            group, _, head = place.partition("/")
            shape = " x ".join(map(str, array["shape"])) or "1"
            rows.setdefault((f"{group}/{name}" if group else name, shape), []).append(head)
        shown = [(name, shape, ", ".join(filter(None, of))) for (name, shape), of in rows.items()]
        columns = ("array", "shape", "one for each of") if "/" in str(each["arrays"]) else ()
        splits = ", ".join(each["splits"]) or "no image"
        caption = f"{each['kind']}, from images of: {splits}"
        plain = columns or ("array", "shape")
        tables.append(table(caption, plain, [row[: len(plain)] for row in shown]))
    return part("arrays", "Every array", [], tables)


def _left(facts: Facts) -> dict[str, Any]:
    left = facts["left"]
    if not left["records"]:
        nothing = item("Records", "Nothing has left this site yet.", done=False)
        return part("left", "What has left", [nothing], [])
    rows = []
    for row in left["runs"]:
        received = ", ".join(f"{word}: {count}" for word, count in row["received"].items())
        days = dict.fromkeys((row["first"][:10], row["last"][:10]))
        when = " to ".join(days)
        figures = (str(row["records"]), str(row["images"]), size(row["bytes"]))
        said = ("; ".join(row["protection"]), str(row["approved"]), received)
        rows.append((f"{row['kind']}, run {row['run'][:12]}", *figures, when, *said))
    head = ("kind and run", "records", "images", "bytes", "days (UTC)", "protection")
    items = [
        item("Records", f"{several(left['records'], 'record')}, {size(left['bytes'])} in all."),
        _receipts(left),
    ]
    more = ("approved by a person", "receipt")
    return part("left", "What has left", items, [table("Per run and kind", (*head, *more), rows)])


def _receipts(left: Facts) -> dict[str, Any]:
    """Return what receipts say; without a key their signatures cannot be checked."""
    known = [word for row in left["runs"] for word in row["received"] if word != "no"]
    if not known:
        return item("Receipts of the coordinator", "None was received.", done=False)
    wrong = left["receipt_problems"]
    signed = "signatures checked" if left["receipts_signed"] else "unsigned: this site has no key"
    problems = f"; {several(wrong, 'problem')}, see 'mfm-client ledger'" if wrong else ""
    return item("Receipts of the coordinator", f"{signed}{problems}.")


def _protection(facts: Facts) -> dict[str, Any]:
    spent, title = facts["accounting"], "Formal privacy: what was spent"
    label = spent["label"]
    formal = label["level"] == "formal"
    words = label["words"] if formal else "Without differential privacy."
    agreed = item("Training in the agreed run", words, formal)
    limit = item(
        "Limit of this site", f"epsilon {spent['max_epsilon']:g}, delta {spent['delta']:g}"
    )
    if not spent["runs"]:
        none = item("Spent", "No private training has been paid for.", done=False)
        return part("protection", title, [agreed, none, limit], [])
    items = [
        agreed,
        item(
            "Spent over all runs",
            f"epsilon {_figure(spent['epsilon'])} at delta {spent['delta']:g}",
        ),
        limit,
        item("Unit and neighbours", f"{spent['runs'][0]['unit']}; add or remove one."),
        item("What it means", spent["meaning"]),
    ]
    rows = [
        (
            f"run {row['run'][:12]}",
            *(str(row["rounds"]), str(row["steps"]), units_of(row)),
            *(f"{row['noise_multiplier']:g} ({row['noise']})", f"{row['sample_rate']:.4g}"),
            _figure(row["epsilon"]),
        )
        for row in spent["runs"]
    ]
    head = ("run", "rounds", "steps", "unit", "noise", "sample rate", "epsilon")
    return part("protection", title, items, [table("Privacy ledger", head, rows)])


def _attacks(audit: Facts) -> dict[str, Any]:
    title = "Leak audit: attacks on the model"
    if audit["state"] != "done":
        words = "Make one with 'mfm-client audit --privacy'." if audit["state"] == NOT_DONE else (
            "leak_audit.json cannot be read; make it again."
        )  # fmt: skip
        return part("attacks", title, [item("Attacks", words, done=False)], [])
    rows = [
        (
            row["name"],
            _with_ends(row["auc"], row["auc_interval"]),
            _with_ends(row["tpr_at_1_fpr"], row["tpr_interval"]),
            *(str(row["n"]), row["date"]),
        )
        for row in audit["attacks"]
    ]
    head = ("attack", "AUC (0.5 is guessing)", "found at 1 % false alarms", "n", "date")
    note = item("Read it as", "Attacks of today; a later one can be stronger. Ends are 95 %.")
    return part("attacks", title, [note], [table("Attacks", head, rows)])


def _with_ends(value: float, ends: Sequence[float] | None) -> str:
    return f"{value:.3f}" + (f" ({ends[0]:.3f} to {ends[1]:.3f})" if ends else "")


def _cohort(cohort: Facts) -> dict[str, Any]:
    counts = cohort["counts"]
    rows = [
        (row["split"], str(row["images"]), str(row["patients"]), str(row["also_in_another"]))
        for row in counts or ()
    ]
    head = ("split", "images", "patients", "of them also in another split")
    digits = cohort["pseudonym_digits"]
    items = [
        item("Division", f"By {cohort['split_by']}: one patient's images belong together."),
        item(
            "Pseudonyms",
            f"'mfm-client intake' writes {digits} digits of HMAC-SHA-256 under this site's secret "
            "instead of a patient's number. The secret never leaves. A manifest that was made in "
            "another way holds what its author wrote.",
            cohort["secret"],
        ),
        item(
            "Held still during a run",
            "Hashes of labels, patients and splits are compared before every answer.",
            cohort["fingerprint"],
        ),
        item(
            "Smallest cell",
            f"{several(cohort['smallest_cell'], 'patient')} (limits.min_cell_count).",
        ),
    ]
    if counts is None:
        words = "The images cannot be opened now; 'mfm-client check' says why."
        items.append(item("Counts", words, done=False))
    return part("cohort", "Patients behind it", items, [table("Counts", head, rows)])


def _limits(limits: Sequence[Facts]) -> dict[str, Any]:
    rows = [(row["name"], _words(row["value"]), row["means"].replace("`", "'")) for row in limits]
    return part(
        "limits", "Limits in force here", [], [table("", ("limit", "value", "means"), rows)]
    )


def _words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return "; ".join(f"{k}: {_words(v)}" for k, v in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "not set" if value is None else str(value)


def _readers(facts: Facts) -> dict[str, Any]:
    """Return who reads each kind of answer, and who is trusted with what."""
    kinds: dict[str, list[str]] = {"in clear": [], "as a sum over hospitals": []}
    for each in facts["flow"]["exchanges"]:
        kinds["as a sum over hospitals" if each["masked"] else "in clear"].append(each["kind"])
    rows = [("images, identifiers, settings, logs, this page", "this hospital")]
    rows += [
        (f"answers: {', '.join(names)}", f"this hospital; the coordinator, {how}")
        for how, names in kinds.items()
        if names
    ]
    rows.append(("model of each round, final model, atlas", "the coordinator and every hospital"))
    trust = [tuple(row) for row in facts["trust"]]
    tables = [
        table("", ("what", "who reads it"), rows),
        table("Who is trusted", ("who", "trusted to", "not trusted to"), trust),
    ]
    return part("readers", "Who can read what", [], tables)


def _files(facts: Facts) -> dict[str, Any]:
    rows = [
        (
            row["path"],
            row["holds"],
            "yes" if row["patients"] else "no",
            size(row["bytes"]) if row["present"] else "not there",
            row["readers"] or NONE,
            row["stays"],
            row["after"],
        )
        for row in facts["files"]
    ]
    head = ("path", "holds", "of patients", "size", "readers", "stays", "deleting it means")
    other = facts["unlisted"]
    items = [
        item("Paths", "Start at this site's folder, that of site.yaml."),
        item("To delete", "Stop the node ('mfm-client stop .'), then 'rm -r PATH'."),
        item("Readers", "Who may read it on this machine: owner, group or everyone."),
        item("The images themselves", "Lie where data.root says; no program here changes them."),
        item(
            "Beside these", f"{several(other, 'other entry', 'other entries')} in the state folder."
        ),
        item("What has left", "Cannot be called back: it is part of sums and of the model."),
    ]
    return part("files", "Files: what is kept, and deletion", items, [table("", head, rows)])


def _threats(facts: Facts) -> dict[str, Any]:
    rows = [(first, second or NONE, third or NONE) for first, second, third in facts["threats"]]
    head = ("threat", "answer today", "NOT protected")
    note = item("Source", "SECURITY.md of the installed version, word for word.")
    return part("threats", "Threats, and what is not protected", [note], [table("", head, rows)])


def _proof(facts: Facts) -> dict[str, Any]:
    rows = []
    for each in facts["ledgers"]:
        state = "whole" if not each["problems"] else f"{several(each['problems'], 'problem')}"
        state = state if each["there"] or each["problems"] else "nothing yet"
        rows.append((each["name"], each["file"], str(each["lines"]), state, each["head"] or NONE))
    words = (
        "Each line holds the SHA-256 of the one before; the last hash also travels with every "
        "answer, so the coordinator's rounds.jsonl is a witness: 'mfm-client ledger --config "
        "site.yaml --witness rounds.jsonl'."
    )
    head = ("list", "file", "lines", "state", "last hash")
    tables = [table("Checked when this page was made", head, rows)]
    return part("proof", "Proof", [item("How", words)], tables)


def _stop(facts: Facts) -> dict[str, Any]:
    rows = [(row["what"], row["command"], row["effect"]) for row in facts["stop"]]
    return part("stop", "How to stop", [], [table("", ("what", "how", "effect"), rows)])
