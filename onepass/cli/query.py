"""The command ``query``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from common.errors import InputError
from common.progress import ProgressBar
from index.config import Direction
from onepass.cli.console import Json, echo, print_json, to_path
from onepass.cli.flags import option_of
from onepass.ids import read_ids

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from onepass.hits import Hits
    from onepass.search import Index

app = typer.Typer()


_PAGES, _GROUPS, _ROWS = "Pages", "Groups", "Without a query"


@app.command()
def query(
    index: Annotated[Path, typer.Argument(parser=to_path, help="An index folder.")],
    detection_id: Annotated[str | None, typer.Option("--id", help="A detection in it.")] = None,
    image: Annotated[Path | None, typer.Option(help="An image file, embedded now.")] = None,
    vector: Annotated[Path | None, typer.Option(help="An .npy file, [D].")] = None,
    positive: Annotated[
        list[str] | None,
        typer.Option(help="A detection that hits should be like; may be given several times."),
    ] = None,
    negative: Annotated[
        list[str] | None, typer.Option(help="With --positive: one that hits should be unlike.")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many neighbours.")] = 10,
    where: Annotated[
        str | None,
        typer.Option(help="Only rows that match, as: \"label = 'moth' AND score >= 0.5\"."),
    ] = None,
    ids: Annotated[
        Path | None, typer.Option(help="Only these ids: a file with one per line.")
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Compare with every vector.")] = False,
    score_threshold: Annotated[
        float | None,
        typer.Option(
            help="Only hits at least as near: lowest score for cosine and ip, largest distance for "
            "l1 and l2.",
            rich_help_panel=_PAGES,
        ),
    ] = None,
    offset: Annotated[
        int,
        typer.Option(
            min=0, help="Leave the nearest ones out, to turn pages.", rich_help_panel=_PAGES
        ),
    ] = 0,
    group_by: Annotated[
        str | None,
        typer.Option(
            help="The nearest K groups of one track, sequence, image or any column.",
            rich_help_panel=_GROUPS,
        ),
    ] = None,
    group_size: Annotated[
        int, typer.Option(min=1, help="Most hits of each group.", rich_help_panel=_GROUPS)
    ] = 1,
    order_by: Annotated[
        str | None,
        typer.Option(
            help="List detections in the order of a column, -k of them.", rich_help_panel=_ROWS
        ),
    ] = None,
    descending: Annotated[
        bool,
        typer.Option(
            "--descending", help="With --order-by: the largest first.", rich_help_panel=_ROWS
        ),
    ] = False,
    facets: Annotated[
        str | None,
        typer.Option(
            help="Count the values of a column, the -k most frequent.", rich_help_panel=_ROWS
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Find the detections nearest to one of the index, an image, a vector, or several examples.

    Without a query: list detections with --order-by, or count values with --facets.

    Example: onepass query photos.index --image moth.jpg -k 5 --group-by sequence
    """
    from onepass.search import open_index  # late: FAISS takes a second

    if negative and not positive:
        raise InputError("--negative needs --positive: at least one example of what to find")
    queries = (detection_id, image, vector, positive or None, order_by, facets)
    if sum(given is not None for given in queries) != 1:
        raise InputError(
            "give exactly one of --id, --image, --vector, --positive, --order-by, --facets"
        )
    of_hits = {
        "exact": exact,
        "score_threshold": score_threshold,
        "group_by": group_by,
        "group_size": group_size,
    }
    _refuse_unused(order_by, facets, of_hits, descending=descending, offset=offset, ids=ids)
    with ProgressBar(resumes=True):
        opened = open_index(index)
    if facets is not None:
        _show_facets(opened, facets, where, k, as_json=as_json)
        return
    rows: dict[str, Any] = {"where": where, "ids": read_ids(ids), "offset": offset}
    if order_by is not None:
        direction: Direction = "desc" if descending else "asc"
        table = opened.detections(**rows, order_by=order_by, direction=direction, limit=k)
        _show_rows(table, order_by, as_json=as_json)
        return
    wanted = rows | of_hits
    if detection_id is not None:
        hits = opened.neighbors(detection_id, k, **wanted)
    elif image is not None:
        hits = opened.search_images(image, k, **wanted)
    elif positive:
        hits = opened.recommend(positive, negative or (), k, **wanted)
    else:
        hits = opened.search(_load_vector(vector), k, **wanted)
    _show_hits(hits, as_json=as_json)


def _refuse_unused(
    order_by: str | None, facets: str | None, of_hits: dict[str, Any], **given: Any
) -> None:
    """Check that no option was given that would be ignored.

    Raises:
        InputError: one was; names it.
    """
    unused = {} if order_by is None and facets is None else dict(of_hits)
    if unused and unused["group_size"] == 1:
        del unused["group_size"]
    if facets is not None:
        unused |= {"offset": given["offset"], "ids": given["ids"]}
    if order_by is None:
        unused["descending"] = given["descending"]
    for name, value in unused.items():
        if value is not None and value is not False and (value != 0 or name == "score_threshold"):
            raise InputError(f"{option_of(name)} has no meaning here; leave it out")


def _show_hits(hits: Hits, *, as_json: bool) -> None:
    records = hits.to_dicts()
    if as_json:
        print_json({"metric": hits.snapshot.manifest.metric, "hits": records})
        return
    for hit in records:
        box = "" if hit["box"] is None else " [" + " ".join(f"{v:.0f}" for v in hit["box"]) + "]"
        label = hit["label"] or ""
        group = f"  {hit['group']}" if "group" in hit else ""
        echo(
            f"{hit['rank']:>3}  {hit['score']:.4f}  {hit['detection_id']}  {label}  "
            f"{hit['image'] or ''}{box}{group}"
        )


def _show_rows(table: pd.DataFrame, order_by: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"detections": json.loads(table.to_json(orient="records", date_format="iso"))})
        return
    column = "label_score" if order_by == "score" else order_by
    for _, row in table.iterrows():
        value = [str(row[column])] if column in table.columns[1:] else []
        echo("  ".join([row["detection_id"], row["label"] or "", row["image"] or "", *value]))


def _show_facets(
    opened: Index, column: str, where: str | None, limit: int, *, as_json: bool
) -> None:
    from index.storage.columns import to_json  # late: Arrow takes half a second

    counts = opened.facets(column, where, limit=limit)
    if as_json:
        values = [{"value": to_json(value), "rows": rows} for value, rows in counts.items()]
        print_json({"column": column, "values": values})
        return
    for value, rows in counts.items():
        echo(f"{rows:>9}  {value}")


def _load_vector(file: Path | None) -> NDArray[np.floating]:
    import numpy as np

    from index.storage.rows import load_array  # late: Arrow takes half a second

    assert file is not None
    try:
        values = load_array(file)
    except (OSError, ValueError) as error:
        raise InputError(f"--vector {file} cannot be read as .npy: {error}") from None
    if values.ndim == 2 and len(values) == 1:
        values = values[0]
    if values.ndim != 1 or values.dtype.kind not in "fiu":
        raise InputError(
            f"--vector {file} is {values.dtype} {values.shape}; give one vector of numbers, [D]"
        )
    return values.astype(np.float32)
