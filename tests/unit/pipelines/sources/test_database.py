"""The name of a database by its URL, and what its columns of JSON may hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ami.join import DetectionCount, features_of
from common.errors import InputError, SourceError
from pipelines.images.errors import ImageError
from pipelines.sources.database.connect import name_of, open_database
from pipelines.sources.database.plan import box_of, deployment_names
from pipelines.sources.read import is_database, name_source, read_source

SECRETS = [
    "postgresql://anna:s3cret@127.0.0.1:1/ami",
    "postgresql+psycopg://anna:s3cret@127.0.0.1:1/ami?connect_timeout=1",
    "postgresql+psycopg2://anna:s3%40cret@127.0.0.1:1/ami",
    "postgresql://anna@127.0.0.1:1/ami?password=s3cret",
    "postgresql://anna:s3/cret@127.0.0.1:1/ami",
    "postgresql://anna:s3?cret@127.0.0.1:1/ami",
    "postgresql://anna:p@s3cret@127.0.0.1:1/ami",
    "postgresql://anna:s3cret@127.0.0.1:port/ami",
    "postgresql://anna:s3cret@127.0.0.1:1/ami?nonsense=1",
    "postgres://anna:s3cret@h/ami",
    "mysql://anna:s3cret@h/ami",
    "not a scheme://anna:s3cret@h/ami",
]


@pytest.mark.parametrize("url", SECRETS)
def test_no_secret_is_named_or_said(url: str) -> None:
    texts = []
    for function in (name_of, name_source, read_source):
        try:
            texts.append(str(function(url)))
        except InputError as error:
            texts.append(str(error))
    with pytest.raises(SourceError) as refused, open_database(url):
        pass
    texts.append(str(refused.value))
    assert len(texts) == 4
    for text in texts:
        assert "cret" not in text
        assert len(text.splitlines()) == 1


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("postgresql://anna:pw@host/ami", "postgresql://host:5432/ami"),
        ("postgresql+psycopg://ben@host:5432/ami?sslmode=require", "postgresql://host:5432/ami"),
        ("postgresql:///ami?host=host&port=5433", "postgresql://host:5433/ami"),
        ("postgresql://[::1]/ami", "postgresql://[::1]:5432/ami"),
        ("sqlite:////tmp/./a b@c.db", "sqlite:////tmp/a b@c.db"),
    ],
)
def test_a_database_has_one_name_whoever_asks(url: str, name: str) -> None:
    assert name_of(url) == name == name_of(name)


def test_a_relative_file_is_named_from_the_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert name_source("sqlite:///ami.db") == f"sqlite:///{tmp_path / 'ami.db'}"
    assert name_source("photos") == str(tmp_path / "photos")
    assert not is_database("photos")


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite:///file:a?uri=true"])
def test_sqlite_is_a_file(url: str) -> None:
    with pytest.raises(SourceError, match="sqlite needs the path of a file"):
        name_of(url)


def test_a_missing_file_is_not_made(tmp_path: Path) -> None:
    for write in (False, True):
        with (
            pytest.raises(SourceError, match="no such file"),
            open_database(f"sqlite:///{tmp_path}/gone.db", write=write),
        ):
            pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("raw", [[1, 2, 3.5, 4], "[1, 2, 3.5, 4]", b"[1,2,3.5,4]"])
def test_boxes(raw: object) -> None:
    assert box_of(raw) == (1, 2, 3.5, 4)


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (None, "no box"),
        ("null", "no box"),
        ("[1, 2", "unreadable box"),
        ("", "unreadable box"),
        ([], "incomplete box"),
        ([1, 2, 3], "incomplete box"),
        ({"x1": 1}, "incomplete box"),
        (7, "incomplete box"),
        (["1", "2", "3", "4"], "box not numbers"),
        ([1, 2, None, 4], "box not numbers"),
        ([1, 2, True, 4], "box not numbers"),
        ("[1, 2, NaN, 4]", "box not finite"),
        ([1, 2, float("inf"), 4], "box not finite"),
    ],
)
def test_boxes_that_are_none(raw: object, kind: str) -> None:
    with pytest.raises(ImageError) as refused:
        box_of(raw)
    assert str(refused.value).startswith(f"{kind}: ")


def test_deployments_are_told_apart_by_as_little_as_does() -> None:
    assert deployment_names(["/data/north", "/data/south/"]) == {
        "/data/north": "north",
        "/data/south": "south",
    }
    assert deployment_names(["/a/north/DCIM", "/a/south/DCIM", "/a/east"]) == {
        "/a/north/DCIM": "north/DCIM",
        "/a/south/DCIM": "south/DCIM",
        "/a/east": "east",
    }
    assert deployment_names(["/DCIM", "/a/DCIM"]) == {"/DCIM": "DCIM", "/a/DCIM": "a/DCIM"}


def test_features_are_finite_numbers() -> None:
    for raw in ("[0.5, -1]", b"[0.5,-1]", [0.5, -1]):
        np.testing.assert_array_equal(features_of(raw), [0.5, -1.0])


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        ("[]", "empty"),
        ("[0.5, NaN]", "not finite"),
        ('["0.5"]', "not numbers"),
        ("[[0.5]]", "not numbers"),
        ("[0, 0.0]", "all zero"),
        ('{"a": 1}', "no list"),
        ("tensor(1)", "no JSON"),
    ],
)
def test_features_that_are_none(raw: str, why: str) -> None:
    with pytest.raises(ValueError, match=f"^{why}$"):
        features_of(raw)


def test_a_few_are_named_and_all_counted() -> None:
    some = DetectionCount()
    for number in range(7):
        some.add(f"ami:{number}")
    assert some.count == 7
    assert str(some) == "ami:0, ami:1, ami:2, ami:3, ami:4, …"
