"""Dividing, standardising and fitting, held against NumPy and scikit-learn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

from common.errors import InputError
from pipelines.heads.features import Examples
from pipelines.heads.fit import Fitted, fit, head_of, standardisation, weights_of
from pipelines.heads.parts import Parts, divide
from pipelines.model_info import HeadInfo
from pipelines.models.head import head_sha256
from tests.helpers.heads import expected_logits
from tests.helpers.probes import blobs

TWO, THREE = ("ant", "bee"), ("ant", "bee", "moth")


def fitted(examples: Examples, hidden: tuple[int, ...] = (), seed: int = 0) -> tuple[Fitted, Parts]:
    parts = divide(examples, share=0.25, seed=seed)
    return fit(examples, parts, hidden=hidden, seed=seed), parts


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


@pytest.mark.parametrize(
    ("labels", "parts"),
    [
        (["ant"] * 4, None),  # one class
        (["ant", "bee", "moth", "ant"], ["train", "train", "validation", "validation"]),
        (["ant", "bee", "moth", "ant"], ["train", "train", "test", "validation"]),
        (["ant", "bee", "ant", "bee"], ["train", "train", "train", "test"]),
        (["ant", "bee", "moth", "wasp"], None),  # nothing to validate on
    ],
)
def test_divisions_that_cannot_be_trained_on(labels: list[str], parts: list[str] | None) -> None:
    given = None if parts is None else np.array(parts)
    with pytest.raises(InputError):
        divide(replace(blobs(4, TWO), labels=np.array(labels), parts=given), share=0.2, seed=0)


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


@pytest.mark.parametrize("hidden", [(), (16,), (8, 4)])
@pytest.mark.parametrize("names", [TWO, THREE])
def test_a_head_answers_as_scikit_learn_does(
    names: tuple[str, ...], hidden: tuple[int, ...]
) -> None:
    # Classes that overlap, so that probabilities are far from 0 and 1.
    examples = blobs(240, names)
    stream = np.random.default_rng(3)
    features = (examples.features + stream.normal(0, 6, (240, 8)) + 50).astype(np.float32)
    targets = np.unique(examples.labels, return_inverse=True)[1]
    mean, scale = standardisation(features, np.arange(240))
    scaled = (features - mean) * scale
    model: Any = LogisticRegression()
    if hidden:
        model = MLPClassifier(hidden, max_iter=40, tol=0, n_iter_no_change=40, random_state=0)
        for _ in range(40):
            model.partial_fit(scaled, targets, classes=np.unique(targets))
    else:
        model.fit(scaled, targets)
    facts = HeadInfo(
        features="pooled",
        shape=(8,),
        hidden=hidden,
        dropout=0.0,
        classes=names,
        spec="tiny",
        fingerprint="f" * 64,
    )
    head = head_of(facts, mean, scale, weights_of(model))
    with torch.no_grad():
        found = torch.softmax(head(torch.from_numpy(features)), 1).numpy()
    expected = model.predict_proba(scaled)
    assert np.abs(found - expected).max() < 1e-4
    assert found.argmax(1).tolist() == model.predict(scaled).tolist()
    assert 0.1 < expected.max(1).min() < 0.7  # some rows are hard


@pytest.mark.parametrize("hidden", [(), (16,)])
@pytest.mark.parametrize("names", [TWO, THREE])
def test_what_can_be_told_apart_is_learnt(names: tuple[str, ...], hidden: tuple[int, ...]) -> None:
    examples = blobs(120, names)
    found, parts = fitted(examples, hidden)
    rows = parts.validation
    best = expected_logits(found.head, examples.features[rows]).argmax(1)
    assert best.tolist() == parts.targets[rows].tolist()
    assert found.chosen.keys() == ({"epochs"} if hidden else {"C"})
    assert (found.head.facts.classes, found.head.facts.hidden) == (names, hidden)


def loss_of(found: Fitted, examples: Examples, parts: Parts) -> float:
    logits = expected_logits(found.head, examples.features[parts.validation])
    rows = np.arange(len(logits))
    scores = softmax(logits, axis=1)[rows, parts.targets[parts.validation]]
    return float(-np.log(scores).mean())


@pytest.mark.parametrize("hidden", [(), (32,)])
def test_validation_decides_how_much_is_learnt(hidden: tuple[int, ...]) -> None:
    """Labels without meaning are not learnt by heart, labels with a meaning are learnt."""
    examples = blobs(300, TWO, width=64)
    shuffled = replace(examples, labels=np.random.default_rng(1).permutation(examples.labels))
    chance, guessed = fitted(shuffled, hidden)
    clear, parts = fitted(examples, hidden)
    (unsure,), (sure,) = chance.chosen.values(), clear.chosen.values()
    assert unsure < sure
    assert loss_of(chance, shuffled, guessed) < 1.1 * np.log(2)  # an even guess costs log 2
    assert loss_of(clear, examples, parts) < 0.1


@pytest.mark.parametrize("hidden", [(), (8,)])
def test_equal_options_give_equal_heads(hidden: tuple[int, ...]) -> None:
    examples = blobs(60, THREE)
    hashes = [head_sha256(fitted(examples, hidden, seed)[0].head) for seed in (0, 0, 1)]
    assert hashes[0] == hashes[1] != hashes[2]
