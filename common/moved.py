"""Folders that were moved: where images are now that a run, an index or a manifest knows by a path.

Runs and indexes store the absolute path of each folder, and of the folder that they are in themselves,
so that a project which is moved as a whole is found again: by the path from the one to the other.
Anything else is said with ``OLD=NEW``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import InputError

Pairs = tuple[tuple[str, str], ...]  # old and new folders
Moved = Mapping[str | Path, str | Path] | Mapping[str, str] | None  # the same, as users give it


def _is_remote(name: str | Path) -> bool:
    from common.storage import is_remote  # late: Arrow takes half a second

    return is_remote(name)


def _to_path(name: str) -> Path:
    from common.storage import to_path  # late: Arrow takes half a second

    return to_path(name)


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
        if not _is_remote(new) and not Path(new).is_dir():
            raise InputError(f"`images={f'{old}={new}'!r}`: there is no folder {new}")
        now = new.rstrip("/") if _is_remote(new) else str(Path(new).resolve())
        # Runs know folders without links, manifests of images as they were typed.
        pairs += [(name, now) for name in dict.fromkeys(_names(old))]
    return tuple(pairs)


def _split(text: str) -> tuple[str, str]:
    old, sign, new = text.partition("=")
    if not (old and sign and new):
        raise InputError(f"`images='OLD=NEW'`: give the folder that was and that is, not {text!r}")
    return old, new


def _names(folder: str) -> list[str]:
    if _is_remote(folder):
        return [folder.rstrip("/")]
    return [os.path.normpath(Path(folder).absolute()), str(Path(folder).resolve())]


def apply_pairs(pairs: Pairs, name: str) -> str:
    """A path as it is now: that of the longest old folder which holds it, or itself."""
    held = [(old, new) for old, new in pairs if name == old or name.startswith(f"{old}/")]
    if not held:
        return name
    old, new = max(held, key=lambda pair: len(pair[0]))
    return new + name[len(old) :]


def places_of(stored: str, then: str | None, now: Path, pairs: Pairs) -> list[str]:
    """Where a folder or a file may be, the likeliest first.

    Args:
        stored: its absolute path, when it was written down.
        then: the absolute path of the folder that it was written down in; None: not known.
        now: where that folder is now.
        pairs: of moved folders.
    """
    places = [apply_pairs(pairs, stored), stored]
    local = not (_is_remote(stored) or _is_remote(now))
    if then is not None and then != str(now) and local and not _is_remote(then):
        relative = os.path.relpath(stored, then)
        places.insert(1, os.path.normpath(now.resolve() / relative))
    return list(dict.fromkeys(places))


def find_path(stored: str, then: str | None, now: Path, pairs: Pairs) -> str:
    """The first of ``places_of`` that exists; without one the path as it was stored."""
    places = places_of(stored, then, now, pairs)
    if len(places) == 1 or _is_remote(places[0]):
        return places[0]
    return next((place for place in places if Path(place).exists()), stored)


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
        if _is_remote(name) or name.startswith("/"):
            return _to_path(apply_pairs(self.pairs, name))
        return self.folder / name
