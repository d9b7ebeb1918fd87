"""Checkpoints as training programs save them: the weights in them are found, and no code is run."""

from __future__ import annotations

import argparse
import collections
import io
import os
import pickle
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import load_state_dict
from timm.utils import CheckpointSaver, ModelEmaV3

from common.errors import ModelError
from pipelines.model_info import ModelRequest
from pipelines.models import registry
from pipelines.models.checkpoint import load_state, read_checkpoint
from pipelines.models.registry import examine, load_backbone, load_verified

NAME = "test_vit"
State = dict[str, torch.Tensor]
ARGS = argparse.Namespace(model=NAME, lr=0.1, data_dir=Path("/data"))


def network(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return timm.create_model(NAME, num_classes=7).eval()


@pytest.fixture(scope="module")
def raw() -> State:
    return dict(network(1).state_dict())


@pytest.fixture(scope="module")
def ema() -> State:
    return dict(network(2).state_dict())


def prefixed(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def loaded(file: Path, weights: Any = None) -> tuple[State, str]:
    """The network's weights, and where they are from without the file's name."""
    model = network(3)
    state, origin = read_checkpoint(str(file), model.state_dict(), weights)
    load_state(model, state, file=str(file), spec=NAME)
    return dict(model.state_dict()), origin.removeprefix(str(file))


def assert_equal(found: State, expected: State) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor.float()), name


WRAPPED: dict[str, Callable[[State], Any]] = {
    "plain": lambda s: s,
    "state_dict": lambda s: {"state_dict": s, "epoch": 3},
    "model": lambda s: {"model": s, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}},
    "model_state_dict": lambda s: {"model_state_dict": s, "loss": 0.5},
    "twice": lambda s: {"model": {"state_dict": s}},
    "another name": lambda s: {"net_weights": s, "epoch": 1},
    "DataParallel": lambda s: {"state_dict": prefixed("module.", s)},
    "compiled": lambda s: prefixed("_orig_mod.", s),
    "compiled DDP": lambda s: prefixed("_orig_mod.module.", s),
    "DDP compiled": lambda s: prefixed("module._orig_mod.", s),
    "Lightning": lambda s: {
        "state_dict": prefixed("model.", s) | {"criterion.weight": torch.ones(7)},
        "hyper_parameters": {"lr": 0.1, "folder": Path("/data"), "classes": np.int64(7)},
        "callbacks": collections.defaultdict(list, {"best": [1]}),
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}}],
    },
    "Lightning net": lambda s: {"state_dict": prefixed("net.", s)},
    "backbone": lambda s: {"state_dict": prefixed("backbone.", s)},
    "encoder": lambda s: prefixed("encoder.module.", s),
    "averaged": lambda s: prefixed("module.", s) | {"n_averaged": torch.tensor(5)},
    "the same twice": lambda s: {"state_dict": s, "model": s},
}


@pytest.mark.parametrize("wrapper", WRAPPED)
def test_weights_are_found_in_every_wrapper(tmp_path: Path, raw: State, wrapper: str) -> None:
    torch.save(WRAPPED[wrapper](raw), tmp_path / "w.pth")
    found, origin = loaded(tmp_path / "w.pth")
    assert_equal(found, raw)
    assert origin == ""


@pytest.mark.parametrize(
    "save",
    [
        lambda state, file: save_file(state, file.with_suffix(".safetensors")),
        lambda state, file: torch.save(
            {"state_dict": state, "args": ARGS}, file, _use_new_zipfile_serialization=False
        ),
    ],
    ids=["safetensors", "before PyTorch 1.6"],
)
def test_formats(tmp_path: Path, raw: State, save: Callable[[State, Path], None]) -> None:
    save(raw, tmp_path / "w.pth")
    (file,) = tmp_path.iterdir()
    assert_equal(loaded(file)[0], raw)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions(tmp_path: Path, raw: State, kind: torch.dtype) -> None:
    state = {name: tensor.to(kind) for name, tensor in raw.items()}
    torch.save(state, tmp_path / "w.pth")
    assert_equal(loaded(tmp_path / "w.pth")[0], state)


