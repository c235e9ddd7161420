"""The command `mfm-client intake`: DICOM files in, manifest out.

What crosses the hospital's boundary: nothing; it reads and writes local files only.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from client.dicom_header import ATTRIBUTES, DEFAULT_ATTRIBUTES

app = typer.Typer()

Labels = Annotated[Path | None, typer.Option(help="CSV with labels by UID or accession number.")]
KeyColumn = Annotated[
    str | None, typer.Option(help="Its column with the identifier; default by its name.")
]
SopClasses = Annotated[
    list[str] | None, typer.Option("--sop-class", help="Only this class's UID; repeat.")
]
Attributes = Annotated[
    list[str] | None,
    typer.Option(
        help=f"Column to write, of {', '.join(ATTRIBUTES)}; repeat. "
        f"Default: {', '.join(DEFAULT_ATTRIBUTES)}."
    ),
]
KeepUnlabelled = Annotated[
    bool, typer.Option("--keep-unlabelled", help="Keep images that the table does not name.")
]
StudyAsPatient = Annotated[
    bool, typer.Option("--study-as-patient", help="Where there is no patient id.")
]
Copy = Annotated[
    bool, typer.Option("--copy", help="Write copies that hold pixels only, and use those.")
]
State = Annotated[
    Path | None,
    typer.Option(help="The site's state folder, with its secret; default is beside --out."),
]


@app.command()
def intake(  # noqa: PLR0913, PLR0917  # a command's arguments are its options
    source: Annotated[Path, typer.Argument(help="Folder of DICOM files, in any order of folders.")],
    out: Annotated[Path, typer.Option(help="Folder for manifest and lists.")],
    labels: Labels = None,
    label_column: Annotated[str, typer.Option(help="Its column with the label.")] = "label",
    key_column: KeyColumn = None,
    modality: Annotated[list[str] | None, typer.Option(help="Only this one; repeat.")] = None,
    sop_class: SopClasses = None,
    attribute: Attributes = None,
    keep_unlabelled: KeepUnlabelled = False,
    study_as_patient: StudyAsPatient = False,
    copy: Copy = False,
    state: State = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the counts as JSON.")] = False,
) -> None:
    """Make a manifest out of a folder of DICOM files; every file left out is listed with why.

    Patient ids become keyed hashes under the site's secret. Exit code 1 if no image is left.
    """
    from client.intake import Request, take_in
    from client.intake_words import print_intake
    from client.progress import progress

    request = Request(
        source,
        out,
        state or out.resolve().parent / "state",
        labels,
        label_column,
        key_column,
        tuple(code.upper() for code in modality or ()),
        tuple(sop_class or ()),
        tuple(attribute or DEFAULT_ATTRIBUTES),
        keep_unlabelled=keep_unlabelled,
        study_as_patient=study_as_patient,
        copy=copy,
    )
    with progress("read", sys.stderr) as show:
        done = take_in(request, show)
    print_intake(done, request, as_json)
    if not done.rows:
        raise typer.Exit(1)
