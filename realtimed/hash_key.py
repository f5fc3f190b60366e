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
    key = sys.stdin.readline().rstrip("\r\n") if args.stdin else generate_key()
    line = key_line(args.name, key, args.max_sessions)
    if not args.stdin:
        print(f"The key of {args.name}, shown only now: {key}", file=sys.stderr)
    print(line)
    return 0
