"""Connections: how many there are, what each may hold, and how long it may take.

uvicorn bounds neither, and an application sees a request only when its head is complete. So this is
uvicorn's protocol with bounds on what comes before that (a head's bytes, headers and time, requests
that are sent ahead) and after it (an answer that is not read).

Where there are too many connections, the new one is taken and the oldest gives way that nothing is
done for: it is idle, its request is incomplete, or it does not read its answer; one of the address
that has the most. As requests have a lower limit than connections, there always is such a one, so
``/livez`` is answered.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter, deque
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from api.config import Limits
from api.http.errors import error_response
from api.http.metrics import Metrics
from api.http.origins import RESTRICTIONS

SEND_BUFFER = 256 * 1024  # of a socket, in the kernel: so it shows soon whether a client reads
_SLICE_BYTES = 4 * 1024  # that are parsed before what they brought is counted
_MAX_REQUESTS = 2  # of one connection, sent before the first is answered
_FRAME_BYTES = 2 * 1024  # around a body in chunks, beyond its own size: a chunk of one byte costs 6
_SWEEP_SECONDS = 1.0
_NO_LINGER = struct.pack("ii", 1, 0)  # the kernel does not keep what was not sent, either


class Connections:
    """All connections of one server; used on its event loop.

    Args:
        limits: of the server.
        metrics: counts connections that were closed, by reason.
    """

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self.limits = limits
        self._metrics = metrics
        self._open: set[BoundedProtocol] = set()
        self._unread: set[BoundedProtocol] = set()  # whose clients are slower than the answer
        self._sweeping = False
        metrics.connections.set_function(lambda: len(self._open))

    def protocol(self, **arguments: Any) -> BoundedProtocol:
        """The protocol of a new connection; arguments as uvicorn gives them."""
        return BoundedProtocol(self, **arguments)

    def add(self, connection: BoundedProtocol) -> None:
        """Take a new connection, and close another if there are too many."""
        if len(self._open) >= self.limits.connections:
            counts = Counter(other.address for other in self._open)
            idle = [other for other in self._open if other.is_idle()] or [connection]
            self.abort(
                min(idle, key=lambda other: (-counts[other.address], other.since)), "connections"
            )
        self._open.add(connection)
        if not self._sweeping:
            self._sweeping = True
            connection.loop.call_later(_SWEEP_SECONDS, self._sweep, connection.loop)

    def remove(self, connection: BoundedProtocol) -> None:
        """Forget a connection."""
        self._open.discard(connection)
        self._unread.discard(connection)

    def add_unread(self, connection: BoundedProtocol) -> None:
        """An answer was not read as fast as it was written; drop the oldest if they are too many."""
        self._unread.add(connection)
        sizes = {other: other.transport.get_write_buffer_size() for other in self._unread}
        total = sum(sizes.values())
        for other in sorted(self._unread - {connection}, key=lambda other: other.since):
            if total <= self.limits.unread_bytes:
                break
            total -= sizes[other]
            self.abort(other, "unread")

    def remove_unread(self, connection: BoundedProtocol) -> None:
        """An answer was read."""
        self._unread.discard(connection)

    def abort(self, connection: BoundedProtocol, reason: str) -> None:
        """Close a connection at once, with what was not sent."""
        self._metrics.rejected.labels(reason).inc()
        self.remove(connection)
        client = connection.transport.get_extra_info("socket")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        connection.transport.abort()

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close what has taken too long."""
        now = loop.time()
        for connection in list(self._open):
            if reason := connection.overdue(now):
                self.abort(connection, reason)
        self._sweeping = bool(self._open)
        if self._sweeping:
            loop.call_later(_SWEEP_SECONDS, self._sweep, loop)


