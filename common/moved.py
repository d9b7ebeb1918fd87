"""Folders that were moved: where images are now that a run, an index or a manifest knows by a path.

Runs and indexes store the absolute path of each folder, and its path relative to themselves, so that
a project which is moved as a whole is found again. Anything else is said with ``OLD=NEW``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import InputError
from common.storage import is_remote, to_path

Pairs = tuple[tuple[str, str], ...]  # old and new folders
Moved = Mapping[str | Path, str | Path] | Mapping[str, str] | None  # the same, as users give it


def read_pairs(images: Moved | Sequence[str]) -> Pairs:
    """Pairs of old and new folders, as a user gives them.

    Args:
        images: old folder to new folder, or texts ``OLD=NEW``.

    Raises:
        InputError: a text is not ``OLD=NEW``, or a new folder does not exist.
    """
    if isinstance(images, Mapping):
        given = [(str(old), str(new)) for old, new in images.items()]
    else:
        given = [_split(text) for text in images or ()]
    pairs: list[tuple[str, str]] = []
    for old, new in given:
        if not is_remote(new) and not Path(new).is_dir():
            raise InputError(f"`images={f'{old}={new}'!r}`: there is no folder {new}")
        now = str(to_path(new)) if is_remote(new) else str(Path(new).resolve())
        # Runs know folders without links, manifests of images as they were typed.
        pairs += [(name, now) for name in dict.fromkeys(_names(old))]
    return tuple(pairs)


def _split(text: str) -> tuple[str, str]:
    old, sign, new = text.partition("=")
    if not (old and sign and new):
        raise InputError(f"`images='OLD=NEW'`: give the folder that was and that is, not {text!r}")
    return old, new


def _names(folder: str) -> list[str]:
    if is_remote(folder):
        return [folder.rstrip("/")]
    return [os.path.normpath(Path(folder).absolute()), str(Path(folder).resolve())]


def apply_pairs(pairs: Pairs, name: str) -> str:
    """A path as it is now: that of the longest old folder which holds it, or itself."""
    held = [(old, new) for old, new in pairs if name == old or name.startswith(f"{old}/")]
    if not held:
        return name
    old, new = max(held, key=lambda pair: len(pair[0]))
    return new + name[len(old) :]


def relative_to(folder: str | Path, base: Path) -> str | None:
    """The path from one folder to another; None where one lies in an object store."""
    if is_remote(folder) or is_remote(base):
        return None
    return Path(os.path.relpath(folder, base)).as_posix()


def places_of(stored: str, relative: str | None, base: Path, pairs: Pairs) -> list[str]:
    """Where a folder may be, the likeliest first.

    Args:
        stored: its absolute path, when it was written down.
        relative: its path from ``base``.
        base: the folder that names it, as it is now.
        pairs: of moved folders.
    """
    moved = apply_pairs(pairs, stored)
    places = [moved] if moved != stored else [stored]
    if relative is not None and not is_remote(base):
        places.append(os.path.normpath(base.resolve() / relative))
    return list(dict.fromkeys([*places, stored]))


def find_folder(stored: str, relative: str | None, base: Path, pairs: Pairs) -> str:
    """The first of ``places_of`` that exists; without one the path as it was stored."""
    places = places_of(stored, relative, base, pairs)
    if len(places) == 1 or is_remote(places[0]):
        return places[0]
    return next((place for place in places if Path(place).is_dir()), stored)


@dataclass(frozen=True)
class ImageRoot:
    """Where the images of a source are.

    Attributes:
        folder: that relative names start from.
        pairs: of folders that absolute names start with and that were moved.
    """

    folder: Path
    pairs: Pairs = ()

    def path(self, name: str) -> Path:
        """The file of an image."""
        if is_remote(name) or name.startswith("/"):
            return to_path(apply_pairs(self.pairs, name))
        return self.folder / name
