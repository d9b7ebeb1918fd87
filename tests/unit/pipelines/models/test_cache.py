"""What this machine remembers of a model, and when it must find out again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pipelines
from pipelines.engines import candidates
from pipelines.engines.candidates import Candidates
from pipelines.engines.resolve import resolve
from pipelines.engines.unresolved import Unresolved, resolved_before
from pipelines.model_info import ModelRequest, Outputs, PrecisionAudit
from pipelines.models import cache as model_cache
from pipelines.models.cache import CachedModel, Choice, ModelCache
from pipelines.request import Request
from pipelines.sources.read import read_source
from tests.helpers.pictures import photo_folder
from tests.helpers.runs import TINY_FACTS, make_config

TINY = ModelRequest(spec="tiny")
MAP = Outputs(map=True)
KNOWN = CachedModel(
    facts=TINY_FACTS,
    labels=("a", "b"),
    has_classes=True,
    load_seconds=1.5,
    seconds={"fp32": 0.01},
    audits={
        "bf16 eager": PrecisionAudit(rows=16, cosine_mean=0.9, cosine_min=0.8, top1_agreement=1.0)
    },
    choices={"fp32 eager": Choice(engine="eager", built=None, audit=None, notes=("why",))},
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; its folder of models."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "onepass" / "models"


def of(outputs: Outputs | None = None, **given: object) -> ModelCache:
    return ModelCache(TINY.model_copy(update=given), outputs or Outputs())


def test_what_is_written_is_read_by_the_next_command(cache: Path) -> None:
    assert of().read() is None
    of().write(KNOWN)
    assert of().read() == KNOWN
    (file,) = cache.iterdir()  # and no draft
    assert file.suffix == ".json"
    assert cache.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "other",
    [
        {"input_size": 48},
        {"feature_point": "map_mean"},
        {"outputs": Outputs(map=True)},
        {"outputs": Outputs(pyramid=(1,))},
    ],
)
def test_another_model_or_other_outputs_have_another_entry(other: dict[str, Any]) -> None:
    of().write(KNOWN)
    assert of(**other).read() is None


@pytest.mark.parametrize("name", ["checkpoint", "labels", "head"])
def test_a_changed_file_of_the_model_makes_another_entry(tmp_path: Path, name: str) -> None:
    file = tmp_path / "given"
    file.write_bytes(b"one")
    of(**{name: str(file)}).write(KNOWN)
    stamp = file.stat()
    file.write_bytes(b"two")  # as long as before, and as old
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert of(**{name: str(file)}).read() is None
    file.write_bytes(b"one")
    assert of(**{name: str(file)}).read() == KNOWN


@pytest.mark.parametrize(
    "given",
    [{"checkpoint": "/gone.pth"}, {"spec": "timm:resnet18", "pretrained": True}],
    ids=["missing file", "fetched by a library"],
)
def test_weights_that_cannot_be_hashed_have_no_entry(cache: Path, given: dict[str, Any]) -> None:
    of(**given).write(KNOWN)
    assert of(**given).read() is None
    assert not cache.exists()


def test_weights_of_a_package_are_part_of_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    weights = tmp_path / "models" / "lite0.pth"
    package = type("Spec", (), {"origin": str(tmp_path / "__init__.py")})
    monkeypatch.setattr(model_cache, "find_spec", lambda name: package)
    weights.write_bytes(b"one")
    of(spec="lite0").write(KNOWN)
    assert of(spec="lite0").read() == KNOWN
    of(spec="lite0", random_weights=True).write(KNOWN)  # reads none of them
    weights.write_bytes(b"two")
    assert of(spec="lite0").read() is None
    assert of(spec="lite0", random_weights=True).read() == KNOWN


def as_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def as_a_link_to_nothing(file: Path) -> None:
    file.unlink()
    file.symlink_to("gone")


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: os.truncate(file, file.stat().st_size // 2),
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(b"\xff\xfe\x00"),
        lambda file: file.write_text(file.read_text().replace("{", '{"later": 1, ', 1)),
        as_a_folder,
        as_a_link_to_nothing,
    ],
    ids=["cut", "empty", "no text", "unknown field", "folder", "broken link"],
)
def test_a_damaged_entry_is_no_entry(cache: Path, damage: Callable[[Path], None]) -> None:
    of().write(KNOWN)
    (file,) = cache.iterdir()
    damage(file)
    assert of().read() is None
    of().write(KNOWN)  # which replaces it, unless a folder is in the way
    assert of().read() == (None if file.is_dir() else KNOWN)


def test_a_cache_that_cannot_be_written_costs_nothing(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: Path, data: bytes) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(model_cache, "write_atomic", refuse)
        of().write(KNOWN)
    shutil.rmtree(cache.parent.parent)
    cache.parent.parent.write_bytes(b"a file is in the way")
    of().write(KNOWN)
    assert of().read() is None


@pytest.mark.parametrize(
    ("what", "now"),
    [("_code", "0" * 64), ("_version", "99.0"), ("_machine", {"processor": "another"})],
)
def test_other_code_versions_and_processors_have_another_entry(
    what: str, now: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    of().write(KNOWN)
    monkeypatch.setattr(model_cache, what, lambda *_: now)
    assert of().read() is None


def test_the_code_is_all_that_builds_and_runs_networks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change of a byte of any of these files changes the key."""
    copied = tmp_path / "pipelines"
    shutil.copytree(Path(pipelines.__file__).parent, copied)
    code = model_cache._code.__wrapped__
    hashes = {code()}
    monkeypatch.setattr(pipelines, "__file__", str(copied / "__init__.py"))
    assert {code()} == hashes
    for changed in ("models/network.py", "engines/resolve.py", "images/pixels.py"):
        with (copied / changed).open("a") as stream:
            stream.write("# changed\n")
        hashes.add(code())
    assert len(hashes) == 4


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photo_folder(tmp_path_factory.mktemp("photos"), 4, width=40, height=40)


