"""Folders that were moved: pairs, and where a folder is looked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import InputError
from common.moved import ImageRoot, apply_pairs, find_path, places_of, read_pairs


def test_pairs_are_read_from_texts_and_mappings(tmp_path: Path) -> None:
    new = tmp_path / "new"
    new.mkdir()
    expected = (("/old/a", str(new)),)
    assert read_pairs([f"/old/a={new}"]) == read_pairs({"/old/b/../a": new}) == expected
    assert read_pairs(None) == read_pairs([]) == ()
    assert read_pairs(["s3://bucket/a/=s3://bucket/b/"]) == (("s3://bucket/a", "s3://bucket/b"),)


@pytest.mark.parametrize("text", ["", "/old", "=new", "/old=", "/old=/no/such/folder"])
def test_what_is_no_pair_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="images="):
        read_pairs([text])


def test_links_in_the_old_name_are_followed_as_well(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    pairs = read_pairs({tmp_path / "link" / "gone": tmp_path})
    assert {old for old, _ in pairs} == {f"{tmp_path}/link/gone", f"{tmp_path}/real/gone"}


def test_the_longest_folder_decides_and_names_are_not_cut() -> None:
    pairs = (("/a", "/x"), ("/a/b", "/y"))
    assert apply_pairs(pairs, "/a/b/c.jpg") == "/y/c.jpg"
    assert apply_pairs(pairs, "/a/bc/d.jpg") == "/x/bc/d.jpg"
    assert apply_pairs(pairs, "/a") == "/x"
    assert apply_pairs(pairs, "/ab/c.jpg") == "/ab/c.jpg"


def test_a_folder_is_looked_for_where_it_was_and_beside_what_names_it(tmp_path: Path) -> None:
    run, photos = tmp_path / "new" / "runs" / "first", tmp_path / "new" / "photos"
    then = str(tmp_path / "old" / "runs" / "first")
    stored = str(tmp_path / "old" / "photos")
    photos.mkdir(parents=True)
    run.mkdir(parents=True)
    assert set(places_of(stored, then, run, ())) == {stored, str(photos)}
    assert find_path(stored, then, run, ()) == str(photos)
    assert find_path(stored, None, run, ()) == stored
    Path(stored).mkdir(parents=True)
    assert find_path(stored, then, run, ()) == stored
    said = tmp_path / "said"
    said.mkdir()
    assert find_path(stored, then, run, ((stored, str(said)),)) == str(said)
    assert find_path("s3://bucket/a", then, run, ()) == "s3://bucket/a"
    assert find_path(stored, "s3://bucket/run", run, ()) == stored


def test_absolute_names_are_mapped_and_others_start_from_the_folder() -> None:
    root = ImageRoot(Path("/photos"), (("/old", "/new"),))
    assert root.path("a/b.jpg") == Path("/photos/a/b.jpg")
    assert root.path("/old/b.jpg") == Path("/new/b.jpg")
    assert root.path("/other/b.jpg") == Path("/other/b.jpg")
