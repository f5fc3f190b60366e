"""`realtimed hash-key`: a new API key, or one of your own, and the line that lets it in."""

import argparse
import sys

from realtimed.server.keys import generate_key, key_line


def run(argv: list[str]) -> int:
    """Print the line for `api_keys_file` on stdout, and a key that was made here on stderr.

    Raises: `ConfigError` for a key or a name that will not do.
    """
    parser = argparse.ArgumentParser(
        prog="realtimed hash-key",
        description="Make an API key. The key goes to stderr, once, and is kept nowhere; stdout "
        "gets the line for api_keys_file: realtimed hash-key alice >> keys",
    )
    parser.add_argument(
        "name", nargs="?", default="default", help="what logs call it (%(default)s)"
    )
    parser.add_argument(
        "--stdin", action="store_true", help="hash the key on stdin instead of making one"
    )
    parser.add_argument(
        "--max-sessions", type=int, metavar="N", help="sessions at once with this key"
    )
    args = parser.parse_args(argv)
    key = _given() if args.stdin else generate_key()
    line = key_line(args.name, key, args.max_sessions)
    if not args.stdin:
        print(f"The key of {args.name}, shown only now: {key}", file=sys.stderr)
    print(line)
    return 0


def _given() -> str:
    # Any bytes are text in Latin-1: a key that is not ASCII gets its error from `key_line`.
    return sys.stdin.buffer.readline().decode("latin-1").rstrip("\r\n")
