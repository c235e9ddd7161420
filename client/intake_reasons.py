"""Why a file of the source is not in the manifest: one word, said to people.

What crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

REASONS: Mapping[str, str] = {
    "link": "a link; links are not followed, copy the file or folder itself",
    "no_file": "a pipe, socket or device and no file",
    "closed_folder": "a folder that may not be opened; check its permissions",
    "closed_file": "may not be read; check its permissions",
    "bad_name": "a file name that a manifest cannot hold; rename it",
    "empty": "empty (0 bytes)",
    "not_dicom": "not a DICOM file",
    "damaged": "its DICOM header cannot be read; export it again",
    "directory": "a DICOMDIR, the index of a medium and no image",
    "modality": "of a modality that was not asked for",
    "sop_class": "of a SOP class that was not asked for",
    "no_patient": "without patient id: nobody knows which images belong together",
    "duplicate": "an image that is here already, under another file name",
    "no_label": "without a label in the table",
    "two_labels": "with two different labels in the table; correct the table",
    "unreadable": "its pixels cannot be used; the list says why",
}
"""Reason to words that follow "left out: n files, ..."; also the order in which they are shown."""
