"""A study that starts from a released model: the file, held against what the run agreed on.

What crosses a hospital's boundary: nothing here; every round sends the weights in any case.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from mfm_core.whole_file import write_whole
from strategies.config import RunConfig

RELEASED = "released.safetensors"
"""The file's name in a run folder."""


def start_problems(agreed: str | None, file: Path | None, baselines: Collection[str]) -> list[str]:
    """Return what is wrong with the start of a study.

    Args:
        agreed: run.pretrained.
        file: the study's model file.
        baselines: kinds of models to compare with.
    """
    if (agreed is None) != (file is None):
        return ["pretrained: run.pretrained is its SHA-256 and pretrained the file; set both"]
    anew = sorted({"local", "pooled"} & set(baselines))
    if file is not None and anew:
        return [
            f"baselines.kinds: {' and '.join(anew)} would start from a new model; leave them out "
            "of a run that starts from a released one"
        ]
    return []


def copy_released(path: Path, run: RunConfig, folder: Path) -> None:
    """Copy the model file that a run starts from into its folder, if it is the agreed one.

    Raises:
        CheckpointError: another file than was agreed, damaged, or of another architecture.
    """
    from mfm_core.model_start import read_released, start_from
    from server.weights import new_model

    start_from(new_model(run), read_released(path, str(run.pretrained)))
    write_whole(folder / RELEASED, path.read_bytes())
