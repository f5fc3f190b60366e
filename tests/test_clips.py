"""One clip on an engine that is played by the test: what is sent, awaited and left behind."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import trio

from realtimed.engine.clips import ClipDecoder, ClipRequest
from realtimed.engine.load import EngineLoad
from realtimed.engine.spec import Clip, Hypothesis
from realtimed.errors import EngineFailed, EngineLost

SECOND = np.zeros(16_000, np.float32)


class Model:
    """Stands before the engine: three tokens are a text."""

    def encode(self, request_id: str, clip: Clip) -> Any:
        if clip.language == "bad":
            raise ValueError("secret words")
        return SimpleNamespace(request_id=request_id, prompt_token_ids=[1, 2, 3, 4])

    def hypothesis(
        self, body: Any, _said: str, tokens: list[int], _logprobs: list[float], *, complete: bool
    ) -> Hypothesis:
        return Hypothesis(f"{tokens} {complete}", len(body.prompt_token_ids), len(tokens), complete)


@dataclass
class Core:
    """The engine, as far as clips know it."""

    load: EngineLoad = field(default_factory=EngineLoad)
    open: dict[str, ClipRequest] = field(default_factory=dict)
    aborted: list[str] = field(default_factory=list)
    lost: bool = False

    def new_request_id(self) -> str:
        return f"r{len(self.open) + len(self.aborted)}"

    def submit(self, request: ClipRequest) -> None:
        if self.lost:
            raise EngineLost("gone")
        self.open[request.request_id] = request
        request.sent()

    def withdraw(self, request: ClipRequest) -> None:
        if request.in_flight:
            self.aborted.append(request.request_id)
        request.settle()
        del self.open[request.request_id]


async def answered(core: Core, *steps: tuple[list[int], str | None]) -> None:
    with trio.fail_after(5):
        while not core.open:
            await trio.sleep(0.01)
    [request] = core.open.values()
    for tokens, reason in steps:
        request.deliver(tokens, None, reason)


async def decode(core: Core, language: str | None = "en", told: list[int] | None = None) -> Any:
    signs = [] if told is None else told
    decoder = ClipDecoder(core, Model())  # type: ignore[arg-type]
    return await decoder.decode(Clip(SECOND, language=language), lambda: signs.append(1))


async def test_tokens_of_all_steps_become_the_text_and_each_step_is_a_sign_of_life() -> None:
    core, signs = Core(), []
    async with trio.open_nursery() as nursery:  # ends when the answers have been given
        nursery.start_soon(answered, core, ([7], None), ([8, 9], "stop"))
        heard = await decode(core, told=signs)
    assert heard.text == "[7, 8, 9] True"
    assert (heard.prompt_tokens, heard.completion_tokens, heard.complete) == (4, 3, True)
    assert len(signs) == 2
    assert (core.open, core.aborted, core.load.frames_in_flight) == ({}, [], 0)


async def test_a_text_that_hit_the_cap_is_not_complete() -> None:
    core = Core()
    async with trio.open_nursery() as nursery:  # ends when the answers have been given
        nursery.start_soon(answered, core, ([7, 7], "length"))
        heard = await decode(core)
    assert not heard.complete


async def test_a_decode_that_is_given_up_is_aborted() -> None:
    core = Core()
    with trio.move_on_after(0.3):
        await decode(core)
    assert len(core.aborted) == 1
    assert core.load.frames_in_flight == 0


async def test_an_engine_that_gives_the_request_up_fails_the_utterance() -> None:
    core = Core()
    with pytest.RaisesGroup(EngineFailed):
        async with trio.open_nursery() as nursery:  # ends with the error
            nursery.start_soon(answered, core, ([], "abort"))
            await decode(core)
    assert core.load.frames_in_flight == 0


async def test_a_lost_engine_is_told_as_such() -> None:
    with pytest.raises(EngineLost):
        await decode(Core(lost=True))


async def test_what_vllm_does_not_take_fails_the_utterance_and_is_not_quoted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(EngineFailed) as caught:
        await decode(Core(), language="bad")
    assert "secret" not in str(caught.value)
    assert "secret" not in caplog.text
    assert "ValueError" in caplog.text
