"""The info.yaml of a data set in the MIMeta layout: its tasks, its pictures' size, its counts.

Label numbers need not be consecutive: the grades of published ordinal tasks are 1, 4, 6, 8 and 10,
and so stand in the label arrays. Those of a multi-label task are columns, hence 0 to K - 1.

Layout: Woerner et al. 2024, "A comprehensive and easy-to-use multi-domain multi-task medical
imaging meta-dataset" (arXiv:2404.16000). Nothing here crosses the hospital's boundary.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from mfm_core.config import TaskConfig, TaskTarget, problems_of, read_yaml
from mfm_core.errors import ConfigError, DataError

Text = Annotated[str, StringConstraints(min_length=1, max_length=200, strip_whitespace=True)]
SplitName = Literal["train", "val", "test"]
Count = Annotated[int, Field(ge=0)]
MOST = 100_000_000
"""Images of a data set; a larger number in info.yaml is a slip."""


class _Known(BaseModel):
    """Keys that we use; a data set may say more."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class InfoTask(_Known):
    """One task of a data set."""

    task_name: Text = Field(description="Name; its labels are task_labels/<name>.npy.")
    task_target: TaskTarget = Field(description="Kind of the task.")
    labels: dict[int, Text] = Field(min_length=1, description="Label number to name.")

    @field_validator("labels", mode="before")
    @classmethod
    def _words_are_text(cls, found: Any) -> Any:
        if not isinstance(found, dict):
            return found
        words = {True: "yes", False: "no"}  # what YAML makes of unquoted yes and no
        return {
            key: words[word] if isinstance(word, bool) else str(word) for key, word in found.items()
        }

    @model_validator(mode="after")
    def _columns_are_complete(self) -> Self:
        most = len(self.labels) - 1
        if self.task_target == "MULTILABEL_CLASSIFICATION" and self.numbers != tuple(
            range(most + 1)
        ):
            found = list(self.numbers)
            raise ValueError(f"labels: expected the numbers 0 to {most}, found {found}")
        return self

    @property
    def numbers(self) -> tuple[int, ...]:
        """Return the label numbers in ascending order; the place of one here is its index."""
        return tuple(sorted(self.labels))

    @property
    def config(self) -> TaskConfig:
        """Return the task as a run's ontology names it."""
        return TaskConfig(
            target=self.task_target, labels=tuple(self.labels[n] for n in self.numbers)
        )


class MimetaInfo(_Known):
    """What info.yaml says of a data set."""

    id: Text = Field(description="Short name, equal to the folder's.")
    name: Text = Field(description="Name for people.")
    domain: Text = Field(description="Kind of image, e.g. Chest X-ray.")
    tasks: tuple[InfoTask, ...] = Field(min_length=1, description="What can be learned.")
    input_size: tuple[Literal[1, 3], Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = (
        Field(description="Channels (1 grey, 3 RGB), height and width in pixels.")
    )
    total_num_samples: int = Field(ge=1, le=MOST, description="Number of images.")
    splits_num_samples: dict[SplitName, Count] = Field(description="Images per split.")
    original_splits_num_samples: dict[SplitName, Count] = Field(
        default_factory=dict, description="Images per split of the publisher."
    )
    subject_overlaps: tuple[Any, ...] = Field(
        (), description="Data sets that show some of the same people."
    )

    @field_validator("subject_overlaps", mode="before")
    @classmethod
    def _none_is_empty(cls, found: Any) -> Any:
        return () if found is None else found

    @field_validator("tasks")
    @classmethod
    def _tasks_make_sense(cls, found: tuple[InfoTask, ...]) -> tuple[InfoTask, ...]:
        names = [task.task_name for task in found]
        problems = []
        if twice := sorted({name for name in names if names.count(name) > 1}):
            problems.append(f"{', '.join(twice)} stands twice; give every task its own name")
        for task in found:
            if any(mark in task.task_name for mark in "/\\\0"):
                problems.append(f"{task.task_name!r}: a slash cannot stand in a file name")
            try:
                _ = task.config
            except ValidationError as error:
                problems += problems_of(error, task.task_name)
        if problems:
            raise ValueError("; ".join(problems))
        return found


def read_info(folder: Path) -> MimetaInfo:
    """Return the info.yaml of a data set's folder.

    Raises:
        DataError: missing, unreadable or wrong; all problems of the file.
    """
    subject = f"MIMeta data set {folder.name}"
    try:
        content = read_yaml(folder / "info.yaml")
    except ConfigError as error:
        raise DataError(subject, [f"info.yaml: {text}" for text in error.problems]) from None
    try:
        info = MimetaInfo.model_validate(content)
    except ValidationError as error:
        raise DataError(subject, [f"info.yaml: {line}" for line in problems_of(error)]) from None
    if info.id != folder.name:
        reason = f"info.yaml: id is {info.id!r}, but its folder is called {folder.name!r}; rename"
        raise DataError(subject, [reason])
    return info
