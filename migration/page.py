"""The page of a migration: one self-contained HTML file, made from the report alone."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path

from migration import plots
from migration.report import (
    ComparedRun,
    Labels,
    LinksChanged,
    MigrationReport,
    Neighbours,
    RunCost,
    Threshold,
)

_MAX_ROWS = 12  # of a table of classes
_QUANTILES = ("0.05", "0.25", "0.5", "0.75", "0.95")

_STYLE = Path(__file__).with_name("page.css").read_text(encoding="utf-8")


def render(report: MigrationReport) -> str:
    """The page as HTML.

    Raises:
        InputError: Matplotlib is not installed.
    """
    title = f"{report.then.spec} to {report.now.spec}"
    sections = (
        _section("Rows", _rows(report)),
        _section("Labels", _labels(report.labels)),
        _section("Neighbours", _neighbours(report.neighbours)),
        _section("Drift", _drift(report)),
        _section("Links", _links(report.links)),
        _section("Threshold of the tracker", _threshold(report.threshold)),
        _section("Cost", _costs(report.costs.then, report.costs.now)),
    )
    notes = "".join(f"<li>{_text(note)}</li>" for note in report.notes)
    return (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<title>Migration: {escape(title)}</title><style>{_STYLE}</style></head><body><main>"
        f"<h1>Migration: {escape(title)}</h1>"
        f"<p class=soft>{escape(report.then.run)} to {escape(report.now.run)}, "
        f"{escape(report.created)}</p>{_verdict(report)}"
        f"{_section('Notes', f'<ul>{notes}</ul>') if notes else ''}"
        f"<div class=columns>{''.join(sections)}</div>"
        f"{_section('The two runs', _sides(report.then, report.now))}"
        "</main></body></html>\n"
    )


def _section(title: str, parts: Iterable[str]) -> str:
    return f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>"


def _table(head: Iterable[str], rows: Iterable[Iterable[object]], *, words: int = 1) -> str:
    """A table; the first ``words`` columns are text, the others numbers."""

    def line(cells: Iterable[object], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=n' if column >= words else ''}>{escape(str(cell))}</{tag}>"
            for column, cell in enumerate(cells)
        )

    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    return f"<table><thead><tr>{line(head, 'th')}</tr></thead><tbody>{body}</tbody></table>"


def _picture(svg: str, what: str) -> str:
    data = base64.b64encode(svg.encode()).decode()
    return f"<img alt='{escape(what, quote=True)}' src='data:image/svg+xml;base64,{data}'>"


def _soft(text: str) -> str:
    return f"<p class=soft>{escape(text)}</p>"


def _reason(text: str) -> str:
    return f"<p>Not compared: {_text(text)}.</p>"


def _text(text: str) -> str:
    """A text of the report, whose parameters are in backticks."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(text))


def _verdict(report: MigrationReport) -> str:
    verdict = report.verdict
    outcomes = [check.outcome for check in verdict.limits]
    missed, skipped = outcomes.count("missed"), outcomes.count("not comparable")
    result = "Passed" if verdict.passed else f"Missed: {missed} of {len(outcomes)} limits"
    more = f"; {skipped} not comparable" if skipped else ""
    lines = "".join(
        f"<tr><td class={check.outcome.split()[0]}>{check.outcome}</td>"
        f"<td>{_text(check.says)}</td></tr>"
        for check in verdict.limits
    )
    return (
        f"<div class='verdict {'passed' if verdict.passed else 'missed'}'><p><strong>{result}</strong>"
        f"{more}</p><table><tbody>{lines}</tbody></table></div>"
    )


def _rows(report: MigrationReport) -> Iterator[str]:
    counts = report.counts
    rows = ("rows", counts.rows, counts.rows)
    failed = ("with an error", counts.failed_then, counts.failed_now)
    yield _table(("", "then", "now"), (rows, failed))
    changed = (
        ("fail now and did not", counts.newly_failed),
        ("failed and do not now", counts.newly_fine),
    )
    yield _table(("rows that", ""), changed)
    if counts.first_failures:
        failures = ((failure.detection_id, failure.error) for failure in counts.first_failures)
        yield _table(("first of the new failures", "error"), failures, words=2)


def _labels(labels: Labels) -> Iterator[str]:
    if labels.reason is not None:
        yield _reason(labels.reason)
        return
    yield f"<p><span class=big>{labels.agreement:.1%}</span> of {labels.rows} rows keep their class.</p>"
    if labels.by == "number":
        yield _soft("Neither model names its classes: they are compared by number.")
    if labels.only_then or labels.only_now:
        yield _soft(
            f"Over the {labels.classes_shared} classes that both models have. Of the other rows, "
            f"{labels.only_then} were of a class that the new model lacks and {labels.only_now} "
            "are of one that the old model lacked."
        )
    if not labels.changes:
        return
    yield _picture(plots.changes_plot(labels), "the most frequent changes of class")
    changed = [
        (each.label, each.rows, each.kept) for each in labels.by_class if each.kept < each.rows
    ]
    yield _table(("old class", "rows", "kept"), changed[:_MAX_ROWS])
    if len(changed) > _MAX_ROWS:
        yield _soft(f"and {len(changed) - _MAX_ROWS} classes more, in report.json")


