"""A head on real images: ants from bees, and what an untrained network makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.config import ExtractConfig
from pipelines.extract import extract
from pipelines.heads.apply import apply_head
from pipelines.heads.config import TrainConfig
from pipelines.heads.train import train
from pipelines.run import Run


def by_folder(run: Run, **given: Any) -> TrainConfig:
    return TrainConfig(source=run.path, labels="category", split_by="split", **given)


@pytest.fixture(scope="module")
def hymenoptera(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("hymenoptera") / "run"
    source = str(data / "hymenoptera")
    return extract(ExtractConfig(source=source, model="lite0", precision="fp32"), out).run


def test_ants_from_bees(hymenoptera: Run, tmp_path: Path) -> None:
    trained = train(by_folder(hymenoptera, random_backbone=True), tmp_path / "ants.pt")
    record = trained.record
    assert record.rows == {"train": 120, "validation": 80}
    assert record.left_out == {}
    assert record.measures["validation"].accuracy >= 0.95
    assert record.measures["validation"].macro_f1 >= 0.95
    assert record.baselines["majority"]["validation"].accuracy == 0.5
    assert record.baselines["knn"]["validation"].accuracy >= 0.9
    assert record.random_backbone is not None
    assert record.random_backbone.scores["validation"].accuracy <= 0.8
    for file in trained.reports[1:]:
        with Image.open(file) as picture:
            assert np.asarray(picture.convert("L")).std() > 10  # something is drawn

    applied = apply_head(hymenoptera.path, trained.file, labels="category")
    parts = record.measures.values()
    right = sum(part.accuracy * part.rows for part in parts)
    assert applied.measures is not None
    assert applied.measures.accuracy == pytest.approx(right / 200)
    # Of the validation rows alone, from the files: what the record says.
    images = hymenoptera.to_arrow(["image"])["image"].to_pylist()
    answers: dict[int, str] = {}
    for name in applied.manifest.files:
        table = pq.read_table(applied.out / name)
        answers.update(zip(table["row_id"].to_pylist(), table["label"].to_pylist(), strict=True))
    judged = [
        answers[row] == image.split("/")[1]
        for row, image in enumerate(images)
        if image.startswith("val/")
    ]
    assert len(judged) == 80
    assert np.mean(judged) == pytest.approx(record.measures["validation"].accuracy)


def test_hidden_layers_on_the_same_features(hymenoptera: Run, tmp_path: Path) -> None:
    record = train(by_folder(hymenoptera, hidden=(256,)), tmp_path / "ants.pt").record
    assert record.measures["validation"].accuracy >= 0.95
    assert record.baselines["linear"]["validation"].accuracy >= 0.95
