"""Divide examples into rows for training, validation and test."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.errors import InputError
from pipelines.frame_names import file_in
from pipelines.heads.features import Examples

Rows = npt.NDArray[np.int64]
DEFAULT_SHARE = 0.2


@dataclass(frozen=True)
class Parts:
    """Rows for training, validation and test, as indices of the examples."""

    classes: tuple[str, ...]  # by name
    targets: Rows  # class of every row
    train: Rows
    validation: Rows
    test: Rows

    @property
    def measured(self) -> dict[str, Rows]:
        """The parts that have rows, by name."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: rows for name, rows in named.items() if len(rows)}


def divide(examples: Examples, *, share: float, seed: int) -> Parts:
    """Divide by the parts of the source, or take a stratified share for validation.

    A class of two rows or more always has one for validation and one for training.

    Args:
        examples: to divide.
        share: of each class, for validation; used where the source has no parts.
        seed: of the random choice.

    Raises:
        InputError: fewer than two classes, a class with nothing to train on, or nothing to
            validate on.
    """
    names, targets = np.unique(examples.labels, return_inverse=True)
    classes = tuple(names.tolist())
    if len(classes) < 2:
        raise InputError(
            f"all {len(targets)} labelled rows are {classes[0]!r}; a head needs two classes or more"
        )
    parts = examples.parts
    if parts is None:
        parts = _stratified(targets, share, seed)
    train, validation, test = (np.flatnonzero(parts == p) for p in ("train", "validation", "test"))
    for index in np.setdiff1d(targets, targets[train])[:1].tolist():
        raise InputError(
            f"class {classes[index]!r} has no row to train on, of {int((targets == index).sum())} "
            "labelled ones; give it some, or take its label away"
        )
    if not len(validation):
        raise InputError(
            f"none of the {len(targets)} labelled rows is there to validate on; give another "
            "`split_by` or `validation`, or classes of two rows or more"
        )
    return Parts(classes, targets, train, validation, test)


def _stratified(targets: Rows, share: float, seed: int) -> npt.NDArray[np.str_]:
    """Like sklearn's ``train_test_split``, which refuses classes of one row and few rows."""
    stream = np.random.Generator(np.random.PCG64(seed))
    parts = np.full(len(targets), "train", dtype="<U10")
    for index in range(int(targets.max()) + 1):
        rows = stream.permutation(np.flatnonzero(targets == index))
        count = min(len(rows) - 1, max(1, math.floor(len(rows) * share + 0.5)))
        parts[rows[:count]] = "validation"
    return parts


def validation_warnings(examples: Examples, parts: Parts) -> tuple[str, ...]:
    """Reasons why the measures may be too optimistic."""
    notes = []
    unseen = np.setdiff1d(parts.targets, parts.targets[parts.validation])
    if len(unseen):
        notes.append(
            f"{len(unseen)} of {len(parts.classes)} classes have no row to validate on, the first "
            f"is {parts.classes[unseen[0]]!r}"
        )
    if examples.images is not None and examples.parts is None:
        # Boxes of one image, and frames of one video, are nearly the same picture.
        origin = np.array([file_in(name) for name in examples.images.tolist()])
        shared = np.isin(origin[parts.validation], origin[parts.train]).sum()
        if shared:
            notes.append(
                f"{shared} of {len(parts.validation)} rows to validate on come from an image or "
                "video that is trained on as well, so validation is too kind; divide with --split-by"
            )
    return tuple(notes)