def _neighbours(neighbours: Neighbours) -> Iterator[str]:
    if neighbours.reason is not None:
        yield _reason(neighbours.reason)
        return
    yield (
        f"<p><span class=big>{neighbours.overlap:.3f}</span> overlap@{neighbours.k}, by chance "
        f"{neighbours.chance:.3f}.</p>"
    )
    yield _picture(plots.overlap_plot(neighbours), "queries by the neighbours that spaces share")
    yield _soft(
        f"For {neighbours.queries} of {neighbours.rows} detections the {neighbours.k} nearest "
        f"others were computed in both spaces, exactly, by {neighbours.metric}; overlap is the "
        "share that both have in common."
    )


def _drift(report: MigrationReport) -> Iterator[str]:
    drift = report.drift
    if drift.reason is not None:
        yield f"<p>{escape(drift.reason[:1].upper() + drift.reason[1:])}.</p>"
        return
    yield f"<p><span class=big>{drift.mean:.3f}</span> mean cosine of old to new.</p>"
    yield _picture(plots.drift_plot(drift), "rows by the cosine of old to new embedding")
    yield _table(
        [f"{float(q):.0%}" for q in _QUANTILES],
        [[f"{drift.quantiles[q]:.3f}" for q in _QUANTILES]],
        words=0,
    )
    yield _soft(
        "Equal dimensions do not make one space: unless the new model was trained from the old "
        "one, cosines are near zero whatever its quality."
    )


def _links(links: LinksChanged) -> Iterator[str]:
    if links.reason is not None:
        yield _reason(links.reason)
        return
    yield (
        f"<p><span class=big>{links.changed:.1%}</span> of all links of either run are in one of "
        "them only.</p>"
    )
    yield _table(
        ("", "then", "now"),
        (("links", links.then, links.now), ("tracks", links.tracks_then, links.tracks_now)),
    )
    yield _table(("links", ""), (("kept", links.kept), ("lost", links.lost), ("new", links.new)))
    if links.options is not None:
        options = links.options
        yield _soft(
            f"Both linked with max_cost {options.max_cost:g}, weights "
            f"{', '.join(f'{weight:g}' for weight in options.weights)} and a gap of "
            f"{options.gap_frames} frames. A detection that continues another one than before "
            "has lost a link and has a new one."
        )


def _threshold(threshold: Threshold) -> Iterator[str]:
    if threshold.suggested is not None:
        yield (
            f"<p>max_cost {threshold.max_cost:g} becomes "
            f"<span class=big>{threshold.suggested:.3g}</span></p>"
        )
    else:
        yield f"<p>Nothing is suggested: {escape(threshold.reason or '')}.</p>"
    if not threshold.pairs:
        return
    yield _picture(plots.costs_plot(threshold), "costs of linked and other pairs in both spaces")
    separations = [
        (name, f"{best.threshold:.3f}", f"{best.linked_within:.1%}", f"{best.others_beyond:.1%}")
        for name, best in (("old space", threshold.then), ("new space", threshold.now))
        if best is not None
    ]
    if separations:
        yield _table(("best threshold", "cost", "linked within", "others beyond"), separations)
    kept = threshold.linked_within_now
    yield _soft(
        f"From {threshold.pairs} pairs of detections in consecutive frames, {threshold.linked} of them "
        f"linked by the old run. {threshold.within} cost at most max_cost in the old space; as many "
        "cost at most the suggestion in the new one."
        + (
            f" Of the linked ones, {kept:.1%} cost at most the old max_cost there."
            if kept is not None
            else ""
        )
        + " A pair's cost is that of its two detections, without the memory of tracks."
    )


_COSTS = (
    ("images/s", "images_a_second", "{:,.1f}"),
    ("images/s with start-up", "with_start_up", "{:,.1f}"),
    ("seconds of the session", "seconds", "{:,.1f}"),
    ("GPUs or cores", "units", "{:g} {unit}s"),
    ("hours a million rows", "hours_a_million", "{:,.1f}"),
    ("the same times GPUs or cores", "unit_hours_a_million", "{:,.1f} {unit}-hours"),
)


def _costs(then: RunCost, now: RunCost) -> Iterator[str]:
    rows = [
        (name, _cost(then, field, form), _cost(now, field, form)) for name, field, form in _COSTS
    ]
    yield _table(("", "then", "now"), rows)
    for name, cost in (("then", then), ("now", now)):
        if cost.reason is not None:
            yield _soft(f"{name}: not known, {cost.reason}")
    yield _soft(
        "Images a second are measured between the first result and the last, so that a short run "
        "predicts a long one. The two are comparable where one machine made both."
    )


def _cost(cost: RunCost, field: str, form: str) -> str:
    value = getattr(cost, field)
    return "-" if value is None else form.format(value, unit=cost.unit)


def _sides(then: ComparedRun, now: ComparedRun) -> Iterator[str]:
    fields = ("run", "spec", "weights", "fingerprint", "dim", "classes", "precision", "engine")
    names = {"spec": "model", "dim": "dimension"}
    rows = (
        (names.get(field, field), getattr(then, field), getattr(now, field)) for field in fields
    )
    yield _table(("", "then", "now"), rows, words=3)
