"""The Python API gives the answers of the parts below it, and says what is wrong with a call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import onepass
from tests.helpers.pictures import drawn

COUNT = 12


class World(NamedTuple):
    photos: Path
    run: onepass.Run
    index: onepass.Index


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("api")
    photos = folder / "photos"
    for number in range(COUNT):
        file = photos / f"night{number // 6}" / f"{number % 6}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        drawn(number, width=64, height=48).save(file)
    run = onepass.extract(photos, "tiny", folder / "run", progress=False)
    return World(photos, run, onepass.build_index(run, folder / "photos.index", progress=False))


def _cosine(queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries, rows)]
    return np.asarray(unit[0] @ unit[1].T)


def test_search_finds_what_comparing_with_every_vector_finds(world: World) -> None:
    vectors = world.run.embeddings()
    ids = world.run.to_pandas(["detection_id"])["detection_id"].to_numpy()
    hits = world.index.search(vectors, k=3)
    scores = _cosine(vectors, vectors)
    nearest = np.argsort(-scores, axis=1)[:, :3]
    assert (hits.ids == ids[nearest]).all()
    assert np.allclose(hits.scores, np.take_along_axis(scores, nearest, 1), atol=1e-5)


def test_one_query_has_one_dimension(world: World) -> None:
    vectors = world.run.embeddings()
    one, all_ = world.index.search(vectors[4], k=3), world.index.search(vectors, k=3)
    assert one.ids.shape == one.scores.shape == (3,)
    assert (one.ids == all_.ids[4]).all()
    assert len(one) == len(all_) == 3


def test_an_image_is_its_own_nearest(world: World) -> None:
    files = [world.photos / "night0" / "0.jpg", world.photos / "night1" / "5.jpg"]
    hits = world.index.search_images(files, k=2)
    table = hits.to_pandas()
    assert table[table["rank"] == 1]["image"].tolist() == ["night0/0.jpg", "night1/5.jpg"]
    by_bytes = world.index.search_images(files[0].read_bytes(), k=2)
    assert (by_bytes.ids == hits.ids[0]).all()


def test_no_hit_is_a_table_of_no_rows(world: World) -> None:
    vectors = world.run.embeddings()
    some, none = world.index.search(vectors, k=1), world.index.search(vectors, ids=[])
    assert (len(none), none.to_dicts(), none.ids.shape) == (0, [], (COUNT, 0))
    assert none.to_pandas().columns.tolist() == some.to_pandas().columns.tolist()
    assert len(none.to_pandas()) == 0
    assert len(world.index.neighbors(some.ids[0, 0], ids=[])) == 0


def test_ids_that_are_not_there_are_a_warning(world: World, tmp_path: Path) -> None:
    vectors = world.run.embeddings()
    first = world.run.to_pandas(["detection_id"])["detection_id"][0]
    ids = [first, "nobody", "none"]
    own = onepass.build_index(world.run, tmp_path / "index", progress=False)
    for search in (
        lambda: world.index.search(vectors, ids=ids).ids[0],
        lambda: world.index.search_images(world.photos / "night0" / "0.jpg", ids=ids).ids,
        lambda: world.index.neighbors(own.search(vectors[1], 1).ids[0], ids=ids).ids,
    ):
        with pytest.warns(onepass.OnepassWarning, match=r"2 of the 3 .*'nobody', 'none'") as caught:
            assert search().tolist() == [first]
        assert [(len(caught), warning.filename) for warning in caught] == [(1, __file__)]
    with pytest.warns(onepass.OnepassWarning, match=r"2 of the 3 .*'nobody', 'none'"):
        assert len(own.delete(ids=ids)) == COUNT - 1
    assert len(own.delete(ids=[])) == COUNT - 1


def test_neighbors_leave_the_query_out_and_conditions_select(world: World) -> None:
    first = world.run.to_pandas(["detection_id"])["detection_id"][0]
    hits = world.index.neighbors(first, k=COUNT, where="sequence = 'night0'")
    assert first not in hits.ids
    assert hits.to_pandas()["sequence"].unique().tolist() == ["night0"]
    assert len(hits) == 5
    only = world.index.neighbors(first, k=COUNT, ids=hits.ids[:2])
    assert set(only.ids) == set(hits.ids[:2])


def test_pages_thresholds_and_groups_are_parts_of_the_whole(world: World) -> None:
    vectors = world.run.embeddings()[:4]
    whole = world.index.search(vectors, k=COUNT)
    pages = [world.index.search(vectors, k=5, offset=offset) for offset in (0, 5, 10)]
    assert (np.hstack([page.ids for page in pages]) == whole.ids).all()
    assert pages[1].to_pandas()["rank"].tolist() == [6, 7, 8, 9, 10] * 4
    limit = float(np.median(whole.scores))
    near = world.index.search(vectors, k=COUNT, score_threshold=limit)
    kept = whole.scores >= np.float32(limit)
    assert (near.ids[near.ids != None] == whole.ids[kept]).all()  # noqa: E711 (element by element)
    assert np.isnan(near.scores).sum() == near.scores.size - kept.sum()
    assert len(near.to_dicts()) == len(near.to_pandas()) == kept.sum()
    assert [hit["rank"] for hit in near.to_dicts()] == near.to_pandas()["rank"].tolist()
    near.draw()
    groups = world.index.search(vectors[0], k=2, group_by="sequence", group_size=2)
    images = whole.to_pandas().query("query == 0")["image"]
    nights = [name.partition("/")[0] for name in images]
    order = list(dict.fromkeys(nights))
    expected = [[i for i, night in enumerate(nights) if night == name][:2] for name in order]
    assert groups.ids.tolist() == whole.ids[0][np.ravel(expected)].tolist()
    assert groups.groups is not None
    assert groups.groups.tolist() == [name for name in order for _ in range(2)]
    assert groups.to_pandas()["group"].tolist() == groups.groups.tolist()
    one = world.index.neighbors(str(whole.ids[0, 0]), k=1, offset=1, group_by="sequence")
    assert one.to_dicts()[0]["group"] == order[1] or len(one) == 0


def test_tracks_are_groups_once_they_are_linked(world: World, tmp_path: Path) -> None:
    run = onepass.extract(world.photos, "tiny", tmp_path / "run", progress=False)
    index = onepass.build_index(run, tmp_path / "index", progress=False)
    vector = run.embeddings()[0]
    with pytest.raises(onepass.InputError, match="group_by"):
        index.search(vector, group_by="track")
    tracks = onepass.link(run, progress=False).to_pandas().set_index("detection_id")["track_id"]
    hits = index.search(vector, k=COUNT, group_by="track")
    order = [tracks.get(name) for name in index.search(vector, k=COUNT).ids]
    named = [name for name in order if isinstance(name, str)]
    assert hits.groups is not None
    assert [name for name in hits.groups if name] == list(dict.fromkeys(named))


def test_examples_are_not_among_their_hits(world: World) -> None:
    vectors = world.run.embeddings()
    ids = world.run.to_pandas(["detection_id"])["detection_id"].to_numpy()
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    query = 2 * unit[[0, 1, 2]].mean(axis=0) - unit[5]
    order = [i for i in np.argsort(-unit @ query, kind="stable") if i not in (0, 1, 5)]
    hits = world.index.recommend([ids[0], ids[1], vectors[2]], [ids[5]], k=4)
    assert hits.ids.tolist() == ids[order[:4]].tolist()
    alone = world.index.recommend(ids[0], k=4)
    assert alone.ids.tolist() == world.index.neighbors(ids[0], k=4).ids.tolist()


def test_detections_their_vectors_and_values(world: World) -> None:
    index, run = world.index, world.run.to_pandas(["detection_id", "image", "score", "label"])
    vectors = world.run.embeddings()
    names = run["detection_id"].tolist()[::-1]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert np.allclose(index.vectors(names), unit[::-1], atol=1e-6)
    assert np.allclose(index.vectors(names[0]), unit[-1], atol=1e-6)
    assert index.vectors([]).shape == (0, 32)
    with pytest.raises(onepass.InputError, match="nobody"):
        index.vectors([names[0], "nobody"])
    table = index.detections(order_by="score", direction="desc")
    assert table["label_score"].tolist() == sorted(run["score"], reverse=True)
    assert len(index.detections(ids=[])) == 0
    page = index.detections("sequence = 'night1'", order_by="image", limit=2, offset=1)
    assert page["image"].tolist() == ["night1/1.jpg", "night1/2.jpg"]
    labels = run["label"].fillna("").tolist()
    counts = {name: labels.count(name) for name in set(labels) - {""}}
    assert index.facets("label") == counts
    assert list(index.facets("image", limit=1)) == ["night0/0.jpg"]


def test_a_finished_run_is_opened_not_extracted_again(world: World) -> None:
    again = onepass.extract(world.photos, "tiny", world.run.path, progress=False)
    assert again.manifest == world.run.manifest


def test_rows_with_an_error_are_a_warning(tmp_path: Path) -> None:
    drawn(1, width=64, height=48).save(tmp_path / "good.jpg")
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    with pytest.warns(onepass.OnepassWarning, match="1 of 2 rows"):
        run = onepass.extract(tmp_path, "tiny", tmp_path.parent / "with-errors", progress=False)
    assert run.to_pandas(["error"])["error"].notna().sum() == 1


def test_tracks_are_those_stored_with_the_run(world: World) -> None:
    tracks = onepass.link(world.run, max_gap_frames=3, progress=False)
    table = tracks.to_pandas()
    assert table["track_id"].nunique() == len(tracks) == tracks.summary.tracks
    assert set(table["detection_id"]) == set(world.run.to_pandas(["detection_id"])["detection_id"])
    assert tracks.manifest.options == onepass.LinkOptions(method="offline", max_gap_frames=3)
    picture = onepass.open_tracks(world.run.path).draw("night0")
    assert max(picture.size) == 1600
    with pytest.raises(onepass.InputError, match="night0, night1"):
        tracks.draw()


def test_tracks_stay_as_they_were_opened(world: World) -> None:
    together = onepass.link(world.run, preset="online", max_cost=4.0, progress=False)
    apart = onepass.link(world.run, preset="online", max_cost=0.01, progress=False)
    assert len(together) == together.to_pandas()["track_id"].nunique() < len(apart)
    with pytest.raises(onepass.InputError):
        together.draw("night0")
    assert apart.draw("night0")


def test_versions_of_an_index(world: World, tmp_path: Path) -> None:
    index = onepass.build_index([world.run], tmp_path / "own.index", progress=False)
    smaller = index.delete("sequence = 'night0'")
    assert (len(index), len(smaller)) == (COUNT, 6)
    assert smaller.versions == [index.version, smaller.version]
    back = smaller.rollback()
    assert back.version == index.version == onepass.open_index(index.path).version
    assert index.promote(smaller.version).verify() == 6


def test_a_migration_is_judged(world: World, tmp_path: Path) -> None:
    index = onepass.build_index(world.run, tmp_path / "own.index", progress=False)
    migration = onepass.migrate(
        world.run,
        "tiny",
        tmp_path / "new",
        resize="pad",
        index=index.path,
        min_label_agreement=0,
        min_overlap=0,
        max_changed_links=1,
        progress=False,
    )
    assert migration.passed
    assert migration.run.path == tmp_path / "new"
    assert migration.report.counts.rows == COUNT
    assert onepass.open_index(index.path).version == migration.version
    ids = [
        run.to_pandas(["detection_id"])["detection_id"].tolist()
        for run in (world.run, migration.run)
    ]
    assert ids[0] == ids[1]


@pytest.mark.parametrize(
    ("call", "parameter"),
    [
        (lambda w: onepass.extract(3, "tiny", "out"), "source"),
        (lambda w: onepass.extract(w.photos, 4, "out"), "model"),
        (lambda w: onepass.extract(w.photos, "tiny", 5), "out"),
        (lambda w: onepass.extract(w.photos, "tiny", "out", top_k="many"), "top_k"),
        (lambda w: onepass.extract(w.photos, "tiny", "out", batchrows=3), "batchrows"),
        (lambda w: onepass.open_run(None), "path"),
        (lambda w: onepass.build_index([], "x.index"), "runs"),
        (lambda w: onepass.build_index(w.run, 3), "out"),
        (lambda w: onepass.build_index(w.run, "x.index", metric="z"), "metric"),
        (lambda w: onepass.open_index(3), "path"),
        (lambda w: w.index.search("words"), "vectors"),
        (lambda w: w.index.search([[1, 2], [3]]), "vectors"),
        (lambda w: w.index.search(np.ones(32), k="5"), "k"),
        (lambda w: w.index.search(np.ones(32), k=0), "k"),
        (lambda w: w.index.search(np.ones(32), where=3), "where"),
        (lambda w: w.index.search(np.ones(32), ids="one"), "ids"),
        (lambda w: w.index.search(np.ones(32), ids=[1]), "ids"),
        (lambda w: w.index.neighbors("x", ids=7), "ids"),
        (lambda w: w.index.search_images("missing.jpg"), "images"),
        (lambda w: w.index.search_images([]), "images"),
        (lambda w: w.index.neighbors(3), "detection_id"),
        (lambda w: w.index.search(np.ones(32), offset=-1), "offset"),
        (lambda w: w.index.search(np.ones(32), score_threshold="x"), "score_threshold"),
        (lambda w: w.index.search(np.ones(32), group_by="colour"), "group_by"),
        (lambda w: w.index.search(np.ones(32), group_by=3), "group_by"),
        (lambda w: w.index.search(np.ones(32), group_size=2), "group_size"),
        (lambda w: w.index.recommend(3), "positive"),
        (lambda w: w.index.recommend([np.ones(32)], [np.ones((2, 32))]), "negative"),
        (lambda w: w.index.detections(order_by="colour"), "order_by"),
        (lambda w: w.index.detections(order_by="score", direction="up"), "direction"),
        (lambda w: w.index.detections(limit=-1), "limit"),
        (lambda w: w.index.facets("colour"), "column"),
        (lambda w: w.index.delete(), "where"),
        (lambda w: w.run.to_pandas("image"), "columns"),
        (lambda w: next(w.run.iter_batches(0)), "batch_size"),
        (lambda w: onepass.link(42), "run"),
        (lambda w: onepass.link(w.run, max_gap=3), "max_gap"),
        (lambda w: onepass.link(w.run, max_gap_frames="x"), "max_gap_frames"),
        (lambda w: onepass.link(w.run, strong_score=0.5, score_column="x"), "score_column"),
        (lambda w: onepass.build_index(w.run, "x.index", recall="high"), "recall"),
        (lambda w: onepass.build_index(w.run, "x.index", memory="much"), "memory"),
        (lambda w: onepass.link(w.run, preset="x"), "preset"),
        (lambda w: onepass.migrate(w.run, "tiny", "out", min_overlap="x"), "min_overlap"),
    ],
)
def test_a_wrong_call_names_its_parameter(
    call: Callable[[World], Any], parameter: str, world: World
) -> None:
    with pytest.raises(onepass.InputError, match=rf"`{parameter}\b"):
        call(world)


def test_progress_is_shown_unless_it_is_not_wanted(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onepass.build_index(world.run, tmp_path / "own.index", progress=False)
    assert capsys.readouterr() == ("", "")


def test_a_picture_of_hits_shows_their_crops(world: World) -> None:
    hits = world.index.search_images(world.photos / "night0" / "0.jpg", k=3)
    pixels = np.asarray(hits.draw().convert("RGB"), np.int16)
    crop = np.asarray(drawn(0, width=64, height=48).resize((142, 106)), np.int16)
    tile = pixels[15:165, 15:165][22:128, 4:146]  # the first tile without its border and margins
    assert np.abs(tile - crop).mean() < 12
