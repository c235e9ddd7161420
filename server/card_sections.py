"""The model card's own fields (Mitchell et al. 2019), filled from a run's figures.

Source: "Model Cards for Model Reporting", FAT* 2019: details, intended use, factors, metrics,
evaluation data, training data, ethical considerations, caveats. Privacy is ours.
What crosses a hospital's boundary: nothing.
"""

from __future__ import annotations

from mfm_core.report_audit import bias_lead, explained, ranked
from mfm_core.report_groups import gap_lead, grouped
from mfm_core.report_page import class_table
from mfm_core.report_words import Cell, Table, counts, listed, several, span
from server.card_items import Item, Known, Section, item, rows_of, section, text_of, told

NOT_FOR = (
    "Diagnosis, triage or treatment of any patient.",
    "Storing a drawn image as if it had been acquired.",
)
"""Uses that every release excludes."""


def sections_of(known: Known) -> list[Section]:
    """Return the sections of the card, in the order of the source."""
    return [
        _details(known),
        _use(known),
        _factors(known),
        _metrics(known),
        _evaluation(known),
        _training(known),
        _privacy(known),
        _ethics(known),
        _caveats(known),
    ]


def _details(known: Known) -> Section:
    run, people, facts = known.run, known.people, known.facts
    size = known.figures.get("parameters")
    side, channels = run.image.size_px, several(run.image.channels, "channel")
    model = (
        f"Convolutional autoencoder with a linear head on its latent; {size:,} parameters; "
        f"{side} x {side} pixels, {channels}"
        if size
        else None
    )
    items = [
        told("Who made it", people.organisation, "organisation"),
        told("Contact", people.contact, "contact"),
        item("Model", model, "Run it again with a version that counts parameters."),
        item("Classes", ", ".join(run.ontology.classes), ""),
        item("Run", f"{run.name}, run hash {facts['run_hash']}", ""),
        item("Released", str(facts["date"]), ""),
        told("Licence", people.licence, "licence"),
        told("Citation", people.citation, "citation"),
    ]
    return section("details", "Model details", items)


def _use(known: Known) -> Section:
    people = known.people
    items = [
        told("Intended use", people.intended_use, "intended_use"),
        told("Intended users", people.intended_users, "intended_users"),
        item("Out of scope", " ".join([*NOT_FOR, *map(sentence, people.out_of_scope)]), ""),
        told("Human oversight", people.oversight, "oversight"),
    ]
    return section("use", "Intended use and what it is not for", items)


def sentence(text: str) -> str:
    """Return the text with a full stop."""
    return text if text.endswith((".", "!", "?")) else f"{text}."


def recorded(known: Known) -> str:
    """Return the attributes of the ontology with their values."""
    found = known.run.ontology.attributes
    return "; ".join(f"{name}: {', '.join(values)}" for name, values in found.items())


def _factors(known: Known) -> Section:
    fields = recorded(known)
    biases, gaps = known.biases, known.gaps
    items = [
        item("Attributes recorded", fields, "Agree on attributes such as view, sex or age."),
        item("Figures per group", gap_lead(gaps) if gaps else None,
             "Record an attribute, agree on audit.enabled: true; it needs patients on each side."),
        item("Fields that sway the answer", bias_lead(biases) if biases else None,
             "Agree on audit.enabled: true; it needs patients on both sides of a field."),
    ]  # fmt: skip
    groups = grouped(known.subgroups, {})["attributes"] if known.subgroups else []
    tables = [Table(t.head, t.rows, f"{group['name']}: {caption}", t.strong, t.words)
              for group in groups
              for t, caption in ((group["values"], "each value"), (group["gaps"], "gaps"))
              if t]  # fmt: skip
    ranking = ranked(biases)["table"] if biases else None
    return section("factors", "Factors: groups and biases", items, [*tables, ranking])


def _metrics(known: Known) -> Section:
    names = {"macro_auc": "Macro AUC", "macro_ap": "Macro AP", "macro_f1": "Macro F1",
             "accuracy": "Accuracy", "ssim": "Redrawn images, SSIM"}  # fmt: skip
    pooled, rows = known.pooled, known.explanations
    interval = known.run.statistics.bootstrap_replicates
    items = [
        item("Performance", f"Macro AUC {text_of(pooled.get('macro_auc'))}." if pooled else None,
             "Evaluate the final model at the sites."),
        item("Intervals", f"95 %, Poisson bootstrap by patient, {interval} replicates"
             if interval else None, "Set statistics.bootstrap_replicates."),
        item("Explanations", explained(rows, {})["lead"] if rows else None,
             "Agree on audit.enabled: true and audit.explained_per_class above 0."),
    ]  # fmt: skip
    whole = rows_of({name: pooled.get(key) for key, name in names.items()}, "all test images")
    table = explained(rows, {})["table"] if rows else None
    return section("metrics", "Metrics", items, [whole, class_table(pooled), table])


def _evaluation(known: Known) -> Section:
    n = known.figures.get("n_test")
    text = None
    if n:
        sites = several(len(known.figures["per_site"]), "hospital")
        text = f"{n} test images of {sites}, none of them trained on; every hospital kept its own"
    items = [
        item("Test data", text, "Keep test images at the sites (site.yaml, test_fraction)."),
        told("Hospitals that took no part", known.people.external_evaluation,
             "external_evaluation"),
    ]  # fmt: skip
    return section("evaluation", "Evaluation data", items, [_site_table(known)])


