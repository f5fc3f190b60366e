"""vLLM's engine arguments, passed through unchanged and checked by vLLM's own parser."""

import difflib
import json
import logging
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from realtimed.engine import families, lifeline, window
from realtimed.engine.families import Mode
from realtimed.errors import ConfigError, EngineStartError

_MISTRAL_FILES = ("params.json", "tekken.json")
_MISTRAL_ARGS = {"tokenizer_mode": "mistral", "config_format": "mistral", "load_format": "mistral"}

BUNDLED_ARGS: Mapping[str, object] = {
    "enforce_eager": True,
    "max_model_len": 2048,
    "max_num_seqs": 32,
    "kv_cache_memory_bytes": 2**28,
    "distributed_executor_backend": "uni",
}
"""What the bundled model is served with unless told otherwise: a quarter GiB holds its KV. Segments
are cut long before the length, and vLLM keeps the encoder's output of as many frames."""

BUNDLED_ENVIRONMENT: Mapping[str, str] = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
}
"""On a CPU these put the worker into the engine core's process, on one thread, which is all that
so small a model can use: it starts in half the time and takes a quarter less memory."""


def is_mistral_format(model: str) -> bool:
    """Whether `model` is a directory in Mistral's format, which vLLM must be told."""
    return all(Path(model, name).is_file() for name in _MISTRAL_FILES)


def to_argv(engine: Mapping[str, object]) -> list[str]:
    """Spell a table of engine arguments as vLLM's command line.

    True is a bare flag, False its `--no-` form, a list several values, a table JSON.
    """
    argv: list[str] = []
    for key, value in engine.items():
        flag = key.replace("_", "-")
        match value:
            case True:
                argv.append(f"--{flag}")
            case False:
                argv.append(f"--no-{flag}")
            case Mapping():
                argv += [f"--{flag}", json.dumps(value)]
            case list() | tuple():
                argv += [f"--{flag}", *(str(item) for item in value)]
            case _:
                argv += [f"--{flag}", str(value)]
    return argv


_STREAM_ARGS: Mapping[str, object] = {"mm_processor_cache_gb": 0}
"""vLLM keeps up to 4 GiB of inputs in the engine in case they come again. Frames never do, and the
engine grew by 9 MiB a minute of each stream."""


def engine_args(model: str, served_names: tuple[str, ...], engine: Mapping[str, object]) -> Any:
    """Build vLLM's `AsyncEngineArgs`.

    Raises: `ConfigError` for an argument vLLM does not know or cannot parse.
    """
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    class Parser(FlexibleArgumentParser):  # type: ignore[misc]
        def error(self, message: str) -> Any:
            raise ConfigError(f"Engine argument: {' '.join(message.split())}")

    parser = AsyncEngineArgs.add_cli_args(Parser(prog="realtimed serve", add_help=False))
    _check_known(engine, parser)
    table = {**_STREAM_ARGS, **(_MISTRAL_ARGS if is_mistral_format(model) else {}), **engine}
    argv = ["--model", model, *to_argv(table)]
    if served_names:
        argv += ["--served-model-name", *served_names]
    return AsyncEngineArgs.from_cli_args(parser.parse_args(argv))


def _check_known(engine: Mapping[str, object], parser: Any) -> None:
    known = {
        option[2:].replace("-", "_") for option in parser._option_string_actions if "--" in option
    }
    for key in engine:
        if key in ("model", "served_model_name"):
            raise ConfigError(f"engine.{key}: set this at the top level, not under engine.")
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else "see vLLM's engine arguments."
            raise ConfigError(f"engine.{key}: vLLM has no such engine argument; {hint}")


_CPU_CLIP_ARGS: Mapping[str, object] = {
    "enforce_eager": True,
    "kv_cache_memory_bytes": 2**30,
    "max_num_seqs": 8,
}
_CPU_CLIP_BATCH = 2_048


def _fill_for_clips(args: Any, given: Collection[str]) -> None:
    """On a CPU, give a segmented model what vLLM does not choose well, unless it is `given`.

    vLLM would take nearly all of the machine's memory for the KV cache, and does not start if some
    of it is in use. It compiles the model for a minute, which wins nothing there. And it makes the
    batch of an encoder-decoder model smaller than one clip if few requests are to run at once, and
    then refuses it.
    """
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    model_config = args.create_model_config()
    if families.choose(model_config)[0] is not Mode.SEGMENTED:
        return
    defaults = dict(_CPU_CLIP_ARGS)
    if "VLLM_CPU_KVCACHE_SPACE" in os.environ:
        del defaults["kv_cache_memory_bytes"]
    if model_config.is_encoder_decoder:
        defaults["max_num_batched_tokens"] = _CPU_CLIP_BATCH
    for name, value in defaults.items():
        if name not in given:
            setattr(args, name, value)


def create_config(
    args: Any, given: Collection[str] = (), encoder_window_s: int | None = None
) -> Any:
    """Resolve engine arguments into a `VllmConfig`.

    `given`: the names of those that were chosen. `encoder_window_s`: of Whisper, if it is to be
    another than its own.

    Raises: `EngineStartError` with vLLM's own reason, in one line.
    """
    from vllm.usage.usage_lib import UsageContext

    try:
        if encoder_window_s is not None:
            window.shorten(args, encoder_window_s)
        _fill_for_clips(args, given)
        config = args.create_engine_config(UsageContext.ENGINE_CONTEXT)
        if isinstance(config.additional_config, dict):
            config.additional_config["realtimed_lifeline"] = lifeline.Lifeline()
    except EngineStartError:
        raise
    except Exception as error:
        refused = f"vLLM refused the model or its settings: {one_line(error)}"
        raise EngineStartError(families.unloadable(error) or refused) from error
    return config


def one_line(error: BaseException, limit: int = 400) -> str:
    """An exception's text as one line of at most `limit` characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"


def prepare_environment(log_level: str, defaults: Mapping[str, str]) -> None:
    """Set what vLLM reads from the environment, before vLLM is imported.

    Whatever the operator has set stays. Engine processes are spawned, never forked: the daemon
    has threads, and a fork would copy their locks.
    """
    os.environ.setdefault("VLLM_WORKER_MULTIPROCESSING_METHOD", "spawn")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    # A frame's audio (8 KiB) then travels inside its message; apart, it costs more than a copy.
    os.environ.setdefault("VLLM_MSGPACK_ZERO_COPY_THRESHOLD", "32768")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "DEBUG" if log_level == "debug" else "ERROR")
    quiet = {} if log_level == "debug" else _QUIET
    for name, value in {**quiet, **defaults}.items():
        os.environ.setdefault(name, value)
    if log_level != "debug":
        # Of a model class that does not load it shows a traceback; `families.unloadable` says why.
        logging.getLogger("vllm.model_executor.models.registry").setLevel(logging.CRITICAL)
    lifeline.be_parent()
    _allow_plugin()


_QUIET = {
    "PYTHONWARNINGS": "ignore",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "TORCH_LOGS": "-all",
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}
"""Keeps the libraries under vLLM from talking over the daemon's own log."""


def _allow_plugin() -> None:
    """Keep the lifeline loaded where VLLM_PLUGINS is an allow-list."""
    allowed = os.environ.get("VLLM_PLUGINS")
    if allowed is not None and lifeline.PLUGIN_NAME not in allowed.split(","):
        os.environ["VLLM_PLUGINS"] = ",".join(filter(None, [allowed, lifeline.PLUGIN_NAME]))
