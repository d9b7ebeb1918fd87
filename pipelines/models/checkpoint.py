"""Weights out of a checkpoint: read without running its code, found in its wrappers, loaded strictly.

Training programs save a network's weights in many wrappers: ``{"state_dict": …}`` or ``{"model": …}``
beside the optimizer's, names that begin with ``module.``, ``_orig_mod.`` or ``model.``, and a moving
average beside the weights themselves. None of these is known by name here: the weights are where the
names are those of the network.
"""

from __future__ import annotations

import pickle
import pickletools
import re
import threading
import warnings
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from common.errors import ModelError, first_line
from common.untrusted import read_tensors
from pipelines.model_info import WeightsChoice

State = dict[str, torch.Tensor]

# As timm's ``load_state_dict`` prefers them; others are ambiguous where they differ.
_TIMM = ("state_dict_ema", "model_ema", "state_dict", "model")
_AVERAGE = re.compile(r"(^|[._])ema([._]|$)", re.IGNORECASE)
_MAX_DEPTH = 5  # of containers; pickled ones may hold themselves
_COUNTER = "num_batches_tracked"  # of batch norms; inference does not use it
_LOCK = threading.Lock()  # torch's list of allowed classes is the process's


class Checkpoint(NamedTuple):
    """Weights of a network, by its own names, and where they come from, for people."""

    state: State
    origin: str


class _Candidate(NamedTuple):
    """Tensors of a checkpoint that may be the network's weights."""

    path: str  # of containers, as ``model.state_dict``
    prefix: str  # of their names
    matches: int  # names that are the network's
    tensors: State  # of the container

    @property
    def name(self) -> str:
        return ".".join(part for part in (self.path, self.prefix.rstrip(".")) if part)

    @property
    def is_average(self) -> bool:
        return _AVERAGE.search(self.name) is not None

    @property
    def state(self) -> State:
        start = len(self.prefix)
        return {
            name[start:]: tensor
            for name, tensor in self.tensors.items()
            if name.startswith(self.prefix)
        }


