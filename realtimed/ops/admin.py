"""The admin listener: health, metrics, sessions and drain, over HTTP, for operators only.

Hypercorn serves it in the daemon's own Trio loop, so it also tells whether that loop turns. There
are no keys: who reaches it may drain the daemon, which is why it is on loopback by default.
"""

import errno
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Final, cast

from hypercorn.config import Config
from hypercorn.trio import serve
from hypercorn.typing import ASGIFramework
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from realtimed.errors import StartError
from realtimed.ops.client_secrets import ClientSecretRoute, Issue
from realtimed.ops.metrics import Exposition
from realtimed.ops.reading import Reading

log = logging.getLogger("realtimed.ops")

CLIENT_SECRETS: Final = "/v1/realtime/client_secrets"
_MOST_SESSIONS: Final = 1_000
_BACKLOG: Final = 64
_READ_S: Final = 30
_KEEP_ALIVE_S: Final = 60
_UNREAD_MS: Final = 10_000
_STOP_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Admin:
    """What the listener shows and does."""

    read: Callable[[], Reading]
    served_models: Callable[[], Sequence[str]]
    drain: Callable[[], None]
    """Begin to drain; returns at once."""
    drain_s: Callable[[], float]
    """How long that may take, in seconds."""
    issue_secret: Issue

    def app(self) -> Starlette:
        """The ASGI application."""
        metrics = Exposition(self.read)
        secrets = ClientSecretRoute(self.issue_secret)

        async def show_metrics(request: Request) -> Response:
            body, content_type = metrics.render(request.headers.get("accept", ""))
            return Response(body, media_type=content_type)

        return Starlette(
            routes=[
                Route("/livez", _alive),
                Route("/readyz", self._ready),
                Route("/metrics", show_metrics),
                Route("/v1/models", self._models),
                Route("/sessions", self._sessions),
                Route("/version", self._version),
                Route(CLIENT_SECRETS, secrets.answer, methods=["POST"]),
                Route("/drain", self._drain, methods=["POST"]),
            ]
        )

    async def _ready(self, request: Request) -> Response:
        reading = self.read()
        if reading.unready is None:
            return JSONResponse({"status": "ready"})
        answer = {"status": reading.unready, "reason": reading.unready_reason}
        return JSONResponse(answer, status_code=503)

    async def _models(self, request: Request) -> Response:
        models = [
            {"id": name, "object": "model", "owned_by": "realtimed"}
            for name in self.served_models()
        ]
        return JSONResponse({"object": "list", "data": models})

    async def _sessions(self, request: Request) -> Response:
        reading = self.read()
        shown = sorted(reading.sessions, key=lambda session: -session.age_s)[:_MOST_SESSIONS]
        answer = {
            "active": len(reading.sessions),
            "limit": reading.sessions_limit,
            "sessions": [asdict(session) for session in shown],
        }
        return JSONResponse(answer)

    async def _version(self, request: Request) -> Response:
        return JSONResponse(dict(self.read().build))

    async def _drain(self, request: Request) -> Response:
        # A page in the operator's browser can post to loopback, too; tools send no Origin.
        if "origin" in request.headers:
            return JSONResponse({"error": "Not for web pages: use curl."}, status_code=403)
        log.info("draining: asked to by POST /drain")
        self.drain()
        return JSONResponse({"status": "draining", "deadline_s": self.drain_s()}, status_code=202)


async def _alive(request: Request) -> Response:
    return JSONResponse({"status": "alive"})


def listen(host: str, port: int) -> socket.socket:
    """A listening socket for `serve_admin`.

    Raises: `StartError`, in one line.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Inherited by what is accepted: Hypercorn would wait for ever for one that does not
            # read, even when it is cancelled.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNREAD_MS)
            listener.bind(address)
            listener.listen(_BACKLOG)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        reason = "it is in use" if error.errno == errno.EADDRINUSE else error.strerror
        raise StartError(
            f"Cannot listen on {host}:{port} for the admin listener: {reason}. Choose another "
            "with --admin-host or --admin-port, or none with --no-admin."
        ) from error
    return listener


async def serve_admin(
    admin: Admin, listener: socket.socket, stop: Callable[[], Awaitable[None]]
) -> None:
    """Serve until `stop` returns."""
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.accesslog = None
    config.errorlog = logging.getLogger("realtimed.ops.http")
    config.errorlog.setLevel(logging.WARNING)  # it tells where it listens; so do we
    config.include_server_header = False
    config.read_timeout = _READ_S
    config.keep_alive_timeout = _KEEP_ALIVE_S
    config.graceful_timeout = _STOP_S
    # With a trigger of its own, Hypercorn leaves the process's signals alone.
    await serve(cast(ASGIFramework, admin.app()), config, shutdown_trigger=stop)
