"""What vLLM's own path says about the differential test's audio, to hold the daemon to.

    python tests/reference.py MODEL_DIR OUT.json [CASE_OR_CHECKPOINT ...]
        [--also MODEL_DIR OUT.json [CASE_OR_CHECKPOINT ...]] ...

Feeds `AsyncLLM` through the model class's `buffer_realtime_audio` as vLLM 0.32 does in
`entrypoints/speech_to_text/realtime/{connection,serving}.py`, and writes an `Answer` a case.
Importing this module gives the cases and imports no vLLM.
"""

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from speech import SAMPLE_RATE, case_audio, chunks

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

# The other side of the comparison needs the same dtype: between float32 and bfloat16 one token in
# ten differs on random weights. Within either, batch size and thread count changed none.
# "uni" is the executor that works in the engine core's own process, where `main` allows it.
ENGINE_ARGS: dict[str, Any] = {
    "tokenizer_mode": "mistral",
    "config_format": "mistral",
    "load_format": "mistral",
    "enforce_eager": True,
    "dtype": "float32",
    "max_model_len": 4_096,
    "max_num_seqs": 8,
    "max_num_batched_tokens": 4_096,
    "kv_cache_memory_bytes": 2**28,
    "distributed_executor_backend": "uni",
}
CONCURRENT = 4


@dataclass(frozen=True)
class Case:
    """One utterance: `samples` of `case_audio(seed, ...)`, sent `chunk_samples` at a time."""

    checkpoint: str
    seed: int
    samples: int
    chunk_samples: int

    @property
    def name(self) -> str:
        return f"{self.checkpoint}/{self.seed}-{self.samples}-by-{self.chunk_samples}"


@dataclass(frozen=True)
class Answer:
    """What vLLM's `transcription.delta` and `.done` events amount to for one case."""

    token_ids: list[int]
    text: str
    prompt_tokens: int
    completion_tokens: int


def _cases(checkpoint: str, *shapes: tuple[int, float, int]) -> list[Case]:
    return [
        Case(checkpoint, seed, round(seconds * SAMPLE_RATE), chunk)
        for seed, seconds, chunk in shapes
    ]


# Seed, seconds, samples a chunk. A token is 1,280 samples: the sizes lie around it, at the
# clients' usual 20 ms ... 1 s, and at odd ones; the lengths are whole tokens here and there.
CASES: list[Case] = [
    *_cases(
        "bundled",
        (100, 0.1, 320),
        (101, 0.5, 1_280),
        (102, 1.0, 16_000),
        (103, 1.7, 333),
        (104, 3.2, 1_279),
        (105, 5.0, 1_281),
        (106, 7.31, 5_000),
        (107, 10.0, 480),
        (108, 12.8, 4_000),
        (109, 16.3, 777),
        (110, 25.0, 1_600),
        (111, 60.0, 8_000),
    ),
    *_cases(
        "random-1",
        (200, 0.1, 1_600),
        (201, 0.33, 333),
        (202, 0.8, 640),
        (203, 1.28, 1_279),
        (204, 2.0, 1_281),
        (205, 4.1, 320),
        (206, 6.4, 5_000),
        (207, 9.99, 16_000),
        (208, 12.0, 1_280),
        (209, 15.7, 2_400),
        (210, 20.0, 12_345),
        (211, 60.0, 1_333),
    ),
    *_cases(
        "random-2",
        (300, 0.1, 333),
        (301, 0.25, 4_000),
        (302, 0.96, 1_280),
        (303, 1.5, 800),
        (304, 2.56, 5_000),
        (305, 3.7, 1_281),
        (306, 5.5, 1_279),
        (307, 8.0, 960),
        (308, 11.1, 320),
        (309, 14.0, 16_000),
        (310, 18.2, 3_200),
        (311, 30.0, 1_919),
    ),
]


def select(wanted: Sequence[str]) -> list[Case]:
    """The cases of these names or of these checkpoints; all where none is named."""
    known = {case.name for case in CASES} | {case.checkpoint for case in CASES}
    if unknown := set(wanted) - known:
        raise SystemExit(f"No such case or checkpoint: {', '.join(sorted(unknown))}")
    return [case for case in CASES if not wanted or {case.name, case.checkpoint} & {*wanted}]


def load_answers(path: Path) -> dict[str, Answer]:
    """Read what this script wrote: answers by the case's name."""
    return {name: Answer(**answer) for name, answer in json.loads(path.read_text()).items()}


