"""Metrics for Prometheus: requests, the queue, batches, the snapshot; one registry an app."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    generate_latest,
)

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_QUERIES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Counters of one application; safe to use from several threads."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._latency = Histogram(
            "onepass_request_seconds",
            "Time from a request's head to its answer's last byte; _count counts requests.",
            ["method", "route", "status"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._children: dict[tuple[str, str, int], Histogram] = {}
        self._rejected = Counter(
            "onepass_rejected_requests",
            "Requests turned away, by reason.",
            ["reason"],
            registry=registry,
        )
        for reason in ("queue", "uploads", "frames", "body", "key"):
            self._rejected.labels(reason)  # 0 from the start, so that an alert can see it rise
        self.queue_depth = Gauge(
            "onepass_queue_depth", "Queries waiting for the index.", registry=registry
        )
        self.batch_size = Histogram(
            "onepass_batch_size",
            "Queries that the index answered together.",
            buckets=_QUERIES,
            registry=registry,
        )
        self._linked = Counter(
            "onepass_linked_detections",
            "Detections of live frames, by what became of them.",
            ["as"],
            registry=registry,
        )
        self._snapshot = Info("onepass_snapshot", "The snapshot being served.", registry=registry)
        self._rows = Gauge("onepass_rows", "Rows of the snapshot being served.", registry=registry)
        self.reloads = Counter(
            "onepass_reloads", "Snapshots opened in place of another.", registry=registry
        )
        self.failed_reloads = Counter(
            "onepass_failed_reloads", "Snapshots that did not open.", registry=registry
        )

    def record_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Record an answered request.

        Args:
            method: HTTP method.
            route: path with placeholders, so that ids make no new series.
            status: HTTP status of the answer.
            seconds: from its head to its answer's last byte.
        """
        key = (method, route, status)
        child = self._children.get(key)
        if child is None:  # labels() costs as much as the observation itself
            child = self._children[key] = self._latency.labels(method, route, str(status))
        child.observe(seconds)

    def record_linked(self, continued: int, started: int, weak: int) -> None:
        """Record the detections of a linked frame.

        Args:
            continued: detections that extend a track.
            started: detections that start one.
            weak: detections that do neither.
        """
        for name, count in (("continued", continued), ("started", started), ("weak", weak)):
            self._linked.labels(name).inc(count)

    def record_rejection(self, reason: str) -> None:
        """Record a rejected request."""
        self._rejected.labels(reason).inc()

    def record_snapshot(self, version: str, rows: int) -> None:
        """Record the snapshot that is served from now on."""
        self._snapshot.info({"version": version})
        self._rows.set(rows)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)
