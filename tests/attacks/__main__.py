"""Run one attack; prints what its peers saw as JSON."""

import argparse
import json
from pathlib import Path

import trio

from attacks import before, within
from attacks.peer import Target, be_modest

ATTACKS = {
    attack.__name__: attack
    for attack in (
        before.silent_tcp,
        before.slow_tls,
        before.slow_http,
        before.half_open,
        before.bad_heads,
        before.bad_keys,
        before.log_injection,
        within.slow_fragments,
        within.empty_fragments,
        within.pings,
        within.tiny_messages,
        within.giant_messages,
        within.bad_frames,
        within.base64_bombs,
        within.json_bombs,
        within.bad_messages,
        within.never_reads,
        within.settings_flood,
        within.audio_flood,
    )
}
GRACE_S = 5.0
"""An attack that does not end by itself is ended."""


async def attack(options: argparse.Namespace) -> Target:
    until = trio.current_time() + options.seconds
    target = Target(options.port, options.ca, options.key, until)
    with trio.move_on_at(until + GRACE_S):
        await ATTACKS[options.name](target)
    return target


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m attacks", description=__doc__)
    parser.add_argument("name", choices=ATTACKS)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ca", type=Path, required=True)
    parser.add_argument("--key", default="")
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    be_modest()
    print(json.dumps(trio.run(attack, options).seen))


if __name__ == "__main__":
    main()