def test_what_timms_train_script_saves(tmp_path: Path) -> None:
    """Written by timm's own saver; timm's own reading of it is the reference."""
    model = network(1)
    optimizer = torch.optim.AdamW(model.parameters())
    average = ModelEmaV3(network(2))
    model(torch.zeros(1, 3, 160, 160)).sum().backward()
    optimizer.step()
    saver = CheckpointSaver(
        model,
        optimizer,
        args=ARGS,
        model_ema=average,
        checkpoint_dir=str(tmp_path),
        recovery_dir=str(tmp_path),
    )
    saver.save_checkpoint(0, metric=np.float64(71.5))  # type: ignore[arg-type]
    file = tmp_path / "last.pth.tar"
    with pytest.raises(pickle.UnpicklingError):  # its arguments are objects
        torch.load(file, weights_only=True)
    plain = tmp_path / "plain.pth"  # for timm, which does not read its own with a path in it
    torch.save(
        {
            "state_dict": dict(model.state_dict()),
            "state_dict_ema": dict(average.module.state_dict()),
        },
        plain,
    )
    for weights in (None, "ema"):
        found, origin = loaded(file, weights)
        assert_equal(found, load_state_dict(str(plain)))
        assert origin == " (state_dict_ema)"
    found, origin = loaded(file, "raw")
    assert_equal(found, load_state_dict(str(plain), use_ema=False))
    assert origin == " (state_dict)"


@pytest.mark.parametrize(
    ("wrap", "names"),
    [
        (lambda s, e: {"state_dict": s, "state_dict_ema": e}, ("state_dict_ema", "state_dict")),
        (lambda s, e: {"model": s, "model_ema": e}, ("model_ema", "model")),
        (lambda s, e: {"model": s, "ema": {"module": e}}, ("ema.module", "model")),
        (
            lambda s, e: {"state_dict": prefixed("model.", s) | prefixed("model_ema.module.", e)},
            ("state_dict.model_ema.module", "state_dict.model"),
        ),
    ],
)
def test_an_average_beside_the_weights(
    tmp_path: Path, raw: State, ema: State, wrap: Callable[..., Any], names: tuple[str, str]
) -> None:
    torch.save(wrap(raw, ema), tmp_path / "w.pth")
    for weights, state, name in ((None, ema, 0), ("ema", ema, 0), ("raw", raw, 1)):
        found, origin = loaded(tmp_path / "w.pth", weights)
        assert_equal(found, state)
        assert origin == f" ({names[name]})"


def test_an_average_that_lacks_weights_is_refused_and_not_replaced(
    tmp_path: Path, raw: State, ema: State
) -> None:
    part = {name: tensor for name, tensor in ema.items() if name != "head.bias"}
    torch.save({"state_dict": raw, "state_dict_ema": part}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"head\.bias"):
        loaded(tmp_path / "w.pth")
    assert_equal(loaded(tmp_path / "w.pth", "raw")[0], raw)


@pytest.mark.parametrize(
    ("held", "weights"), [("state_dict", "ema"), ("model", "ema"), ("state_dict_ema", "raw")]
)
def test_weights_that_are_not_there(tmp_path: Path, raw: State, held: str, weights: str) -> None:
    torch.save({held: raw}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=f"`weights='{weights}'`.*{held}") as caught:
        loaded(tmp_path / "w.pth", weights)
    assert "\n" not in str(caught.value)
    assert_equal(loaded(tmp_path / "w.pth")[0], raw)


class Odd:
    """A class that only the program which trained knows."""

    def __init__(self) -> None:
        self.value = 1


