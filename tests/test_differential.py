"""The daemon's tokens and text equal those of vLLM's public path, case by case.

The reference (`AsyncLLM` and the model class's own buffer) runs once, in a process of its own.
The daemon runs in this process, so that the tokens can be seen; audio and text go over a real
socket, in the case's chunks.
"""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
from checkpoints import make_random_checkpoint
from raw_client import raw_client
from reference import CASES, ENGINE_ARGS, Answer, Case, load_answers, select
from speech import DEMO, SAMPLE_RATE, case_audio

from realtimed.config import Limits, Settings
from realtimed.daemon import Daemon
from realtimed.transcription.segment import Segment

CHECKPOINTS = ("bundled", "random-1", "random-2")
REFERENCE_S = 400.0


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The three checkpoints' directories."""
    made = tmp_path_factory.mktemp("checkpoints")
    models = {"bundled": DEMO}
    for seed in (1, 2):
        models[f"random-{seed}"] = make_random_checkpoint(made / f"random-{seed}", seed)
    return models


class Reference:
    """The reference run, in the background until its answers are needed."""

    def __init__(self, models: dict[str, Path], out: Path) -> None:
        self._out = out
        jobs = [[str(models[name]), str(out / f"{name}.json"), name] for name in CHECKPOINTS]
        command = [sys.executable, str(Path(__file__).parent / "reference.py"), *jobs[0]]
        for job in jobs[1:]:
            command += ["--also", *job]
        self._log = (out / "log").open("w")
        self._process = subprocess.Popen(command, stdout=self._log, stderr=subprocess.STDOUT)

    def answers(self, checkpoint: str) -> dict[str, Answer]:
        code = self._process.wait(REFERENCE_S)
        assert code == 0, (self._out / "log").read_text()[-4_000:]
        return load_answers(self._out / f"{checkpoint}.json")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()


@pytest.fixture(scope="module")
def reference(
    models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Reference]:
    """vLLM's answers to all cases."""
    run = Reference(models, tmp_path_factory.mktemp("reference"))
    yield run
    run.close()


def spy_on_tokens(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every token that the engine answers from here on."""
    tokens: list[int] = []
    answered = Segment.answered

    def seen(self: Segment, answer: Sequence[int]) -> None:
        tokens.extend(answer)
        answered(self, answer)

    monkeypatch.setattr(Segment, "answered", seen)
    return tokens


async def transcribe(url: str, case: Case) -> dict[str, Any]:
    """One case over a socket; its `done`."""
    async with raw_client(url, update=False) as client:
        await client.update("")
        await client.commit()
        await client.speak(case_audio(case.seed, case.samples), chunk=case.chunk_samples)
        await client.commit(final=True)
        return (await client.until_terminal())[-1]


async def transcribe_four_at_once(url: str, cases: Sequence[Case]) -> dict[str, str]:
    texts: dict[str, str] = {}
    slots = trio.CapacityLimiter(4)

    async def one(case: Case) -> None:
        async with slots:
            texts[case.name] = (await transcribe(url, case))["text"]

    async with trio.open_nursery() as nursery:  # ends when every case has its text
        for case in cases:
            nursery.start_soon(one, case)
    return texts


def test_there_are_enough_cases() -> None:
    assert len({case.name for case in CASES}) >= 30
    assert {case.checkpoint for case in CASES} == set(CHECKPOINTS)


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
async def test_tokens_and_text_equal_vllms(
    checkpoint: str,
    models: dict[str, Path],
    reference: Reference,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cases = select([checkpoint])
    # Every frame is compared, whether or not somebody speaks in it; all in one request, as theirs.
    longest = max(case.samples for case in cases) / SAMPLE_RATE
    settings = Settings(
        port=0,
        admin=False,
        model=str(models[checkpoint]),
        engine=dict(ENGINE_ARGS),
        silence_gate=False,
        limits=Limits(soft_age_s=longest + 1, hard_age_s=longest + 3),
    )
    daemon = Daemon(settings)
    ours: dict[str, Answer] = {}
    async with trio.open_nursery() as nursery:  # ends when the daemon has stopped
        nursery.start_soon(_run, daemon)
        with trio.fail_after(120):
            await daemon.ready.wait()
        url = f"ws://127.0.0.1:{daemon.port}"
        tokens = spy_on_tokens(monkeypatch)
        for case in cases:
            tokens.clear()
            done = await transcribe(url, case)
            usage = done["usage"]
            ours[case.name] = Answer(
                list(tokens), done["text"], usage["prompt_tokens"], usage["completion_tokens"]
            )
        together = await transcribe_four_at_once(url, cases)
        daemon.stop()
    theirs = await trio.to_thread.run_sync(reference.answers, checkpoint)
    assert len(theirs) == len(cases)
    for name, answer in theirs.items():
        assert ours[name] == answer, name
        assert together[name] == answer.text, name


async def _run(daemon: Daemon) -> None:
    assert await daemon.run(on_signal=False) == 0
