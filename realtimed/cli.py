"""`realtimed`: the command line. Each command is one function that returns an exit code."""

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence

import trio

import realtimed
from realtimed.config import Settings
from realtimed.errors import RealtimedError, StartError

_USAGE = """\
usage: realtimed COMMAND ...

  serve [MODEL]        serve a speech model over WebSockets (the bundled one by default)
  transcribe FILE...   stream audio files to a daemon and print the text
  demo                 serve the bundled model, stream a sample through it, stop
  check-config         check the settings that serve would use, and exit
  hash-key [NAME]      make an API key and print the line that lets it in
  version              print the version

`realtimed COMMAND --help` tells more.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code of the process."""
    name, *rest = [*(sys.argv[1:] if argv is None else argv), ""]
    command = _COMMANDS.get(name)
    if command is None:
        print(f"realtimed: no command {name!r}; see realtimed --help", file=sys.stderr)
        return 2
    try:
        return command(rest[:-1])
    except RealtimedError as error:
        print(f"realtimed: {error}", file=sys.stderr)
        return getattr(error, "exit_code", StartError.exit_code)
    except KeyboardInterrupt:
        return 130


def _help(_argv: list[str]) -> int:
    print(_USAGE, end="")
    return 0


def _nothing(_argv: list[str]) -> int:
    print(_USAGE, end="", file=sys.stderr)
    return 2


def _version(_argv: list[str]) -> int:
    print(realtimed.__version__)
    return 0


def _serve(argv: list[str]) -> int:
    from realtimed.daemon import Daemon
    from realtimed.flags import settings_from_serve_args
    from realtimed.ops import logs
    from realtimed.ops.systemd import ServiceManager, inherited_sockets

    def load() -> Settings:
        return settings_from_serve_args(argv, os.environ)

    settings = load()
    logs.set_up(settings.log_level, settings.log_format)
    manager = ServiceManager.from_environment(os.environ)
    sockets = inherited_sockets(os.environ)
    return trio.run(Daemon(settings, reload=load, manager=manager, inherited=sockets).run)


def _check_config(argv: list[str]) -> int:
    from realtimed.flags import settings_from_serve_args
    from realtimed.server.access import AccessPolicy
    from realtimed.server.tls import server_tls

    settings = settings_from_serve_args(argv, os.environ)
    AccessPolicy(settings)
    server_tls(settings)
    print(f"settings are good: model {settings.model or 'bundled'}, port {settings.port}")
    return 0


def _transcribe(argv: list[str]) -> int:
    from realtimed import transcribe

    parser = argparse.ArgumentParser(
        prog="realtimed transcribe", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    transcribe.add_arguments(parser)
    return transcribe.run(parser.parse_args(argv))


def _demo(argv: list[str]) -> int:
    from realtimed import demonstration

    return demonstration.run(argv)


def _hash_key(argv: list[str]) -> int:
    from realtimed import hash_key

    return hash_key.run(argv)


_COMMANDS: Mapping[str, Callable[[list[str]], int]] = {
    "serve": _serve,
    "transcribe": _transcribe,
    "demo": _demo,
    "check-config": _check_config,
    "hash-key": _hash_key,
    "version": _version,
    "--version": _version,
    "help": _help,
    "--help": _help,
    "-h": _help,
    "": _nothing,
}
