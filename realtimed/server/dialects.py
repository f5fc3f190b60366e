"""Which dialect a connection speaks, as far as its upgrade tells."""

import time
import uuid
from collections.abc import Callable
from typing import Final

from realtimed.server.handshake import Upgrade
from realtimed.wire.codec import Codec, Opening
from realtimed.wire.mistral import MistralCodec
from realtimed.wire.openai import OpenAICodec
from realtimed.wire.openai_beta import OpenAIBetaCodec
from realtimed.wire.undecided import Undecided
from realtimed.wire.vllm import VllmCodec

MakeCodec = Callable[[Opening], Codec]

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
    """The dialect of a valid upgrade; `None` for a path that is not served."""
    if upgrade.path in _BY_PATH:
        return _BY_PATH[upgrade.path]
    if upgrade.path != _REALTIME:
        return None
    if "realtime=v1" in (upgrade.header(b"openai-beta") or ""):
        return OpenAIBetaCodec
    return OpenAICodec if _looks_like_openai(upgrade) else _undecided


def _looks_like_openai(upgrade: Upgrade) -> bool:
    agent = upgrade.header(b"user-agent") or ""
    return (
        upgrade.query.get("intent") == ["transcription"]
        or "realtime" in upgrade.subprotocols
        or upgrade.header(b"x-stainless-lang") is not None
        or agent.startswith(_OPENAI_AGENTS)
    )


def _undecided(opening: Opening) -> Codec:
    return Undecided(opening, VllmCodec, OpenAICodec, OpenAIBetaCodec)


def opening(upgrade: Upgrade, served_names: tuple[str, ...], *, strict: bool) -> Opening:
    """What the dialect may want to know; `strict`: other model names than the served are errors."""
    return Opening(
        session_id=f"sess-{uuid.uuid4().hex[:16]}",
        created=int(time.time()),
        served_names=served_names,
        requested_model=upgrade.query.get("model", [""])[0][:200],
        strict_model_names=strict,
    )