class _Unread:
    """Stands for an object of a class that is not read: arguments, paths, numbers of NumPy."""

    def __new__(cls, *args: Any, **named: Any) -> _Unread:
        return super().__new__(cls)

    def __init__(self, *args: Any, **named: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


class _UnreadDict:
    """Stands for a class of dictionaries, which torch fills item by item."""

    def __new__(cls, *args: Any) -> Any:
        return OrderedDict()


def read_checkpoint(
    file: str, names: Collection[str], weights: WeightsChoice | None = None
) -> Checkpoint:
    """Read the weights of a network.

    Args:
        file: of ``torch.save`` or safetensors.
        names: of the network's weights and buffers.
        weights: ``ema``: the moving average; ``raw``: the weights that it is of; None: the average
            where there is one, as timm does.

    Raises:
        ModelError: missing, not a checkpoint, without the weights that are asked for, or with
            several networks of that architecture.
    """
    data = _read(file)
    candidates = list(_candidates(data, frozenset(names)))
    if not candidates:
        raise ModelError(
            f"`checkpoint={file!r}` holds no state dict of tensors{_contents(data)}{_hint(file, data)}"
        )
    most = max(candidate.matches for candidate in candidates)
    whole = [each for each in candidates if 2 * each.matches > most] or candidates
    average = [each for each in whole if each.is_average]
    plain = [each for each in whole if not each.is_average]
    if weights is not None and not (average if weights == "ema" else plain):
        held = "no moving average" if weights == "ema" else "a moving average alone"
        raise ModelError(
            f"`weights={weights!r}`: {file} holds {held}{_contents(data)}; leave it out"
        )
    best = _best(plain if weights == "raw" or not average else average, file)
    return Checkpoint(best.state, f"{file} ({best.name})" if average and plain else file)


def load_state(model: nn.Module, state: State, *, file: str, spec: str) -> None:
    """Load weights strictly.

    Args:
        model: to load into.
        state: the weights, in any precision.
        file, spec: of checkpoint and model, for the message.

    Raises:
        ModelError: of another architecture or number of classes, or not finite; names the first
            differences.
    """
    own = model.state_dict()
    # Checkpoints older than these counters lack them.
    state = {name: value for name, value in own.items() if name.endswith(_COUNTER)} | state
    missing = [name for name in own if name not in state]
    extra = [name for name in state if name not in own]
    both = [name for name in own if name in state]
    problems = [
        f"{name} is {tuple(state[name].shape)}, the model's is {tuple(own[name].shape)}"
        for name in both
        if state[name].shape != own[name].shape
    ][:1]
    if missing:
        problems.append(f"{len(missing)} weights missing (first: {missing[0]})")
    if extra:
        problems.append(f"{len(extra)} unknown (first: {extra[0]})")
    if not problems:
        problems = [problem for name in both if (problem := _problem(name, state[name], own[name]))]
    if problems:
        raise ModelError(f"{file} is not a checkpoint of {spec}: {'; '.join(problems[:3])}")
    own.update(state)  # in a dictionary that knows its version: older ones would be rearranged
    model.load_state_dict(own)


def _problem(name: str, tensor: torch.Tensor, own: torch.Tensor) -> str | None:
    """Why a weight cannot be taken, though name and shape are the network's."""
    if own.is_floating_point() and not tensor.is_floating_point():
        return f"{name} is {tensor.dtype}, no floating-point number"
    if tensor.is_floating_point() and not torch.isfinite(tensor).all():
        return f"{name} is not finite everywhere"
    return None


def _read(file: str) -> Any:
    """The contents of a checkpoint; classes that torch does not know are read as empty objects."""
    path, given = Path(file), f"`checkpoint={file!r}`"
    if not path.is_file():
        raise ModelError(f"{given}: no such file")
    try:
        if path.suffix.lower() == ".safetensors":
            from safetensors.torch import load_file  # late: of one kind of checkpoint

            return load_file(path)
        with _LOCK, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, about what it then refuses
            with safe_globals([(_stand_in(name), name) for name in _unknown_classes(path)]):
                return read_tensors(path, mmap=True)  # an optimizer's state is not loaded
    except Exception as error:  # of any reader of a file from outside
        reason = first_line(error).rstrip(".")
        hint = _hint(file, reason) if _is_pickled(path) else ""
        raise ModelError(f"{given} cannot be read as weights: {reason}{hint}") from None


def _hint(file: str, content: Any) -> str:
    """How to convert a checkpoint whose weights are in objects, which its own code must make.

    Args:
        file: the checkpoint.
        content: what was read of it, or why nothing was.
    """
    load = f"torch.load({file!r}, weights_only=False)"
    objects = [name for name, value in _items(content) if isinstance(value, _Unread)]
    if isinstance(content, str):
        jit = "TorchScript" in content
        weights = f"torch.jit.load({file!r}).state_dict()" if jit else f"{load}['state_dict']"
    elif isinstance(content, _Unread):
        weights = f"{load}.state_dict()"
    elif objects:
        weights = f"{load}[{objects[0]!r}].state_dict()"
    else:
        return ""
    return (
        "; if you trust it, convert it once: "
        f"python -c \"import torch; torch.save({weights}, 'weights.pth')\""
    )


def _is_pickled(path: Path) -> bool:
    """Whether torch saved it, whatever is in it; archives of NumPy, say, are refused without advice."""
    with suppress(zipfile.BadZipFile, OSError), path.open("rb") as stream:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return any(name.endswith("/data.pkl") for name in archive.namelist())
        return stream.read(1) == pickle.PROTO
    return False


def _unknown_classes(path: Path) -> set[str]:
    """Full names of the classes and functions that a file names and torch does not know."""
    names: set[str] = set()
    with suppress(Exception), path.open("rb") as stream:  # no checkpoint: reading it says why
        if zipfile.is_zipfile(path):
            return set(get_unsafe_globals_in_checkpoint(path))
        for _ in range(4):  # as before PyTorch 1.6: a number, a version, a system, the contents
            codes = pickletools.genops(stream)
            names |= {str(arg).replace(" ", ".") for code, arg, _ in codes if code.name == "GLOBAL"}
    return names


def _stand_in(name: str) -> Any:
    return _UnreadDict if name.lower().endswith("dict") else _Unread


def _candidates(data: Any, names: frozenset[str]) -> Iterator[_Candidate]:
    """Each container of tensors, with each prefix under which it has names of the network."""
    for path, tensors in _containers(data):
        counts = Counter({"": 0})
        for name in tensors:
            prefix, rest = "", name
            while rest:
                counts[prefix] += rest in names
                head, _, rest = rest.partition(".")
                prefix += f"{head}."
        for prefix, matches in counts.items():
            if matches or not prefix:
                yield _Candidate(path, prefix, matches, tensors)


def _containers(data: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, State]]:
    """The dictionaries of a checkpoint that hold tensors, with their path."""
    if depth > _MAX_DEPTH:
        return
    tensors = {name: value for name, value in _items(data) if isinstance(value, torch.Tensor)}
    if tensors:
        yield path, tensors
    for name, value in _items(data):
        yield from _containers(value, f"{path}.{name}" if path else name, depth + 1)


def _items(data: Any) -> list[tuple[str, Any]]:
    """What a container holds by name; of anything else nothing."""
    items = data.items() if isinstance(data, dict) else ()
    return [(name, value) for name, value in items if isinstance(name, str)]


def _best(candidates: Sequence[_Candidate], file: str) -> _Candidate:
    """The candidate with the most names of the network; the largest, where none has any."""
    most = max(candidate.matches for candidate in candidates)
    if not most:
        return max(candidates, key=lambda candidate: len(candidate.tensors))
    best = [candidate for candidate in candidates if candidate.matches == most]
    best.sort(key=lambda c: _TIMM.index(c.name) if c.name in _TIMM else len(_TIMM))
    others = [other for other in best[1:] if not _equal(best[0].state, other.state)]
    if others and best[0].name not in _TIMM:
        raise ModelError(
            f"`checkpoint={file!r}` holds several networks of that architecture: "
            f"{', '.join(c.name for c in (best[0], *others))}; save the one you want by itself"
        )
    return best[0]


def _equal(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(tensor, other[name]) for name, tensor in one.items()
    )


def _contents(data: Any) -> str:
    """What a checkpoint holds, for a message."""
    if isinstance(data, dict):
        return f" (it has {', '.join(map(str, list(data)[:8])) or 'nothing'})"
    return "" if isinstance(data, _Unread) else f" (it is a {type(data).__name__})"
