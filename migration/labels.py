"""Label agreement: which rows changed their class, and from which class to which."""

from __future__ import annotations

from collections import Counter
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from migration.align import Rows
from migration.report import Change, ClassKept, Labels

_NAMED = 3  # classes that a reason lists


def compare_labels(old: Rows, new: Rows) -> Labels:
    """Compare the classes of the rows that both runs classify."""
    old_names, new_names = old.class_names(), new.class_names()
    models = [rows.run.manifest.classifier or rows.run.manifest.model for rows in (old, new)]
    counts = models[0].num_classes, models[1].num_classes
    untrained = [m for m in models if m.weights.startswith("random") and m.head is None]
    column, shared, reason = "label", frozenset[str](), None
    if untrained:
        reason = f"classes of {untrained[0].request.spec} mean nothing, its weights are random"
    elif old_names and new_names:
        shared = old_names & new_names
        if not shared:
            reason = (
                f"the two models share no class name: {_first_names(old_names)} then, "
                f"{_first_names(new_names)} now"
            )
    elif old_names or new_names:
        reason = f"the {'new' if old_names else 'old'} model has no class names; give `labels`"
    elif counts[0] != counts[1]:
        reason = f"no class names, and {counts[0]} classes then, {counts[1]} now; give `labels`"
    else:
        column = "label_index"
    labels = partial(
        Labels,
        classes_then=counts[0],
        classes_now=counts[1],
        classes_shared=len(shared) if column == "label" else counts[0],
    )
    if reason is not None:
        return labels(reason=reason)
    table = pa.table(
        {"then": old.table[column].cast(pa.string()), "now": new.table[column].cast(pa.string())}
    )
    table = table.filter(pc.and_(pc.is_valid(table["then"]), pc.is_valid(table["now"])))
    total, only_then, only_now = table.num_rows, 0, 0
    if column == "label":
        names = pa.array(sorted(shared))
        in_new = pc.is_in(table["then"], names)
        in_old = pc.is_in(table["now"], names)
        only_then, only_now = total - _count_true(in_new), total - _count_true(in_old)
        table = table.filter(pc.and_(in_new, in_old))
    if not table.num_rows:
        return labels(
            reason="no row has a class in both runs that both models have "
            f"({total} have a class in both)",
            only_then=only_then,
            only_now=only_now,
        )
    pairs = table.group_by(["then", "now"]).aggregate([([], "count_all")]).to_pylist()
    rows, kept = Counter[str](), Counter[str]()
    for pair in pairs:
        rows[pair["then"]] += pair["count_all"]
        if pair["then"] == pair["now"]:
            kept[pair["then"]] = pair["count_all"]
    changes = [
        Change(then=pair["then"], now=pair["now"], rows=pair["count_all"])
        for pair in pairs
        if pair["then"] != pair["now"]
    ]
    classes = [ClassKept(label=label, rows=n, kept=kept[label]) for label, n in rows.items()]
    return labels(
        reason=None,
        by="name" if column == "label" else "number",
        rows=table.num_rows,
        only_then=only_then,
        only_now=only_now,
        agreeing=kept.total(),
        agreement=kept.total() / table.num_rows,
        changes=tuple(sorted(changes, key=lambda change: (-change.rows, change.then, change.now))),
        by_class=tuple(sorted(classes, key=lambda each: (each.kept - each.rows, each.label))),
    )


def _first_names(names: frozenset[str]) -> str:
    shown = ", ".join(sorted(names)[:_NAMED])
    return shown + (", …" if len(names) > _NAMED else "")


def _count_true(mask: pa.ChunkedArray) -> int:
    return int(pc.sum(mask).as_py() or 0)
