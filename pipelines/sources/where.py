"""``where``: the rows of a source that a run is of, by a condition over the source's columns.

The condition is that of searches (``common.conditions``). It is applied to a complete plan, so that
images which are left out still count as frames: a moth that is missed in two images is missed in two
frames, whichever rows are kept.
"""

from __future__ import annotations

from dataclasses import replace

from common.conditions import as_in_sql, check_twins, column_names, evaluate, find_column
from common.errors import SourceError
from pipelines.sources.plan import Plan


def matching(plan: Plan, where: str, source: str) -> Plan:
    """The rows of a plan that match a condition.

    Args:
        plan: of the whole source.
        where: the condition, over the plan's columns.
        source: its name, for messages.

    Raises:
        FilterError: the condition cannot be used; names the columns that there are.
        SourceError: no row matches.
    """
    derived = {"row_id"} if plan.ids_given else {"row_id", "detection_id"}  # after this, by onepass
    columns = {name: as_in_sql(name) for name in plan.table.column_names if name not in derived}
    names = {name: name for name in columns}
    used = {
        find_column(where, name, names if len(name) == 1 else {}, columns)
        for name in column_names(where)
    }
    check_twins(where, used)
    mask = evaluate(where, plan.table.select(sorted({"image", *used})))
    if not mask.any():
        empty = [name for name in sorted(used) if plan.table[name].null_count == len(mask)]
        hint = f"; {empty[0]!r} is empty in all of them" if empty else ""
        raise SourceError(
            f"`where={where!r}`: none of the {len(mask)} rows of {source} match{hint}"
        )
    # Frames are numbered: an update must not number anew those that are left.
    return replace(plan.keep(mask), given=plan.given | {"frame"})
