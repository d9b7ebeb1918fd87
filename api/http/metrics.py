"""Metrics for Prometheus: requests, the queue, batches, the snapshot; one registry an app."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_REASONS = (
    *("queue", "uploads", "frames", "link_full", "requests", "bodies"),  # too many at once
    *("body", "slow_body", "head", "unread", "connections"),  # too large, or too slow
    *("key", "keys", "host", "origin"),
)
_QUERIES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Counters of one application; safe to use from several threads.

    Attributes:
        registry: holds all of them.
        rejected: requests turned away and connections closed, by reason.
        connections: that are open.
        queue_depth: queries waiting for the index.
        batch_size: queries that the index answered together.
        linked: detections of live frames: continued, started, weak or duplicates.
        link_sequences: sequences whose live state is kept, set when metrics are read.
        link_bytes: of it, as well.
        link_idle: idle sequences that left: closed or removed.
        snapshot: the version being served.
        rows: of that version.
        reloads: snapshots opened in place of another.
        failed_reloads: snapshots that did not open.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._latency = Histogram(
            "onepass_request_seconds",
            "Time from a request's head to its answer's last byte; _count counts requests.",
            ["method", "route", "status"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._children: dict[tuple[str, str, int], Histogram] = {}
        self.rejected = Counter(
            "onepass_rejected_requests",
            "Requests turned away and connections closed, by reason.",
            ["reason"],
            registry=registry,
        )
        for reason in _REASONS:
            self.rejected.labels(reason)  # 0 from the start, so that an alert can see it rise
        self.connections = Gauge("onepass_connections", "Open connections.", registry=registry)
        self.queue_depth = Gauge(
            "onepass_queue_depth", "Queries waiting for the index.", registry=registry
        )
        self.batch_size = Histogram(
            "onepass_batch_size",
            "Queries that the index answered together.",
            buckets=_QUERIES,
            registry=registry,
        )
        self.linked = Counter(
            "onepass_linked_detections",
            "Detections of live frames, by what became of them.",
            ["as"],
            registry=registry,
        )
        self.link_sequences = Gauge(
            "onepass_link_sequences", "Sequences of live frames that are kept.", registry=registry
        )
        self.link_bytes = Gauge(
            "onepass_link_bytes", "Bytes of their state in the file.", registry=registry
        )
        self.link_idle = Counter(
            "onepass_link_idle_sequences",
            "Idle sequences that left: closed, their open tracks, or removed.",
            ["as"],
            registry=registry,
        )
        for left in ("closed", "removed"):
            self.link_idle.labels(left)
        self.snapshot = Info("onepass_snapshot", "The snapshot being served.", registry=registry)
        self.rows = Gauge("onepass_rows", "Rows of the snapshot being served.", registry=registry)
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
