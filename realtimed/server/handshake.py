"""The HTTP side of a connection: read the request head, refuse it or let it be upgraded.

The head is parsed here, by h11, before any WebSocket code sees the connection: refusals are
plain HTTP answers. Several headers of one name are read as one list, as HTTP has it: some clients
send two `Connection` headers.
"""

from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

import h11
import msgspec
import trio
from wsproto.utilities import generate_accept_token

from realtimed.errors import Refusal

MAX_HEAD_BYTES = 16_384
_BAD_HEAD = "The HTTP request is malformed or its head is larger than 16 KiB."
_CHUNK = 4_096
_MOST_FIELDS = 100
_REASONS = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    426: "Upgrade Required",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


@dataclass(frozen=True, slots=True)
class Upgrade:
    """A valid WebSocket upgrade request (RFC 6455 section 4.1)."""

    path: str
    query: dict[str, list[str]]
    headers: tuple[tuple[bytes, bytes], ...]
    subprotocols: tuple[str, ...]
    rest: bytes
    """Bytes that came after the head."""

    def header(self, name: bytes) -> str | None:
        """The first header of that lower-case name."""
        return next(iter(self.values(name)), None)

    def values(self, name: bytes) -> tuple[str, ...]:
        """All headers of that lower-case name."""
        return tuple(value.decode("latin-1") for key, value in self.headers if key == name)


async def read_upgrade(stream: trio.abc.Stream) -> Upgrade | None:
    """Read one request head; `None` if the peer left before it was complete.

    Raises: `Refusal` if it is not a WebSocket upgrade.
    """
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
    received = 0
    try:
        while True:
            event = parser.next_event()
            if isinstance(event, h11.Request):
                rest = parser.trailing_data[0]
                if received - len(rest) > MAX_HEAD_BYTES:  # h11 bounds only what is incomplete
                    raise Refusal(431, "bad_request", _BAD_HEAD)
                return _check(event, rest)
            if event is not h11.NEED_DATA:
                return None
            data = await stream.receive_some(_CHUNK)
            if not data:
                return None
            received += len(data)
            parser.receive_data(bytes(data))
    except h11.RemoteProtocolError as error:
        status = error.error_status_hint
        status = status if status in _REASONS else 400
        raise Refusal(status, "bad_request", _BAD_HEAD) from error


def _check(request: h11.Request, rest: bytes) -> Upgrade:
    headers = tuple((bytes(k), bytes(v)) for k, v in request.headers)
    path, query = _target(request.target.decode("latin-1"))
    upgrade = Upgrade(
        path=path,
        query=query,
        headers=headers,
        subprotocols=_tokens(headers, b"sec-websocket-protocol"),
        rest=rest,
    )
    if request.method != b"GET":
        raise Refusal(405, "method_not_allowed", "Only WebSocket upgrades (GET) are served here.")
    names = [token.lower() for token in _tokens(headers, b"upgrade")]
    if "websocket" not in names:
        raise Refusal(
            426, "upgrade_required", "This is a WebSocket server: connect with ws:// or wss://."
        )
    if any(name in (b"content-length", b"transfer-encoding") for name, _ in headers):
        # What follows is frames here, and would be a body for a proxy that goes by these.
        raise Refusal(400, "bad_upgrade", "A WebSocket upgrade has no body.")
    connection = [token.lower() for token in _tokens(headers, b"connection")]
    key = upgrade.header(b"sec-websocket-key")
    if "upgrade" not in connection or not key or request.http_version != b"1.1":
        raise Refusal(400, "bad_upgrade", "The WebSocket upgrade lacks a required header.")
    if upgrade.header(b"sec-websocket-version") != "13":
        raise Refusal(426, "bad_version", "Only WebSocket version 13 (RFC 6455) is spoken here.")
    return upgrade


def _target(target: str) -> tuple[str, dict[str, list[str]]]:
    """Path and query. Raises: `Refusal` for an address that is none, or has too many fields."""
    try:
        parts = urlsplit(target)
        return parts.path, parse_qs(parts.query, max_num_fields=_MOST_FIELDS)
    except ValueError as error:
        message = f"The address is malformed, or its query has more than {_MOST_FIELDS} fields."
        raise Refusal(400, "bad_request", message) from error


def _tokens(headers: tuple[tuple[bytes, bytes], ...], name: bytes) -> tuple[str, ...]:
    """All comma-separated tokens of every header of that name."""
    values = (value.decode("latin-1").split(",") for key, value in headers if key == name)
    return tuple(token.strip() for tokens in values for token in tokens if token.strip())


def encode_accept(upgrade: Upgrade) -> bytes:
    """The answer that turns the connection into a WebSocket (RFC 6455 section 4.2.2).

    No extension is ever accepted; the subprotocol `realtime` is, wherever it is offered.
    """
    key = upgrade.header(b"sec-websocket-key")
    assert key is not None
    lines = [
        b"HTTP/1.1 101 Switching Protocols",
        b"upgrade: websocket",
        b"connection: Upgrade",
        b"sec-websocket-accept: " + generate_accept_token(key.encode("latin-1")),
    ]
    if "realtime" in upgrade.subprotocols:
        lines.append(b"sec-websocket-protocol: realtime")
    return b"\r\n".join(lines) + b"\r\n\r\n"


def encode_refusal(refusal: Refusal) -> bytes:
    """A complete HTTP/1.1 answer with a one-line JSON body, after which the server hangs up."""
    body = msgspec.json.encode({"error": refusal.message, "code": refusal.code}) + b"\n"
    lines = [
        f"HTTP/1.1 {refusal.status} {_REASONS.get(refusal.status, 'Refused')}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        "connection: close",
    ]
    if refusal.status == 401:
        lines.append("www-authenticate: Bearer")
    if refusal.status == 426:
        lines += ["upgrade: websocket", "sec-websocket-version: 13"]
    if refusal.retry_after_s is not None:
        lines.append(f"retry-after: {refusal.retry_after_s}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
