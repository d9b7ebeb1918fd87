"""Label agreement: which rows are of another class now, and which classes those are."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from migration.report import Change, ClassKept, Labels
from migration.rows import Rows

_NAMED = 3  # classes that a reason spells out


def compare_labels(then: Rows, now: Rows) -> Labels:
    """Compare the classes of the rows that both runs classify."""
    names_then, names_now = then.class_names(), now.class_names()
    facts = [rows.run.manifest.classifier or rows.run.manifest.model for rows in (then, now)]
    counts = facts[0].num_classes, facts[1].num_classes
    untrained = [one for one in facts if one.weights.startswith("random") and one.head is None]
    column, shared, reason = "label", frozenset[str](), None
    if untrained:
        reason = f"classes of {untrained[0].request.spec} mean nothing, its weights are random"
    elif names_then and names_now:
        shared = names_then & names_now
        if not shared:
            reason = (
                f"the two models share no class name: {_first_names(names_then)} then, "
                f"{_first_names(names_now)} now"
            )
    elif names_then or names_now:
        reason = f"the {'new' if names_then else 'old'} model has no class names; give --labels"
    elif counts[0] != counts[1]:
        reason = f"no class names, and {counts[0]} classes then, {counts[1]} now; give --labels"
    else:
        column = "label_index"
    known = {
        "classes_then": counts[0],
        "classes_now": counts[1],
        "classes_shared": len(shared) if column == "label" else counts[0],
    }
    if reason is not None:
        return _not_comparable(reason, known)
    table = pa.table(
        {"then": then.table[column].cast(pa.string()), "now": now.table[column].cast(pa.string())}
    )
    table = table.filter(pc.and_(pc.is_valid(table["then"]), pc.is_valid(table["now"])))
    total, only_then, only_now = table.num_rows, 0, 0
    if column == "label":
        both = pa.array(sorted(shared))
        old = pc.is_in(table["then"], both)
        new = pc.is_in(table["now"], both)
        only_then, only_now = total - _count_true(old), total - _count_true(new)
        table = table.filter(pc.and_(old, new))
    if not table.num_rows:
        return _not_comparable(
            f"no row has a class in both runs that both models know ({total} have a class in both)",
            known | {"only_then": only_then, "only_now": only_now},
        )
    pairs = table.group_by(["then", "now"]).aggregate([([], "count_all")]).to_pylist()
    agreeing = sum(one["count_all"] for one in pairs if one["then"] == one["now"])
    changes = [
        Change(then=one["then"], now=one["now"], rows=one["count_all"])
        for one in pairs
        if one["then"] != one["now"]
    ]
    return Labels(
        reason=None,
        by="name" if column == "label" else "number",
        **known,
        rows=table.num_rows,
        only_then=only_then,
        only_now=only_now,
        agreeing=agreeing,
        agreement=agreeing / table.num_rows,
        changes=tuple(sorted(changes, key=lambda one: (-one.rows, one.then, one.now))),
        by_class=_by_class(pairs),
    )


def _by_class(pairs: list[dict[str, object]]) -> tuple[ClassKept, ...]:
    rows: dict[str, int] = {}
    kept: dict[str, int] = {}
    for one in pairs:
        label, count = str(one["then"]), int(str(one["count_all"]))
        rows[label] = rows.get(label, 0) + count
        if one["now"] == label:
            kept[label] = count
    found = [ClassKept(label=label, rows=n, kept=kept.get(label, 0)) for label, n in rows.items()]
    return tuple(sorted(found, key=lambda one: (one.kept - one.rows, one.label)))


def _not_comparable(reason: str, known: dict[str, int]) -> Labels:
    empty = {"rows": 0, "only_then": 0, "only_now": 0, "agreeing": 0}
    return Labels(
        reason=reason, by=None, **(empty | known), agreement=None, changes=(), by_class=()
    )


def _first_names(names: frozenset[str]) -> str:
    shown = ", ".join(sorted(names)[:_NAMED])
    return shown + (", …" if len(names) > _NAMED else "")


def _count_true(mask: pa.ChunkedArray) -> int:
    return int(pc.sum(mask).as_py() or 0)