REFUSED: dict[str, tuple[Callable[[State, State], Any], str]] = {
    "two networks": (lambda s, e: {"student": s, "teacher": e}, "student, teacher"),
    "a weight is missing": (lambda s, e: {k: s[k] for k in list(s)[:-1]}, r"head\.bias"),
    "a weight too many": (lambda s, e: s | {"neck.weight": torch.ones(1)}, r"neck\.weight"),
    "another network": (lambda s, e: {"conv.weight": torch.ones(3)}, r"conv\.weight"),
    "not a number": (lambda s, e: s | {"head.bias": torch.full((7,), torch.nan)}, r"head\.bias"),
    "whole numbers": (lambda s, e: s | {"head.bias": torch.ones(7, dtype=torch.int8)}, "int8"),
    "an optimizer alone": (lambda s, e: {"state": {0: {}}, "param_groups": []}, "param_groups"),
    "a list": (lambda s, e: [s], "list"),
    "a whole network": (lambda s, e: network(1), r"\.state_dict\(\)"),
    "a whole network inside": (lambda s, e: {"model": network(1)}, r"\['model'\]\.state_dict\(\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_in_one_line(
    tmp_path: Path, raw: State, ema: State, case: str
) -> None:
    content, named = REFUSED[case]
    torch.save(content(raw, ema), tmp_path / "w.pth")
    with pytest.raises(ModelError, match=named) as caught:
        loaded(tmp_path / "w.pth")
    assert "\n" not in str(caught.value)
    assert "w.pth" in str(caught.value)


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_a_traced_network(tmp_path: Path) -> None:
    layer = torch.jit.script(torch.nn.Linear(2, 3))
    torch.jit.save(layer, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"torch\.jit\.load\(.*\)\.state_dict\(\)"):
        loaded(tmp_path / "w.pt")


@pytest.mark.parametrize("content", [b"", b"\x08\x07onnx", b"version https://git-lfs\noid x\n"])
def test_files_that_are_no_checkpoints(tmp_path: Path, content: bytes) -> None:
    for name in ("w.pth", "w.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelError, match=name) as caught:
            loaded(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_an_archive_of_another_program(tmp_path: Path, raw: State) -> None:
    file = tmp_path / "w.npz"
    np.savez(file, **{name: tensor.numpy() for name, tensor in raw.items()}, allow_pickle=False)
    with pytest.raises(ModelError, match=r"w\.npz") as caught:
        loaded(file)
    assert "torch.load" not in str(caught.value)  # which would not help


def test_a_checkpoint_that_was_cut(tmp_path: Path, raw: State) -> None:
    sink = io.BytesIO()
    torch.save(raw, sink)
    for share in (0.1, 0.5, 0.99):
        (tmp_path / "w.pth").write_bytes(sink.getvalue()[: int(share * len(sink.getvalue()))])
        with pytest.raises(ModelError, match=r"w\.pth"):
            loaded(tmp_path / "w.pth")


class Attack:
    """Unpickled, it makes a file."""

    def __init__(self, call: Callable[..., Any], mark: Path) -> None:
        self.call, self.mark = call, mark

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        if self.call is exec:
            return exec, (f"import os; os.mkdir({str(self.mark)!r})",)
        if self.call is subprocess.check_call:
            return subprocess.check_call, (["mkdir", str(self.mark)],)
        return self.call, (str(self.mark),)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("call", [os.mkdir, exec, subprocess.check_call, open])
@pytest.mark.parametrize("place", ["args", "model", "inside"])
def test_no_code_of_a_checkpoint_runs(
    tmp_path: Path, raw: State, call: Any, place: str, zipped: bool
) -> None:
    mark, file = tmp_path / "mark", tmp_path / "w.pth"
    attack: Any = Attack(call, mark)
    if place == "inside":
        attack = argparse.Namespace(inner=[attack])
    content = {"state_dict": raw, "args": attack} | ({place: attack} if place != "inside" else {})
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    with suppress(ModelError):  # torch refuses some, and reads others as objects without content
        assert_equal(loaded(file)[0], raw)
    assert not mark.exists()


def test_the_attacks_work(tmp_path: Path) -> None:
    for number, call in enumerate((os.mkdir, exec, subprocess.check_call)):
        mark = tmp_path / str(number)
        pickle.loads(pickle.dumps(Attack(call, mark)))  # noqa: S301
        assert mark.exists()


def test_torch_allows_no_more_afterwards(tmp_path: Path, raw: State) -> None:
    torch.save({"state_dict": raw, "args": Odd()}, tmp_path / "w.pth")
    loaded(tmp_path / "w.pth")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "w.pth", weights_only=True)


def test_an_encoder_that_was_trained_with_a_classifier(tmp_path: Path) -> None:
    """timm's DINO networks have no classes of their own."""
    name = "vit_small_patch16_224.dino"
    assert timm.get_pretrained_cfg(name).num_classes == 0
    state = timm.create_model(name, num_classes=5).state_dict()
    torch.save(state, tmp_path / "w.pth")
    facts = examine(ModelRequest(spec=f"timm:{name}", checkpoint=str(tmp_path / "w.pth")))
    assert (facts.num_classes, facts.feature_dim) == (5, 384)


@pytest.mark.parametrize("spec", ["torchvision:shufflenet_v2_x0_5", "ami:resnet50"])
def test_wrappers_of_other_families(tmp_path: Path, spec: str) -> None:
    state = load_backbone(ModelRequest(spec=spec)).backbone.model.state_dict()
    state = {name: tensor + 1 for name, tensor in state.items()}
    wrapped = {"state_dict": prefixed("model.", state), "args": ARGS}
    torch.save(wrapped, tmp_path / "w.ckpt")
    model = load_backbone(ModelRequest(spec=spec, checkpoint=str(tmp_path / "w.ckpt")))
    own = model.backbone.model.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in state.items())


def test_a_run_of_version_0_1_0_that_took_the_weights_themselves(
    tmp_path: Path, raw: State, ema: State
) -> None:
    torch.save({"state_dict": raw, "state_dict_ema": ema}, tmp_path / "w.pth")
    request = ModelRequest(spec=f"timm:{NAME}", checkpoint=str(tmp_path / "w.pth"))
    facts = examine(request.model_copy(update={"weights": "raw"}))
    model = load_verified(facts.model_copy(update={"request": request}))
    assert_equal(dict(model.backbone.model.state_dict()), raw)
    other = facts.model_copy(update={"request": request, "weights_sha256": "f" * 64})
    with pytest.raises(ModelError, match="hash to"):
        registry.load_verified(other)
