"""What several routes share: reaching the holdings, and turning rows into answers."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any

from anyio import CapacityLimiter
from fastapi import Depends, Request

from api.schemas import Hit, SearchAnswer
from api.state import Holdings, Service
from index.snapshot import Hits

_BOX = ("x1", "y1", "x2", "y2")


async def _holdings(request: Request) -> Holdings:
    service: Service = request.app.state.service
    return service.holdings


async def _forward_turn(request: Request) -> CapacityLimiter:
    turn: CapacityLimiter = request.app.state.forward_turn
    return turn


Held = Annotated[Holdings, Depends(_holdings)]
ForwardTurn = Annotated[CapacityLimiter, Depends(_forward_turn)]


def detection_fields(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the index as the fields of ``Detection``, without any folder of the server."""
    box = tuple(row[name] for name in _BOX)
    return {
        "detection_id": row["detection_id"],
        "label": row["label"],
        "label_score": row["score"],
        "image": PurePosixPath(row["image"]).name,
        "box": None if None in box else box,
        "sequence": row["sequence"],
        "frame": row["frame"],
        "timestamp": row["timestamp"],
    }


def search_answer(held: Holdings, hits: Hits, k: int, *, include_features: bool) -> SearchAnswer:
    """Hits of one query as an answer."""
    rows, scores = hits.rows[0], hits.scores[0].tolist()
    features = held.snapshot.vectors(rows).tolist() if include_features else [None] * len(rows)
    manifest = held.snapshot.manifest
    return SearchAnswer(
        snapshot=manifest.version,
        metric=manifest.metric,
        k=k,
        hits=[
            Hit(rank=rank, score=score, features=vector, **detection_fields(fields))
            for rank, (fields, score, vector) in enumerate(
                zip(held.detections(rows), scores, features, strict=True), start=1
            )
        ],
    )
