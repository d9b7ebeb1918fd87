"""Dividing, standardising and fitting, held against NumPy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cluster.errors import InputError
from pipelines.head import save_head
from pipelines.probe.features import Examples
from pipelines.probe.fit import (
    Fitted,
    Parts,
    TrainOptions,
    divide,
    evaluate,
    fit,
    standardisation,
)
from tests.heads import answered
from tests.probes import blobs

OPTIONS = TrainOptions(labels="kind", epochs=60, patience=10, lr=1e-2)
TWO, THREE = ("ant", "bee"), ("ant", "bee", "moth")


def fitted(examples: Examples, options: TrainOptions = OPTIONS) -> tuple[Fitted, Parts]:
    parts = divide(examples, share=0.25, seed=options.seed)
    return fit(examples, parts, options), parts


def loss_in_numpy(found: Fitted, examples: Examples, parts: Parts) -> float:
    rows = parts.validation
    logits = answered(found.head, examples.features[rows])
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    return float(-np.log(shares[np.arange(len(rows)), parts.targets[rows]]).mean())


def test_every_class_gives_its_share() -> None:
    labels = np.repeat(["moth", "ant", "bee", "wasp"], [40, 10, 3, 2])
    examples = replace(blobs(55, TWO), labels=labels)
    parts = divide(examples, share=0.2, seed=3)
    assert parts.classes == ("ant", "bee", "moth", "wasp")
    assert parts.targets.tolist() == [2] * 40 + [0] * 10 + [1] * 3 + [3] * 2
    assert np.bincount(parts.targets[parts.validation]).tolist() == [2, 1, 8, 1]
    assert np.bincount(parts.targets[parts.train]).tolist() == [8, 2, 32, 1]
    both = np.concatenate([parts.train, parts.validation])
    assert sorted(both.tolist()) == list(range(55))
    assert len(parts.test) == 0
    same, other = (divide(examples, share=0.2, seed=seed) for seed in (3, 4))
    assert same.validation.tolist() == parts.validation.tolist()
    assert other.validation.tolist() != parts.validation.tolist()


def test_a_source_that_divides_itself() -> None:
    examples = replace(
        blobs(6, TWO),
        parts=np.array(["train", "train", "validation", "test", "test", "validation"]),
    )
    parts = divide(examples, share=0.9, seed=0)
    assert parts.train.tolist() == [0, 1]
    assert parts.validation.tolist() == [2, 5]
    assert parts.test.tolist() == [3, 4]


def test_divisions_that_cannot_be_trained_on() -> None:
    def refused(labels: list[str], parts: list[str] | None) -> str:
        examples = replace(
            blobs(4, TWO), labels=np.array(labels), parts=None if parts is None else np.array(parts)
        )
        with pytest.raises(InputError) as error:
            divide(examples, share=0.2, seed=0)
        return str(error.value)

    assert "all 4 labelled rows are 'ant'; a head needs two classes or more" in refused(
        ["ant"] * 4, None
    )
    line = refused(["ant", "bee", "moth", "ant"], ["train", "train", "validation", "validation"])
    assert "class 'moth' has no row to train on (1 to validation)" in line
    line = refused(["ant", "bee", "moth", "ant"], ["train", "train", "test", "validation"])
    assert "class 'moth' has no row to train on (1 to test)" in line
    line = refused(["ant", "bee", "ant", "bee"], ["train", "train", "train", "test"])
    assert "none of the 4 labelled rows is there to validate on" in line
    line = refused(["ant", "bee", "moth", "wasp"], None)
    assert "none of the 4 labelled rows is there to validate on" in line


def test_standardised_by_the_rows_that_train() -> None:
    stream = np.random.default_rng(0)
    features = stream.normal([5, -3, 100], [2, 0.5, 30], size=(300, 3)).astype(np.float32)
    constant = np.full((300, 2), [7.3, 0], np.float32)
    features = np.concatenate([features, constant], axis=1)
    rows = np.arange(0, 200)
    features[200:] += 1000
    mean, scale = standardisation(features, rows)
    np.testing.assert_allclose(mean, features[:200].mean(0, dtype=np.float64), rtol=1e-6)
    deviation = features[:200, :3].std(0, dtype=np.float64)
    np.testing.assert_allclose(scale[:3], 1 / deviation, rtol=1e-5)
    assert scale[3:].tolist() == [1, 1]
    scaled = (features[:200] - mean) * scale
    np.testing.assert_allclose(scaled.std(0)[:3], 1, rtol=1e-4)
    assert np.abs(scaled[:, 3:]).max() < 1e-5


@pytest.mark.parametrize("hidden", [(), (16,)])
@pytest.mark.parametrize("names", [TWO, THREE])
def test_what_can_be_told_apart_is_learnt(names: tuple[str, ...], hidden: tuple[int, ...]) -> None:
    examples = blobs(120, names)
    found, parts = fitted(examples, replace(OPTIONS, hidden=hidden))
    rows = parts.validation
    best = answered(found.head, examples.features[rows]).argmax(1)
    assert best.tolist() == parts.targets[rows].tolist()
    assert found.curves.validation_accuracy[found.best_epoch - 1] == 1
    assert found.head.facts.classes == names
    assert found.head.facts.hidden == hidden


def test_chance_stays_chance() -> None:
    examples = blobs(400, TWO)
    shuffled = replace(examples, labels=np.random.default_rng(1).permutation(examples.labels))
    found, _ = fitted(shuffled)
    assert 0.35 <= found.curves.validation_accuracy[found.best_epoch - 1] <= 0.65


def test_the_seed_decides_every_byte(tmp_path: Path) -> None:
    examples = blobs(60, THREE)
    dropped = replace(OPTIONS, hidden=(8,), dropout=0.3, epochs=5)

    def stored(name: str, options: TrainOptions) -> bytes:
        torch.rand(3)  # what was drawn before makes no difference
        save_head(fitted(examples, options)[0].head, tmp_path / name)
        return (tmp_path / name).read_bytes()

    first = stored("a.pt", dropped)
    assert stored("b.pt", dropped) == first
    assert stored("c.pt", replace(dropped, seed=1)) != first


def test_training_leaves_the_random_state_alone() -> None:
    torch.manual_seed(9)
    expected = torch.rand(4)
    torch.manual_seed(9)
    fitted(blobs(40, TWO), replace(OPTIONS, epochs=2))
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize("names", [TWO, THREE])
def test_the_best_epoch_is_kept(names: tuple[str, ...]) -> None:
    """Labels that are partly wrong are learnt by heart, so that validation gets worse."""
    examples = blobs(80, names, width=64)
    labels = examples.labels.copy()
    labels[::3] = names[0]
    examples = replace(examples, labels=labels)
    options = replace(OPTIONS, hidden=(64,), epochs=40, patience=7)
    found, parts = fitted(examples, options)
    losses = found.curves.validation_loss
    assert len(losses) == found.best_epoch + 7 < 40
    assert min(losses) == losses[found.best_epoch - 1] < losses[-1]
    assert loss_in_numpy(found, examples, parts) == pytest.approx(min(losses), rel=1e-4)
    again = evaluate(found.head, examples.features, parts.targets, parts.validation)
    assert again[0] == pytest.approx(min(losses), rel=1e-5)
    assert again[1] == found.curves.validation_accuracy[found.best_epoch - 1]


def test_a_learning_rate_that_overflows_is_refused() -> None:
    with pytest.raises(InputError, match=r"the loss is .* smaller --lr than 1e\+30"):
        fitted(blobs(40, THREE), replace(OPTIONS, hidden=(8, 8), lr=1e30))