class Rounding:
    """How far bf16 is from exact, as this test wants it, and how often it was measured."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cosine = 1.0
        self.measured = 0
        monkeypatch.setattr(candidates, "compare", self._compare)
        monkeypatch.setattr(
            "pipelines.engines.resolve.fast_formats", lambda device: ["bf16", "fp32"]
        )

    def _compare(self, *arrays: np.ndarray) -> PrecisionAudit:
        self.measured += 1
        cosine = self.cosine
        return PrecisionAudit(rows=4, cosine_mean=cosine, cosine_min=cosine, top1_agreement=1.0)


@pytest.fixture
def rounding(monkeypatch: pytest.MonkeyPatch) -> Rounding:
    return Rounding(monkeypatch)


def unresolved(photos: Path, **given: Any) -> Unresolved:
    config = make_config(**({"source": str(photos), "precision": "auto"} | given))
    plan = read_source(str(photos))
    return Unresolved(config, {}, plan.table, str(plan.root), 4, None)


def resolved(photos: Path, **given: Any) -> Request:
    return resolve(unresolved(photos, **given), lanes=1).resolved.request


def candidate(photos: Path) -> Candidates:
    plan = read_source(str(photos))
    return Candidates(TINY, Outputs(), plan.table, plan.root)


def test_a_refused_format_is_remembered(photos: Path, rounding: Rounding) -> None:
    rounding.cosine = 0.99
    first = resolved(photos)
    assert (first.precision, rounding.measured) == ("fp32", 1)
    rounding.cosine = 1.0  # it is not measured again
    second = resolved(photos)
    assert (second.precision, rounding.measured) == ("fp32", 1)
    assert second == first  # and for the same reasons
    assert any("bf16" in note for note in second.notes)


def test_a_refusal_is_of_the_engine_that_was_tried(photos: Path, rounding: Rounding) -> None:
    rounding.cosine = 0.99
    resolved(photos)
    known = candidate(photos)
    assert known.earlier_rejection("bf16", "eager") is not None
    assert known.earlier_rejection("bf16", "auto") is not None
    assert known.earlier_rejection("bf16", "compile") is None
    assert known.earlier_rejection("fp16", "eager") is None


def test_an_accepted_half_format_is_measured_on_each_runs_own_images(
    photos: Path, rounding: Rounding
) -> None:
    assert (resolved(photos).precision, rounding.measured) == ("bf16", 1)
    assert (resolved(photos).precision, rounding.measured) == ("bf16", 2)
    rounding.cosine = 0.99  # of other images
    assert (resolved(photos).precision, rounding.measured) == ("fp32", 3)
    rounding.cosine = 1.0
    assert (resolved(photos).precision, rounding.measured) == ("fp32", 3)


def test_how_another_engine_rounds_float32_is_not_measured_again(
    photos: Path, rounding: Rounding
) -> None:
    audit = PrecisionAudit(rows=16, cosine_mean=1.0, cosine_min=1.0, top1_agreement=1.0)
    resolved(photos)
    cache = ModelCache(TINY, Outputs())
    known = cache.read()
    assert known is not None
    cache.write(known.model_copy(update={"audits": {"fp32 openvino": audit}}))
    before = rounding.measured
    assert candidate(photos).audit("fp32", "openvino") == audit
    assert rounding.measured == before


def test_a_network_that_is_known_is_not_built_to_be_described(
    photos: Path, rounding: Rounding, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = resolved(photos)

    def never(request: ModelRequest) -> None:
        raise AssertionError("this machine knows the network")

    monkeypatch.setattr(candidates, "load_backbone", never)
    known = candidate(photos)
    assert known.facts == found.facts
    assert known.labels == found.labels
    assert known.has_classes


@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_exact_eager_is_chosen_without_asking_again(
    photos: Path, rounding: Rounding, precision: str
) -> None:
    rounding.cosine = 0.99
    given = unresolved(photos, precision=precision)
    assert resolved_before(given) is None
    found = resolve(given, lanes=1).resolved
    assert found.request.precision == "fp32"
    assert resolved_before(given) == found
    assert resolved_before(replace(given, earlier=found.request)) is None
    assert resolved_before(replace(given, timed=True)) is None
    assert resolved_before(unresolved(photos, precision="bf16")) is None
    assert resolved_before(unresolved(photos, precision=precision, engine="auto")) is None
    assert resolved_before(unresolved(photos, precision=precision, features="map")) is None
    gate = {"gate": "tiny", "gate_label": "tiny 3"}
    assert resolved_before(unresolved(photos, precision=precision, **gate)) is None


def test_half_precision_is_never_chosen_without_this_runs_images(
    photos: Path, rounding: Rounding
) -> None:
    assert resolved(photos).precision == "bf16"
    assert resolved_before(unresolved(photos)) is None
    assert resolved(photos, precision="bf16").precision == "bf16"
    assert resolved_before(unresolved(photos, precision="bf16")) is None


def test_a_choice_of_an_engine_holds_while_the_engine_is_kept(photos: Path, cache: Path) -> None:
    audit = PrecisionAudit(rows=16, cosine_mean=1.0, cosine_min=1.0, top1_agreement=1.0)
    choice = Choice(engine="openvino", built="network", audit=audit, notes=("why",))
    of().write(KNOWN.model_copy(update={"choices": {"auto auto": choice}}))
    given = unresolved(photos, engine="auto")
    assert resolved_before(given) is None
    built = cache.parent / "engines" / "network"
    built.mkdir(parents=True)
    found = resolved_before(given)
    assert found is not None
    request = found.request
    assert (request.engine, request.precision, request.audit) == ("openvino", "fp32", audit)
    assert (request.facts, request.labels, request.notes) == (KNOWN.facts, KNOWN.labels, ("why",))
    built.rmdir()
    assert resolved_before(given) is None
