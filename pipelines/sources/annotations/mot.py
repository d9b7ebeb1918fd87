"""MOTChallenge's text: ``det.txt`` of a detector, ``gt.txt`` of people, or a tracker's results.

::

    frame, id, left, top, width, height, conf, class, visibility

Frames are counted from 1. In ground truth ``conf`` is 0 for what is not to be judged; such lines are
no rows. Pixels are taken as most tools write them, from 0.
"""

from __future__ import annotations

import configparser
import re
from collections.abc import Callable
from pathlib import Path

from common.errors import SourceError
from common.moved import Pairs, apply_pairs
from pipelines.frame_names import VIDEO_SUFFIXES, frame_name, natural
from pipelines.images.errors import ImageError
from pipelines.sources.annotations.rows import LABEL, SCORE, TRACK, Rows
from pipelines.sources.boxes import BoxesGiven
from pipelines.sources.folder import IMAGE_SUFFIXES

_FIELDS = 6  # that every line has
_MOST = 2**53  # floats hold larger whole numbers inexactly
_WITH_CLASS = (8, 9)  # fields of a line; with ten the last three are a place in the world, or -1


def is_mot(text: str) -> bool:
    """Whether the first line of a text is a line of MOTChallenge."""
    try:
        row = [float(field) for field in _split(text.lstrip("\ufeff \r\n").split("\n", 1)[0])]
    except ValueError:
        return False
    return len(row) >= _FIELDS and row[0] >= 0 and all(map(_is_whole, row[:2]))


def read_mot(text: str, file: Path, pairs: Pairs) -> tuple[Rows, BoxesGiven, Path]:
    """The rows of a file of MOTChallenge, and the folder that its images start from.

    Args:
        text: its content.
        file: in the folder of its sequence, or in ``gt`` or ``det`` there.
        pairs: of folders of images that were moved.

    Raises:
        SourceError: a line that is not as above, or the frames are not found.
    """
    lines = _read_lines(text, file)
    identified = any(row[1] >= 0 for _, row in lines)
    scored = all(len(row) > _FIELDS for _, row in lines)
    # Of people conf is a mark: 1, or 0 for what is not to be judged.
    truth = identified and scored and all(row[6] in (0, 1) for _, row in lines)
    classed = identified and all(len(row) in _WITH_CLASS for _, row in lines)
    own = {LABEL: classed, SCORE: scored and not truth, TRACK: identified}
    rows = Rows(tuple(name for name, has in own.items() if has))
    root, sequence, name_of, note = _frames(file, pairs)
    rows.notes.append(note)
    unjudged = 0
    for line, row in lines:
        frame = int(row[0])
        if frame < 1:
            raise SourceError(f"{file}, line {line}: frame {frame}; MOTChallenge counts from 1")
        if truth and row[6] == 0:
            unjudged += 1
            continue
        columns: dict[str, object] = {"frame": frame - 1, "sequence": sequence}
        values: dict[str, object] = {TRACK: str(int(row[1]))}
        values |= {LABEL: f"{row[7]:g}"} if classed else {}
        values |= {SCORE: row[6]} if scored else {}
        columns |= {name: value for name, value in values.items() if own[name]}
        image, problem = sequence, None
        try:
            image = name_of(frame)
        except ImageError as error:
            problem = str(error)
        rows.add(image, row[2:6], problem=problem, **columns)
    rows.note(unjudged, "lines are marked not to be judged (conf 0), and no row")
    return rows, BoxesGiven("pixels", "upright"), root


def _read_lines(text: str, file: Path) -> list[tuple[int, list[float]]]:
    lines = []
    for number, line in enumerate(text.lstrip("\ufeff").splitlines(), start=1):
        fields = _split(line)
        if not fields:
            continue
        try:
            row = [float(field) for field in fields]
        except ValueError:
            row = []
        if len(row) < _FIELDS or not all(_is_whole(value) for value in row[:2]):
            raise SourceError(
                f"{file}, line {number}: {line.strip()[:60]!r} is not "
                "frame,id,left,top,width,height,…, as MOTChallenge has it"
            )
        lines.append((number, row))
    return lines


def _is_whole(value: float) -> bool:
    return value % 1 == 0 and abs(value) < _MOST


def _split(line: str) -> list[str]:
    fields = [field.strip() for field in (line.split(",") if "," in line else line.split())]
    return fields[:-1] if fields and not fields[-1] else fields


NameOf = Callable[[int], str]


def _frames(file: Path, pairs: Pairs) -> tuple[Path, str, NameOf, str]:
    """Where the frames of a file are: folder, sequence, name of the image of a frame, a remark."""
    folder = file.parent.resolve()
    places = []
    for root in (folder, folder.parent):
        info = _sequence_info(root)
        images = root / info.get("imdir", "img1")
        now = Path(apply_pairs(pairs, str(images)))
        sequence = info.get("name") or root.name
        if now.is_dir():
            prefix = images.relative_to(root).as_posix() if now == images else str(images)
            names = [each.name for each in now.iterdir() if each.suffix.lower() in IMAGE_SUFFIXES]
            name_of, first = _numbered(prefix, sorted(names, key=natural), now)
            return root, sequence, name_of, f"frame 1 is {first}, the frames are images of {now}"
        there = Path(apply_pairs(pairs, str(root)))
        videos = [p.name for p in sorted(there.iterdir()) if p.suffix.lower() in VIDEO_SUFFIXES]
        if len(videos) == 1:
            note = f"frame 1 is the first frame of the video {there / videos[0]}"
            return there, sequence, _of_video(videos[0]), note
        places += [str(images), f"{len(videos)} videos in {there}"]
    raise SourceError(
        f"{file}: its frames are not found (looked for {', '.join(places)}); put them into "
        f"{places[0]}, or say where they are with `images='{places[0]}=FOLDER'`"
    )


def _of_video(name: str) -> NameOf:
    return lambda frame: frame_name(name, frame - 1)


def _sequence_info(root: Path) -> dict[str, str]:
    """What ``seqinfo.ini`` says, by names in small letters."""
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(root / "seqinfo.ini", encoding="utf-8-sig")
        return dict(parser["Sequence"])
    except (configparser.Error, KeyError, UnicodeDecodeError):
        return {}


def _numbered(prefix: str, names: list[str], folder: Path) -> tuple[NameOf, str]:
    """The names of frames from 1, by the last number in each name, and the first frame's.

    Where names are numbered from 0, frame 1 is image 0.
    """
    numbers = {int(run[-1]): name for name in names if (run := re.findall(r"\d+", Path(name).stem))}
    if len(numbers) < len(names) or not numbers:
        raise SourceError(
            f"{folder}: the frames must be images with a number of their own in the name, as "
            f"000001.jpg ({len(names)} images, {len(numbers)} numbers)"
        )
    first = 1 if min(numbers) > 0 else 0

    def name_of(frame: int) -> str:
        name = numbers.get(frame - 1 + first)
        if name is None:
            raise ImageError("missing frame", f"no image of frame {frame} in {folder.name}")
        return f"{prefix}/{name}"

    return name_of, numbers.get(first, f"not there ({names[0]} is frame {min(numbers)})")
