"""Which dialect an upgrade asks for, by what each real client sends; and what is refused."""

from dataclasses import replace

import pytest
from geometry import model

from realtimed.errors import Refusal
from realtimed.server import dialects
from realtimed.server.handshake import Upgrade
from realtimed.wire.codec import Codec

KEY = "openai-insecure-api-key.k"


def upgrade(target: str, subprotocols: tuple[str, ...] = (), **headers: str) -> Upgrade:
    path, _, query = target.partition("?")
    pairs = [one.partition("=")[::2] for one in query.split("&") if one]
    return Upgrade(
        path=path,
        query={name: [value] for name, value in pairs},
        headers=tuple(
            (name.replace("_", "-").encode(), text.encode()) for name, text in headers.items()
        ),
        subprotocols=subprotocols,
        rest=b"",
    )


def chosen(request: Upgrade) -> Codec:
    make = dialects.choose(request)
    assert make is not None
    return make(dialects.opening(request, replace(model(), served_names=("demo",)), strict=False))


PYTHON = "AsyncOpenAI/Python 3.54.0"


@pytest.mark.parametrize(
    ("request_", "dialect"),
    [
        # vLLM's examples, and clients that follow them.
        (upgrade("/v1/realtime"), "undecided"),
        (upgrade("/v1/realtime?model=demo"), "undecided"),
        # openai-python, openai-node 7, its class for browsers, and openai-node 6.
        (upgrade("/v1/realtime?intent=transcription", user_agent=PYTHON), "openai"),
        (upgrade("/v1/realtime?model=m", user_agent=PYTHON, x_stainless_lang="python"), "openai"),
        (upgrade("/v1/realtime?model=m", user_agent="OpenAI/JS 7.57.0"), "openai"),
        (upgrade("/v1/realtime?model=m", ("realtime", KEY)), "openai"),
        (upgrade("/v1/realtime?model=m", authorization="Bearer k"), "undecided"),
        # LiveKit and pipecat.
        (
            upgrade("/v1/realtime?intent=transcription&model=m", user_agent="LiveKit Agents"),
            "openai",
        ),
        (upgrade("/v1/realtime?intent=transcription", authorization="Bearer k"), "openai"),
        # The beta shape, by header and by the browser's subprotocol.
        (upgrade("/v1/realtime?model=m", openai_beta="realtime=v1"), "openai_beta"),
        (upgrade("/v1/realtime?intent=transcription", openai_beta="realtime=v1"), "openai_beta"),
        (
            upgrade("/v1/realtime?model=m", ("realtime", KEY, "openai-beta.realtime-v1")),
            "openai_beta",
        ),
        # Mistral's SDK and what browsers send.
        (upgrade("/v1/audio/transcriptions/realtime?model=m"), "mistral"),
        (upgrade("/v1/audio/transcriptions/realtime?model=m", ("realtime", "rt_k")), "mistral"),
        # A prefix overrides all of that.
        (upgrade("/vllm/v1/realtime?intent=transcription", user_agent=PYTHON), "vllm"),
        (upgrade("/openai/v1/realtime"), "openai"),
        (upgrade("/openai/v1/realtime", openai_beta="realtime=v1"), "openai_beta"),
        (upgrade("/mistral/v1/audio/transcriptions/realtime"), "mistral"),
    ],
)
def test_an_upgrade_tells_its_dialect(request_: Upgrade, dialect: str) -> None:
    assert dialect == chosen(request_).NAME


@pytest.mark.parametrize(
    "path", ["/", "/v1/realtime/", "/v1", "/mistral/v1/realtime", "/v1/audio/transcriptions"]
)
def test_other_paths_are_not_served(path: str) -> None:
    assert dialects.choose(upgrade(path)) is None


@pytest.mark.parametrize("path", ["/v1/realtime", "/openai/v1/realtime"])
def test_a_call_is_no_target_of_a_transcription(path: str) -> None:
    with pytest.raises(Refusal) as raised:
        dialects.choose(upgrade(f"{path}?call_id=rtc_1"))
    assert (raised.value.status, raised.value.code) == (400, "bad_request")


@pytest.mark.parametrize(
    "path", ["/v1/audio/transcriptions/realtime", "/v1/realtime", "/openai/v1/realtime"]
)
def test_where_names_are_strict_an_unknown_model_is_refused_before_the_upgrade(path: str) -> None:
    served = ("demo", "/models/demo")
    for query in ("", "?model=", "?model=demo"):
        dialects.check_model(upgrade(path + query), served)
    with pytest.raises(Refusal) as raised:
        dialects.check_model(upgrade(f"{path}?model=other"), served)
    assert (raised.value.status, raised.value.code) == (404, "model_not_found")
    assert "demo" in raised.value.message
    assert "/models" not in raised.value.message
