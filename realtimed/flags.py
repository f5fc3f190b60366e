"""The flags of `realtimed serve`, as overrides for `config.load`.

`--limits.NAME` and `--engine.NAME` are open-ended and follow one rule: what comes after such a
flag is its value, up to the next argument that starts with `--`. No value means true, several
make a list. So MODEL comes first, or after a bare `--`:

    realtimed serve MODEL --engine.enforce-eager --engine.max-num-seqs 64
    realtimed serve --engine.enforce-eager -- MODEL

Nothing is converted here: one place, `config`, checks values whatever their source.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Never

from realtimed import config
from realtimed.errors import ConfigError

_SOURCE: Final = "on the command line"
_DOTTED: Final = ("--limits.", "--engine.")


def settings_from_serve_args(argv: Sequence[str], environ: Mapping[str, str]) -> config.Settings:
    """The settings of one `realtimed serve`; `argv` is what follows the command's name.

    Raises: `ConfigError`, in one line; `SystemExit` after printing help.
    """
    overrides, config_file = parse_flags(argv)
    return config.load(overrides, config_file, environ)


def parse_flags(argv: Sequence[str]) -> tuple[dict[str, object], Path | None]:
    """Overrides by key (`port`, `limits.ring_s`, `engine.enforce_eager`) and the config file.

    Values are strings, lists of strings, or True.

    Raises: `ConfigError` for an unknown flag or a missing value.
    """
    plain, overrides = _split(argv)
    parsed, unknown = _parser().parse_known_args(plain)
    if flag := next((argument for argument in unknown if argument.startswith("-")), None):
        known = [*map(config.flag_name, config.options()), "--config"]
        hint = " vLLM's own arguments are --engine.NAME."
        raise config.unknown_key(flag.partition("=")[0], _SOURCE, known, hint)
    if unknown:
        raise ConfigError(
            f"{config.shown(unknown[0])}: unexpected {_SOURCE}; one MODEL, before other flags"
        )
    values = {key: value for key, value in vars(parsed).items() if value is not None}
    config_file = values.pop("config", None)
    return values | overrides, Path(config_file) if config_file else None


def _split(argv: Sequence[str]) -> tuple[list[str], dict[str, object]]:
    """Separate the dotted flags, with their values, from those that argparse knows."""
    plain: list[str] = []
    dotted: dict[str, object] = {}
    values: list[str] | None = None
    for index, argument in enumerate(argv):
        if argument == "--":
            plain += argv[index:]
            break
        if argument.startswith(_DOTTED):
            name, equals, text = argument[2:].partition("=")
            values = [text] if equals else []
            dotted[_key(name)] = values
            # `--engine.x=value` is complete: what follows belongs to somebody else.
            values = None if equals else values
        elif argument.startswith("--") or values is None:
            values = None
            plain.append(argument)
        else:
            values.append(argument)
    return plain, {key: _value(texts) for key, texts in dotted.items()}


def _key(name: str) -> str:
    table, _, key = name.partition(".")
    if not key:
        raise ConfigError(f"--{table}.: a name is missing {_SOURCE}, as in --{table}.NAME")
    return f"{table}.{key.replace('-', '_')}"


def _value(texts: object) -> object:
    match texts:
        case []:
            return True
        case [only]:
            return only
    return texts


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Never:
        raise ConfigError(f"{config.shown(message)} {_SOURCE}; see realtimed serve --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="realtimed serve",
        usage="realtimed serve [MODEL] [--host HOST] [--port PORT] ... [--engine.NAME VALUE ...]",
        description="Serve a speech model over WebSockets.",
        epilog=_epilog(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for key, option in config.options().items():
        if key == "model":
            parser.add_argument(key, nargs="?", metavar="MODEL", help=option.description)
        elif "." not in key:
            _add(parser, option)
    parser.add_argument(
        "--config", metavar="FILE", help=f"TOML file (default: ${config.CONFIG_VARIABLE})"
    )
    return parser


def _add(parser: argparse.ArgumentParser, option: config.Option) -> None:
    default = "" if option.default in (None, ()) else f" (default: {option.default})"
    if isinstance(option.default, bool):
        parser.add_argument(
            config.flag_name(option.key),
            action=argparse.BooleanOptionalAction,
            default=None,
            help=option.description + f" (default: {'on' if option.default else 'off'})",
        )
        return
    parser.add_argument(
        config.flag_name(option.key),
        nargs="+" if option.default == () else None,
        metavar="NAME" if option.default == () else option.key.rpartition("_")[2].upper(),
        help=option.description + default,
    )


def _epilog() -> str:
    limits = [option for key, option in config.options().items() if key.startswith("limits.")]
    lines = [
        f"  {config.flag_name(option.key):<28}{option.description} (default: {option.default})"
        for option in limits
    ]
    return "\n".join(
        (
            "limits (_s is seconds):",
            *lines,
            "",
            "engine:",
            "  --engine.NAME [VALUE ...]   any engine argument of vLLM, passed through unchanged:",
            "                              --engine.max-model-len 8192 --engine.enforce-eager",
            "",
            "MODEL comes first, since a flag takes what follows it up to the next --flag.",
            "Each flag is also an environment variable (REALTIMED_PORT, REALTIMED_LIMITS_RING_S,",
            "REALTIMED_ENGINE_MAX_MODEL_LEN) and a key of the TOML file. A file is overridden by",
            "the environment, the environment by flags.",
        )
    )