class BoundedProtocol(HttpToolsProtocol):
    """One connection of HTTP/1.1, within the limits.

    Attributes:
        address: of the client, or of the proxy before it.
        since: when it was opened, began its request's head, or was sent its last answer.
    """

    def __init__(self, connections: Connections, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.address = ""
        self.since = self.loop.time()
        self._connections = connections
        self._limits = connections.limits
        self._requests: deque[RequestResponseCycle] = deque()  # that are not answered, in order
        self._in_head = False
        self._in_message = False  # head, body or what follows it
        self._part_bytes = 0
        self._overhead = 0  # bytes of the head; then those that are no body, less the body's
        self._unsent = 0  # bytes of answers, at the last look
        self._unsent_since = self._sent_at = 0.0
        self._answered = False  # the next request waits until the answer is read

    def is_idle(self) -> bool:
        """Whether nothing is done for it: it waits for the client."""
        return not self._requests or self._requests[0].more_body or self.flow.write_paused

    def overdue(self, now: float) -> str | None:
        """Why it must be closed at this time; None: it need not."""
        unsent = self.transport.get_write_buffer_size()
        if not unsent:
            self._unsent = 0
            late = not self._requests and now - self.since > self._limits.head_seconds
            return "head" if late else None
        if not self._unsent:
            self._unsent_since = now
        if unsent != self._unsent:
            self._unsent, self._sent_at = unsent, now
        stalled = now - self._sent_at > self._limits.stalled_seconds
        slow = now - self._unsent_since > self._limits.answer_seconds
        return "unread" if stalled or slow else None

    # What the transport calls.
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        self.address = self.client[0] if self.client else ""
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed."""
        self._connections.remove(self)
        super().connection_lost(exc)
        for request in self._requests:  # uvicorn tells the last one only
            request.disconnected = True
            request.message_event.set()

    def data_received(self, data: bytes) -> None:
        """Parse what has come, a slice at a time: a few bytes may become large objects."""
        for start in range(0, len(data), _SLICE_BYTES):
            if self.transport.is_closing():
                return
            part = data[start : start + _SLICE_BYTES]
            self._part_bytes = len(part)
            super().data_received(part)
            if self._in_message:
                self._overhead += len(part)
                if self._overhead > (self._limits.head_bytes if self._in_head else _FRAME_BYTES):
                    self._refuse_head()

    def pause_writing(self) -> None:
        """The client reads more slowly than its answer is written."""
        super().pause_writing()
        self._connections.add_unread(self)

    def resume_writing(self) -> None:
        """The client has read its answer."""
        super().resume_writing()
        self._connections.remove_unread(self)
        if self._answered:
            self._answered = False
            super().on_response_complete()

    # What the parser calls; an exception ends the connection with ``send_400_response``.
    def on_message_begin(self) -> None:
        """A head begins."""
        if len(self._requests) >= _MAX_REQUESTS:
            raise ValueError("too many requests were sent ahead")
        super().on_message_begin()
        self._in_head = self._in_message = True
        self._overhead = 0
        if not self._requests:
            self.since = self.loop.time()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header of the head, or one that follows a body in chunks."""
        if len(self.headers) >= self._limits.headers:
            self._refuse_head()
            raise ValueError("too many headers")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is complete: the application is called."""
        self._in_head = False
        self._overhead = -self._part_bytes  # which is counted as a whole, later
        super().on_headers_complete()
        self._requests.append(self.cycle)

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._overhead = max(self._overhead - 2 * len(body), -_FRAME_BYTES)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is complete."""
        self._in_message = False
        super().on_message_complete()

    # What uvicorn calls.
    def on_response_complete(self) -> None:
        """The answer is written; the next request waits until it is read."""
        self.since = self.loop.time()
        self._requests.popleft()
        if self.flow.write_paused:
            self._answered = True
            self.flow.pause_reading()
        else:
            super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP; ``msg`` is uvicorn's."""
        self._refuse(400, "bad_request", "this is not an HTTP request that can be read")

    def _refuse_head(self) -> None:
        limits = self._limits
        self._refuse(
            431,
            "head_too_large",
            f"the head of a request may have {limits.head_bytes} bytes and {limits.headers} headers; "
            "send ids and filters in the body of a POST",
        )

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Close the connection; answer first, where the request has no answer from the application."""
        if self.transport.is_closing():
            return
        if not self._requests and (self._in_head or not self._in_message):
            response = error_response(status, code, message, {"connection": "close"})
            lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}".encode()]
            lines += [b": ".join(header) for header in (*response.raw_headers, *RESTRICTIONS)]
            self.transport.write(b"\r\n".join([*lines, b"", bytes(response.body)]))
        self.transport.close()
