"""Which dialect a connection speaks, as far as its upgrade tells."""

import time
import uuid
from collections.abc import Callable
from typing import Final

from realtimed.engine.spec import ModelInfo
from realtimed.errors import Refusal
from realtimed.server.handshake import Upgrade
from realtimed.wire.codec import Codec, Opening
from realtimed.wire.guidance import Served
from realtimed.wire.mistral import MistralCodec
from realtimed.wire.openai import OpenAICodec
from realtimed.wire.openai_beta import OpenAIBetaCodec
from realtimed.wire.undecided import Undecided
from realtimed.wire.vllm import VllmCodec
from realtimed.wire.vllm_options import shown

MakeCodec = Callable[[Opening], Codec | Undecided]

_REALTIME: Final = "/v1/realtime"
_MISTRAL: Final = "/v1/audio/transcriptions/realtime"
# A prefix says outright what is spoken, for clients that give no sign and are misread.
_BY_PATH: Final[dict[str, MakeCodec]] = {
    _MISTRAL: MistralCodec,
    f"/mistral{_MISTRAL}": MistralCodec,
    f"/openai{_REALTIME}": OpenAICodec,
    f"/vllm{_REALTIME}": VllmCodec,
}
PATHS: Final = (_REALTIME, _MISTRAL)
"""The paths that SDKs dial."""
_OPENAI_AGENTS: Final = ("OpenAI/", "AsyncOpenAI/", "LiveKit Agents")


def choose(upgrade: Upgrade) -> MakeCodec | None:
    """The dialect of a valid upgrade; `None` for a path that is not served.

    Raises: `Refusal` for an upgrade that joins a call, which is no transcription.
    """
    make = _BY_PATH.get(upgrade.path, _undecided if upgrade.path == _REALTIME else None)
    if make is not None and "call_id" in upgrade.query:
        raise Refusal(400, "bad_request", "Calls cannot be joined here: leave `call_id` out.")
    if make is OpenAICodec or make is _undecided:
        if _looks_like_beta(upgrade):
            return OpenAIBetaCodec
        if _looks_like_openai(upgrade):
            return OpenAICodec
    return make


def check_model(upgrade: Upgrade, served_names: tuple[str, ...]) -> None:
    """For servers that are strict about names. Raises: `Refusal` if the URL's is not served."""
    model = _requested_model(upgrade)
    if model and model not in served_names:
        public = ", ".join(name for name in served_names if not name.startswith("/"))
        message = f"The model `{shown(model)}` does not exist. Served here: {public or 'one'}."
        raise Refusal(404, "model_not_found", message)


def _looks_like_beta(upgrade: Upgrade) -> bool:
    header = upgrade.header(b"openai-beta") or ""
    return "realtime=v1" in header or "openai-beta.realtime-v1" in upgrade.subprotocols


def _looks_like_openai(upgrade: Upgrade) -> bool:
    agent = upgrade.header(b"user-agent") or ""
    return (
        upgrade.query.get("intent") == ["transcription"]
        or "realtime" in upgrade.subprotocols
        or upgrade.header(b"x-stainless-lang") is not None
        or agent.startswith(_OPENAI_AGENTS)
    )


def _undecided(opening: Opening) -> Undecided:
    return Undecided(opening, VllmCodec, OpenAICodec, OpenAIBetaCodec)


def opening(upgrade: Upgrade, model: ModelInfo | None, *, strict: bool) -> Opening:
    """What the dialect may want to know; `strict`: other model names than the served are errors."""
    return Opening(
        session_id=f"sess-{uuid.uuid4().hex[:16]}",
        created=int(time.time()),
        served_names=model.served_names if model else (),
        requested_model=_requested_model(upgrade),
        strict_model_names=strict,
        served=Served(model.options, model.languages) if model else Served(),
    )


def _requested_model(upgrade: Upgrade) -> str:
    return upgrade.query.get("model", [""])[0][:200]
