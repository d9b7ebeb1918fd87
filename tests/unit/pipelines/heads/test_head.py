"""The head and its file: what it answers, what is refused, what decides its hash."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import ModelError
from pipelines.heads.fit import classify
from pipelines.model_info import HeadInfo
from pipelines.models.head import Head, head_sha256, load_head, save_head
from tests.helpers.heads import expected_logits


def made(classes: tuple[str, ...] = ("ant", "bee"), hidden: tuple[int, ...] = ()) -> Head:
    facts = HeadInfo(
        features="map",
        shape=(2, 3),
        hidden=hidden,
        dropout=0.5,
        classes=classes,
        spec="tiny",
        fingerprint="f" * 64,
    )
    with torch.random.fork_rng():
        torch.manual_seed(5)
        head = Head(facts)
        head.mean.copy_(torch.arange(6) / 4)
        head.scale.copy_(1 + torch.arange(6))
    return head.eval()


@pytest.mark.parametrize("hidden", [(), (5,), (5, 4)])
@pytest.mark.parametrize("classes", [("ant", "bee"), ("ant", "bee", "moth")])
def test_answers_survive_the_file(
    tmp_path: Path, classes: tuple[str, ...], hidden: tuple[int, ...]
) -> None:
    head = made(classes, hidden)
    save_head(head, tmp_path / "head.pt")
    again = load_head(tmp_path / "head.pt")
    assert again.facts == head.facts
    assert head_sha256(again) == head_sha256(head)
    features = np.random.default_rng(0).normal(size=(7, 2, 3)).astype(np.float32)
    logits = again(torch.from_numpy(features)).numpy()
    assert logits.shape == (7, len(classes))
    np.testing.assert_allclose(logits, expected_logits(head, features), rtol=1e-5, atol=1e-6)


def test_two_classes_share_one_output() -> None:
    head = made()
    features = torch.from_numpy(np.random.default_rng(1).normal(size=(9, 6)).astype(np.float32))
    odds = head.outputs(features)
    assert odds.shape == (9, 1)
    second = 1 / (1 + np.exp(-odds[:, 0].detach().double().numpy()))
    scores = torch.softmax(head(features), 1).detach().numpy()
    np.testing.assert_allclose(scores[:, 1], second, rtol=1e-5)
    index, score = classify(head, features.numpy())
    assert index.tolist() == (second > 0.5).astype(int).tolist()
    np.testing.assert_allclose(score, np.maximum(second, 1 - second), rtol=1e-5)


def test_of_no_rows_there_are_no_answers() -> None:
    index, score = classify(made(), np.empty((0, 6), np.float32))
    assert index.shape == score.shape == (0,)


def test_weights_and_classes_decide_the_hash() -> None:
    head = made()
    others = [made(("ant", "wasp")), made()]
    with torch.no_grad():
        others[1].mean[0] += 1e-3
    hashes = {head_sha256(one) for one in (head, *others)}
    assert len(hashes) == 3
    assert head_sha256(made()) == head_sha256(head)


class _Runs:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('code in a head was run')",)


def test_what_is_no_head_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "head.pt"
    with pytest.raises(ModelError):
        load_head(file)
    save_head(made(), file)
    whole, facts = file.read_bytes(), made().facts.model_dump_json()
    for content in (b"not a zip", pickle.dumps(_Runs()), whole[: len(whole) // 2]):
        file.write_bytes(content)
        with pytest.raises(ModelError):
            load_head(file)
    state = made(hidden=(4,)).state_dict()
    for stored in (
        {"conv.weight": torch.zeros(2)},
        {"onepass_head": 2, "facts": facts, "state": made().state_dict()},
        {"onepass_head": 1, "facts": facts, "state": state},
        {"onepass_head": 1, "facts": '{"classes": []}', "state": state},
        {"onepass_head": 1, "state": state},
    ):
        torch.save(stored, file)
        with pytest.raises(ModelError):
            load_head(file)
