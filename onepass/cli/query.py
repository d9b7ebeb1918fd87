"""The command ``query``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from common.errors import InputError
from common.progress import ProgressBar
from onepass.cli.console import Json, echo, print_json, to_path
from onepass.ids import read_ids

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

app = typer.Typer()


@app.command()
def query(
    index: Annotated[Path, typer.Argument(parser=to_path, help="An index folder.")],
    detection_id: Annotated[str | None, typer.Option("--id", help="A detection in it.")] = None,
    image: Annotated[Path | None, typer.Option(help="An image file, embedded now.")] = None,
    vector: Annotated[Path | None, typer.Option(help="An .npy file, [D].")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many neighbours.")] = 10,
    where: Annotated[
        str | None,
        typer.Option(help="Only rows that match, as: \"label = 'moth' AND score >= 0.5\"."),
    ] = None,
    ids: Annotated[
        Path | None, typer.Option(help="Only these ids: a file with one per line.")
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Compare with every vector.")] = False,
    as_json: Json = False,
) -> None:
    """Find the detections nearest to one of the index, an image, or a vector.

    Example: onepass query photos.index --image moth.jpg -k 5
    """
    from onepass.search import open_index  # late: FAISS takes a second

    if sum(given is not None for given in (detection_id, image, vector)) != 1:
        raise InputError("give exactly one of --id, --image, --vector")
    with ProgressBar(resumes=True):
        opened = open_index(index)
    wanted: dict[str, Any] = {"where": where, "ids": read_ids(ids), "exact": exact}
    if detection_id is not None:
        hits = opened.neighbors(detection_id, k, **wanted)
    elif image is not None:
        hits = opened.search_images(image, k, **wanted)
    else:
        hits = opened.search(_load_vector(vector), k, **wanted)
    records = hits.to_dicts()
    if as_json:
        print_json({"metric": opened.manifest.metric, "hits": records})
        return
    for hit in records:
        box = "" if hit["box"] is None else " [" + " ".join(f"{v:.0f}" for v in hit["box"]) + "]"
        label = hit["label"] or ""
        echo(
            f"{hit['rank']:>3}  {hit['score']:.4f}  {hit['detection_id']}  {label}  "
            f"{hit['image'] or ''}{box}"
        )


def _load_vector(file: Path | None) -> NDArray[np.floating]:
    import numpy as np

    assert file is not None
    try:
        values: NDArray[Any] = np.load(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"--vector {file} cannot be read as .npy: {error}") from None
    if values.ndim == 2 and len(values) == 1:
        values = values[0]
    if values.ndim != 1 or values.dtype.kind not in "fiu":
        raise InputError(
            f"--vector {file} is {values.dtype} {values.shape}; give one vector of numbers, [D]"
        )
    return values.astype(np.float32)
