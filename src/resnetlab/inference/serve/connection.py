"""Limits of a connection that uvicorn does not have: times, sizes, and what a client gets that does not speak HTTP."""

from __future__ import annotations

import asyncio
import http
import json
import socket
import struct

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from resnetlab.inference.serve.gate import HEADERS, Gate
from resnetlab.inference.serve.settings import HEAD_BYTES, Settings

GRACE = 1.0  # seconds in which a client that keeps its connection may send one more request to a stopping server
MOST = 900  # open connections; a process may usually open 1,024 files
MOST_PIPELINED = 100  # requests of one connection that were sent before the answers to earlier ones
FULL = "too many connections are open; try again in a second"
LONG_HEAD = f"the head of the request is larger than {HEAD_BYTES // 1024} KB"
MALFORMED = "the request is not HTTP/1.1, or not complete"
UPGRADE = "this server has HTTP/1.1 only: send the request without the header Upgrade (Java: version(HTTP_1_1))"


class Connection(HttpToolsProtocol):
    """uvicorn's connection, closed if the client is silent, slow, or sends a head without end.

    A client has `idle_seconds` to send the head of its next request, and as long to take an answer. The time to send a
    body is limited by the application, the time to compute by its queue.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        settings: Settings = self.app_state["gate"].settings
        self.interval = settings.idle_seconds / 2
        self.state: object = None
        self.is_in_head, self.head_bytes, self.requests = True, 0, 0
        self.pending_bytes = 0  # since the last head or piece of a body: the parser keeps them until that is complete
        self.is_refused, self.problem = False, (400, MALFORMED)  # the answer if the parser cannot go on
        self.cycles: list[RequestResponseCycle] = []  # requests that are not answered, the oldest first
        self.timer = self.loop.call_later(self.interval, self.check)
        if len(self.connections) > MOST:
            self.refuse(503, FULL)

    def connection_lost(self, exc: Exception | None) -> None:
        self.timer.cancel()
        for cycle in self.cycles:  # uvicorn itself tells only the last
            cycle.disconnected = True
            cycle.message_event.set()
        super().connection_lost(exc)

    def forget_answered(self) -> None:
        self.cycles = [cycle for cycle in self.cycles if not cycle.response_complete]

    def check(self) -> None:
        """Abort the connection if nothing has changed since the last check while it was the client's turn."""
        self.forget_answered()
        cycle = self.cycles[0] if self.cycles else None  # the request that is being answered
        is_paused = self.flow.write_paused  # the client does not read earlier answers
        is_computing = cycle is not None and not cycle.response_started and not is_paused
        state = (cycle, is_computing, is_paused, self.requests)
        if state == self.state and not is_computing:
            self.abort()
            return
        self.state = state
        self.timer = self.loop.call_later(self.interval, self.check)

    def abort(self) -> None:
        """Drop the connection with all that the client has not read; closing it would keep that in the system."""
        sock = self.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def refuse(self, status: int, sentence: str) -> None:
        """Answer what is no request, log it, and close. Complete requests before it get their answers first."""
        self.is_refused = True
        gate: Gate = self.app_state["gate"]
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or not cycle.more_body:
            gate.refused(self.client, status)
        elif not cycle.response_started:  # the error is in the body of a request, which has a line of its own
            cycle.scope["state"]["refused"] = status
        self.forget_answered()
        if self.cycles and not self.cycles[-1].more_body:
            self.cycles[-1].keep_alive = False
        elif any(cycle.response_started for cycle in self.cycles):
            self.transport.close()
        else:
            self.transport.write(refusal(status, sentence))
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        if self.is_refused:
            return
        self._unset_keepalive_if_required()
        self.pending_bytes += len(data)
        self.forget_answered()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # the request itself is answered, in HTTP/1.1
        except httptools.HttpParserError:  # also for what a callback raises
            self.refuse(*self.problem)
            return
        if self.pending_bytes > HEAD_BYTES:
            self.refuse(431, LONG_HEAD)
        elif len(self.cycles) > MOST_PIPELINED:
            self.abort()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.is_in_head, self.head_bytes, self.pending_bytes = True, 0, 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self.count(url)

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self.pending_bytes = 0

    def count(self, *parts: bytes) -> None:
        """Count bytes of a head. Raises ValueError if they are too many."""
        self.head_bytes += sum(map(len, parts))
        if self.head_bytes > HEAD_BYTES:
            self.stop_parser(431, LONG_HEAD)

    def stop_parser(self, status: int, sentence: str) -> None:
        """Raise ValueError, which becomes an error of the parser that calls us."""
        self.problem = (status, sentence)
        raise ValueError(sentence)

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade() and self.parser.get_method() == b"POST":
            self.stop_parser(400, UPGRADE)  # the parser would leave out the body
        super().on_headers_complete()
        self.is_in_head, self.pending_bytes = False, 0
        self.requests += 1
        self.cycles.append(self.cycle)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.is_in_head:  # trailers after the body are ignored
            self.count(name, value)
            super().on_header(name, value)

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection. uvicorn may start this time-out although another request has just begun."""
        self.forget_answered()
        if not self.cycles:
            super().timeout_keep_alive_handler()

    def shutdown(self) -> None:
        """Let a stopping server answer what is on its way: an idle connection gets a moment for one more request."""
        self.app_state["gate"].is_draining = True
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(GRACE, self.close_if_idle)
        else:
            super().shutdown()

    def close_if_idle(self) -> None:
        if not self.transport.is_closing():
            super().shutdown()


def refusal(status: int, sentence: str) -> bytes:
    """Return the bytes of an answer, after which the connection is closed."""
    body = json.dumps({"error": sentence}).encode()
    headers = {
        **HEADERS,
        **({"retry-after": "1"} if status == 503 else {}),
        "content-type": "application/json",
        "content-length": str(len(body)),
        "connection": "close",
    }
    lines = [f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}", *(": ".join(pair) for pair in headers.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
