"""What `mfm-client intake` prints: counts, reasons and what to do next.

What crosses the hospital's boundary: nothing; no file name and no id is printed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from client.intake import LEFT_OUT, MANIFEST, Intake, Request
from client.intake_reasons import REASONS

_VALUES_SHOWN = 12


def print_intake(done: Intake, request: Request, as_json: bool) -> None:
    """Print counts for people, or as JSON."""
    if as_json:
        print(json.dumps(done.summary(), indent=2, ensure_ascii=False))
    else:
        print("\n".join(intake_lines(done, request)))


def intake_lines(done: Intake, request: Request) -> list[str]:
    """Return the lines for people."""
    found = done.summary()
    lines = [
        f"{found['images']} of {found['files']} files are images of the manifest: "
        f"{found['patients']} patients, {found['studies']} studies",
    ]
    if found["images"]:
        lines.append(f"  most images of one patient: {found['most_images_of_one_patient']}")
        lines += _label_lines(found["labels"])
        lines += [f"  {name}: {_values(counts)}" for name, counts in found["attributes"].items()]
    for name, count in found["withheld"].items():
        lines.append(f"  {name}: {count} images with a value that is no such value; left empty")
    lines += _left_out_lines(found["left_out"], found["left_out_details"])
    if request.labels is not None:
        lines += _table_lines(found["label_lines_without_image"], not done.rows)
    lines += [
        "",
        f"written: {MANIFEST}, {LEFT_OUT} (every file that was left out) in {request.out}",
    ]
    lines.append("Both hold file names and stay at the hospital.")
    if not done.rows:
        return [*lines, "No image is left for a run: check the folder and what was left out."]
    lines.append("For site.yaml:")
    lines.append(f"  data: {{root: {done.root.resolve()}, manifest: {request.out / MANIFEST}}}")
    return lines


def _label_lines(labels: Mapping[str, int]) -> list[str]:
    return [] if set(labels) == {""} else [f"  labels: {_values(labels)}"]


def _values(counts: Mapping[str, int]) -> str:
    """Return the most frequent values with their counts; "" is said as unknown."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{value or 'unknown'} {count}" for value, count in ranked[:_VALUES_SHOWN]]
    more = len(ranked) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _left_out_lines(left: Mapping[str, int], details: Mapping[str, Mapping[str, int]]) -> list[str]:
    lines = [] if left else ["left out: none"]
    for reason, count in left.items():
        lines.append(f"left out: {count} {'file' if count == 1 else 'files'}, {REASONS[reason]}")
        ranked = sorted(details.get(reason, {}).items(), key=lambda item: (-item[1], item[0]))
        lines += [f"    {number} {detail}" for detail, number in ranked]
    return lines


def _table_lines(unused: int, nothing: bool) -> list[str]:
    if not unused:
        return []
    lines = [f"label table: {unused} lines name no image that was asked for"]
    if nothing:
        lines.append("    (spreadsheets shorten long numbers and drop zeros: export ids as text)")
    return lines