async def answer(engine: "AsyncLLM", case: Case) -> Answer:
    """Transcribe one case as vLLM's `RealtimeConnection._run_generation` does."""
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    model_class = _model_class(engine)
    fed_back: asyncio.Queue[list[int]] = asyncio.Queue()
    results = engine.generate(
        prompt=_streaming_inputs(engine, case, fed_back),
        sampling_params=SamplingParams.from_optional(
            temperature=0.0,
            max_tokens=model_class.realtime_max_tokens,
            output_kind=RequestOutputKind.DELTA,
            skip_clone=True,
        ),
        request_id=case.name,
    )
    token_ids: list[int] = []
    text = ""
    prompt_tokens = 0
    async for output in results:
        if not output.outputs:
            continue
        prompt_tokens = prompt_tokens or len(output.prompt_token_ids or ())
        delta = output.outputs[0]
        token_ids += delta.token_ids
        text += delta.text
        fed_back.put_nowait(list(delta.token_ids))
    return Answer(token_ids, text, prompt_tokens, len(token_ids))


def _model_class(engine: "AsyncLLM") -> Any:
    from vllm.model_executor.model_loader import get_model_cls

    return get_model_cls(engine.model_config)


async def _streaming_inputs(
    engine: "AsyncLLM", case: Case, fed_back: "asyncio.Queue[list[int]]"
) -> AsyncGenerator[Any]:
    """vLLM's `OpenAIServingRealtime.transcribe_realtime`."""
    from vllm.engine.protocol import StreamingInput
    from vllm.renderers.inputs.preprocess import parse_model_prompt

    prompts = _model_class(engine).buffer_realtime_audio(
        _audio(case), fed_back, engine.model_config
    )
    async for prompt in prompts:
        parsed = parse_model_prompt(engine.model_config, prompt)
        (engine_input,) = await engine.renderer.render_cmpl_async([parsed])
        yield StreamingInput(prompt=engine_input)


async def _audio(case: Case) -> AsyncGenerator[NDArray[np.float32]]:
    for chunk in chunks(case_audio(case.seed, case.samples), case.chunk_samples):
        yield chunk.astype(np.float32) / 32768.0


async def transcribe(
    model_dir: Path, cases: Sequence[Case], concurrent: int, overrides: dict[str, Any]
) -> dict[str, Answer]:
    """Start an engine on one checkpoint, transcribe the cases `concurrent` at a time, stop it."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    started = time.monotonic()
    engine = AsyncLLM.from_engine_args(
        AsyncEngineArgs(model=str(model_dir), **(ENGINE_ARGS | overrides))
    )
    loaded = time.monotonic()
    slots = asyncio.Semaphore(concurrent)

    async def one(case: Case) -> Answer:
        async with slots:
            return await answer(engine, case)

    try:
        answers = await asyncio.gather(*map(one, cases))
    finally:
        engine.shutdown()
    print(
        f"{model_dir}: {len(cases)} cases, {sum(c.samples for c in cases) / SAMPLE_RATE:.0f} s "
        f"of audio; engine started in {loaded - started:.1f} s, "
        f"answered in {time.monotonic() - loaded:.1f} s",
        file=sys.stderr,
    )
    return {case.name: given for case, given in zip(cases, answers, strict=True)}


def run_job(job: Sequence[str], concurrent: int, overrides: dict[str, Any]) -> None:
    """Do one `MODEL_DIR OUT.json [CASE_OR_CHECKPOINT ...]`."""
    model_dir, out, *wanted = job
    answers = asyncio.run(transcribe(Path(model_dir), select(wanted), concurrent, overrides))
    Path(out).write_text(json.dumps({name: asdict(given) for name, given in answers.items()}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job", nargs="+", help="MODEL_DIR OUT.json [CASE_OR_CHECKPOINT ...]")
    parser.add_argument("--also", nargs="+", action="append", default=[], help="another job")
    parser.add_argument("--concurrent", type=int, default=CONCURRENT, help="cases at a time")
    parser.add_argument("--engine", type=json.loads, default={}, help="engine arguments, JSON")
    options = parser.parse_args()
    # Before vLLM is imported, which reads them then. A KV cache size in the environment would
    # win over the argument.
    os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)
    os.environ.setdefault("VLLM_WORKER_MULTIPROCESSING_METHOD", "spawn")
    # Engine core and worker in one process, which starts in half the time; the model is so small
    # that a second thread costs more than it brings.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    for job in [options.job, *options.also]:
        run_job(job, options.concurrent, options.engine)


if __name__ == "__main__":
    main()
