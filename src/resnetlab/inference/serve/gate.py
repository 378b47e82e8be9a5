"""Everything that holds for every request: who may ask, security headers, the access log, and counting."""

from __future__ import annotations

import ipaddress
import json
import logging
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from resnetlab.inference.serve.metrics import Metrics
from resnetlab.inference.serve.settings import Settings, host_name

LOGGER = logging.getLogger("resnetlab.serve")
ACCESS = logging.getLogger("resnetlab.access")

HEADERS = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
}
PROBES = ("/healthz", "/readyz")  # some load balancers ask in HTTP/1.0, which has no Host header
OPEN = ("/", *PROBES)  # and /static/: needs no token, for it contains nothing about the models
CLIENT_GONE = 499  # nginx's code for a client that closed the connection before the answer; only in the log


@dataclass
class Record:
    """The entry of one request in the access log; handlers add to it by `request.state.record`."""

    route: str = "other"
    status: int = CLIENT_GONE
    facts: dict[str, Any] = field(default_factory=dict)


class Gate:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self.app, self.settings, self.metrics = app, settings, metrics
        self.is_draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, record = time.perf_counter(), Record()
        scope.setdefault("state", {})["record"] = record

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                if scope["path"].startswith("/static/"):
                    headers["cache-control"] = "no-cache"  # a new page needs the script of its own version
                if self.is_draining:
                    headers["connection"] = "close"  # the client's next request goes to another server
            await send(message)

        try:
            app = self.refusal(scope) or self.app
            await app(scope, receive, send_with_headers)
        except ClientDisconnect:
            record.status = CLIENT_GONE
        except Exception as error:
            kind = f"{type(error).__name__}: {error}"
            LOGGER.exception("internal error in %s %s: %s", scope["method"], record.route, kind)
            if record.status == CLIENT_GONE:
                answer = JSONResponse({"error": f"internal error: {type(error).__name__}"}, 500)
                await answer(scope, receive, send_with_headers)
        finally:
            seconds = time.perf_counter() - began
            record.status = scope["state"].get("refused", record.status)  # the connection answered a malformed body
            self.metrics.requests.labels(record.route, str(record.status)).inc()
            self.metrics.seconds.labels(record.route).observe(seconds)
            if self.settings.access_log:
                request = {"method": scope["method"], "path": scope["path"][:200]}
                log(scope.get("client"), request | {"status": record.status}, seconds, record.facts)

    def refused(self, client: tuple[str, int] | None, status: int) -> None:
        """Count and log what a client sent instead of a request."""
        self.metrics.requests.labels(Record.route, str(status)).inc()
        if self.settings.access_log:
            log(client, {"method": None, "path": None, "status": status}, 0.0)

    def refusal(self, scope: Scope) -> Response | None:
        """Return the answer for a request that must not be served; None for one that may."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        is_probe_without_host = scope["http_version"] == "1.0" and "host" not in headers and scope["path"] in PROBES
        name = host_name(host) if len(headers.getlist("host")) == 1 else None
        if not is_probe_without_host and (name is None or not self.is_ours(name)):
            advice = "send one Host header" if name is None else f"allow the name with --allow-host {name[:200]}"
            return error(421, f"this server is not {host[:200]!r}; {advice}")
        origin = headers.get("origin")
        if origin is not None and origin_of(origin) != host.lower():
            proxy = "a proxy before this server must pass on the Host header of the browser"
            return error(403, f"requests from pages of another origin are refused: {origin[:200]!r}; {proxy}")
        if self.settings.token is not None and scope["path"] not in OPEN and not scope["path"].startswith("/static/"):
            scheme, _, token = headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not self.settings.is_token(token.strip()):
                return error(401, "a token is needed: Authorization: Bearer TOKEN", {"www-authenticate": "Bearer"})
        return None

    def is_ours(self, name: str) -> bool:
        """Return True for a name of this server, from a Host header. The port is not compared.

        A page of another site can let its own name point to this machine (DNS rebinding), but not an IP address.
        """
        if name in self.settings.hosts:
            return True
        return self.settings.any_address and (is_address(name) or name == socket.gethostname().lower())


def origin_of(origin: str) -> str:
    """Return the host and port of an Origin header, or an empty string: behind a proxy, the scheme may differ."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def error(status: int, sentence: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": sentence}, status, headers)


def log(
    client: tuple[str, int] | None, answered: Mapping[str, Any], seconds: float, facts: Mapping[str, Any] | None = None
) -> None:
    """Log one line of JSON; `answered` has method, path and status."""
    line = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "worker": os.getpid(),
        "client": client[0] if client else None,
        **answered,
        "milliseconds": round(1000 * seconds, 2),
    }
    ACCESS.info("%s", json.dumps({**line, **(facts or {})}))