def _site_table(known: Known) -> Table:
    figures = known.figures
    images, missed = figures.get("training_images") or {}, figures.get("missed") or {}
    names = sorted({*figures["per_site"], *images, *missed}, key=lambda name: (len(name), name))
    rows = []
    for name in names:
        found = figures["per_site"].get(name) or {}
        n = (found.get("ssim") or {}).get("n", "–")
        row = [Cell(name), Cell(str(images.get(name, "–"))), Cell(str(n))]
        row += [span(found.get(key)) for key in ("macro_auc", "accuracy", "ssim")]
        rows.append([*row, Cell(str(missed.get(name, 0)))])
    head = ("hospital", "training images", "test images", "macro AUC", "accuracy", "SSIM",
            "answers missing")  # fmt: skip
    return Table(head, rows, "Each hospital's own images")


def training_data(known: Known) -> str | None:
    """Return training images, hospitals and patients per class."""
    images = known.figures.get("training_images") or {}
    if not images:
        return None
    text = f"{sum(images.values()):,} training images at {several(len(images), 'hospital')}"
    patients = known.figures.get("patients_per_class")
    return f"{text}; patients per class: {counts(patients)}" if patients else text


def _training(known: Known) -> Section:
    people, withheld = known.people, known.figures.get("withheld_cells")
    items = [
        item("Amount", training_data(known), "The run tells no counts of training images."),
        item("Small cells", f"{several(withheld, 'cell')} of too few patients withheld by the sites"
             if withheld is not None else None, "The run released no latent sums."),
        told("Source of the images", people.data_source, "data_source"),
        told("Inclusion and exclusion", people.inclusion, "inclusion"),
        told("Labels", people.ground_truth, "ground_truth"),
    ]  # fmt: skip
    return section("training", "Training data", items)


def privacy_text(known: Known) -> str | None:
    """Return the differential privacy of training in words, None without."""
    found = known.figures.get("privacy") or {}
    if found.get("training", "none") == "none":
        return None
    apart = ", ".join(found.get("unprotected") or ()) or "none"
    if found["training"] == "central":
        words, clip = (found.get("spent") or {}).get("words"), (found.get("central") or {})["clip"]
        noise = found.get("noise_multiplier")
        return (
            f"central DP: every site's update clipped to {clip:g}, noise {noise} x clip on their "
            f"sum; {words}. It covers the weights of the training rounds; unprotected exchanges: "
            f"{apart}"
        )
    unit, noise, clip = (found.get(k, "?") for k in ("unit", "noise_multiplier", "max_grad_norm"))
    spent = found.get("largest_epsilon")
    told_it = "epsilon not told by every site" if spent is None else f"largest epsilon {spent:.3g}"
    return (
        f"{found['training']}: noise {noise} x clip {clip}, unit {unit}, delta {found.get('delta')}"
        f"; {told_it}. It covers the weights of the training rounds; "
        f"unprotected exchanges: {apart}"
    )


def leak_text(known: Known) -> str | None:
    """Return the attacks in words, None without."""
    attacks = (known.figures.get("leak_audit") or {}).get("attacks") or []
    return "; ".join(
        f"{a['name']}: AUC {a['auc']:.3f}, {a['tpr_at_1_fpr']:.3f} hits at 1 % false alarms, "
        f"n {a['n']}, {a['date']}"
        for a in attacks
    )


def _privacy(known: Known) -> Section:
    items = [
        item("What left the hospitals", "Model updates and sums; no image and no row of a table. "
             "Every hospital's own ledger lists each message.", ""),
        item("Differential privacy", privacy_text(known),
             "Agree on privacy.training: dp_sgd or central; without one nothing formal bounds what "
             "the model tells of a patient."),
        item("Attacks tried", leak_text(known),
             "Attack the model (membership) and put leak_audit.json beside the run."),
        item("Names of hospitals", "named" if known.facts["sites_named"]
             else "left out; numbered anew in every release", ""),
    ]  # fmt: skip
    return section("privacy", "Privacy", items)


def _ethics(known: Known) -> Section:
    people = known.people
    items = [
        told("Approvals and consent", people.ethics, "ethics"),
        told("Risks", people.risks, "risks"),
        told("Funding and interests", people.funding, "funding"),
    ]
    return section("ethics", "Ethical considerations", items)


def _caveats(known: Known) -> Section:
    items: list[Item] = []
    missed = known.figures.get("missed") or {}
    if missed:
        text = f"{sum(missed.values())} answers of {several(len(missed), 'hospital')} are missing."
        items.append(item("Degraded run", text, ""))
    for verdict in known.verdicts:
        if verdict.accepted:
            text = f"{verdict.title}: {verdict.state}; found {verdict.found}. {verdict.accepted}"
            items.append(item("Released although a gate held it back", text, ""))
    undone = [verdict.title for verdict in known.verdicts if verdict.state == "not done"]
    if undone:
        items.append(item("Gates not done", f"{listed(undone)}.", ""))
    items += [item("Known limits", text, "") for text in map(sentence, known.people.limitations)]
    if not known.people.limitations:
        items.append(told("Known limits", None, "limitations"))
    return section("caveats", "Caveats and recommendations", items)
