"""`POST /v1/realtime/client_secrets`, as OpenAI's: keys for web pages, short-lived."""

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from realtimed.errors import Refusal

_MOST_BYTES: Final = 65_536

Issue = Callable[[str | None, float], str]
"""A secret for who shows that API key, valid until that time in seconds since the epoch; without
a key it is the administrator's. Raises: `Refusal`."""


class _ExpiresAfter(msgspec.Struct):
    anchor: Literal["created_at"] = "created_at"
    seconds: Annotated[int, Meta(ge=10, le=7200)] = 600


class _Wanted(msgspec.Struct):
    expires_after: _ExpiresAfter = msgspec.field(default_factory=_ExpiresAfter)
    session: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class ClientSecretRoute:
    """Answers with `value`, `expires_at` and the session that was described.

    The description is echoed and not kept: whoever connects sends it in a `session.update`.
    """

    issue: Issue

    async def answer(self, request: Request) -> Response:
        """Serve one request."""
        try:
            wanted = await _wanted(request)
            expires_at = int(time.time()) + wanted.expires_after.seconds
            value = self.issue(_bearer(request), expires_at)
        except Refusal as refusal:
            return _refused(refusal)
        session = {
            "type": "transcription",
            **wanted.session,
            "object": "realtime.transcription_session",
            "id": f"sess_{uuid.uuid4().hex[:16]}",
        }
        return JSONResponse({"value": value, "expires_at": expires_at, "session": session})


async def _wanted(request: Request) -> _Wanted:
    if "origin" in request.headers:
        raise Refusal(403, "forbidden_origin", "Not for web pages: ask from your server.")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MOST_BYTES:
            raise Refusal(413, "too_long", f"Expected at most {_MOST_BYTES} bytes.")
    try:
        return msgspec.json.decode(body or b"{}", type=_Wanted)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        reason = str(error) if isinstance(error, msgspec.ValidationError) else "not a JSON object"
        raise Refusal(400, "invalid_request", f"Invalid request: {reason}.") from error


def _bearer(request: Request) -> str | None:
    header = request.headers.get("authorization")
    if header is None:
        return None
    scheme, _, token = header.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _refused(refusal: Refusal) -> Response:
    kind = "invalid_request_error" if refusal.status < 429 else "rate_limit_error"
    error = {"message": refusal.message, "type": kind, "code": refusal.code, "param": None}
    headers = {} if refusal.retry_after_s is None else {"retry-after": str(refusal.retry_after_s)}
    return JSONResponse({"error": error}, status_code=refusal.status, headers=headers)
