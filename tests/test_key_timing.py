"""How long it takes to look a key up says nothing of it: what is compared, and what it costs."""

import hashlib
import hmac
import statistics
import time
from collections.abc import Callable

import pytest

from realtimed.server.keys import Keyring, key_line, parse_keys

PREFIX = "company-2026-speech-to-text-production-"
KEYS = [f"{PREFIX}{number:04}" for number in range(500)]
RING = Keyring(parse_keys("\n".join(key_line(key[-4:], key) for key in KEYS), "keys"))
SHOWN = {
    "the first": KEYS[0],
    "one in the middle": KEYS[len(KEYS) // 2],
    "the last": KEYS[-1],
    "all but its last character": KEYS[0][:-1] + "x",
    "nothing in common": "z" * len(KEYS[0]),
}
ROUNDS = 301
BOUND = 1.5
"""The slowest kind of key by the fastest: 1.002 on a machine in use, and 4 and more with a leak."""


@pytest.mark.parametrize("shown", SHOWN.values(), ids=SHOWN)
def test_every_hash_is_compared_whole_whichever_key_is_shown(
    shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(ours: bytes, theirs: bytes) -> bool:
        compared.append((ours, theirs))
        return ours == theirs

    monkeypatch.setattr(hmac, "compare_digest", compare)
    found = RING.find(shown)
    assert (found and found.name) == (shown[-4:] if shown in KEYS else None)
    digest = hashlib.sha256(shown.encode()).digest()
    assert compared == [(key.digest, digest) for key in RING]


def spread(find: Callable[[str], object]) -> float:
    """Median CPU time of the slowest kind of key by that of the fastest.

    The kinds take turns, so that whatever else goes on meets all of them.
    """
    taken_ns: dict[str, list[int]] = {kind: [] for kind in SHOWN}
    for _ in range(ROUNDS):
        for kind, shown in SHOWN.items():
            began = time.thread_time_ns()
            find(shown)
            taken_ns[kind].append(time.thread_time_ns() - began)
    medians = [statistics.median(one) for one in taken_ns.values()]
    return max(medians) / min(medians)


def test_a_lookup_takes_as_long_for_a_right_key_a_nearly_right_and_a_wrong_one() -> None:
    assert spread(RING.find) < BOUND


def stops_at_the_first_match(shown: str) -> object:
    digest = hashlib.sha256(shown.encode()).digest()
    return next((key for key in RING if hmac.compare_digest(key.digest, digest)), None)


def stops_at_the_first_difference(shown: str) -> object:
    found = None
    for key in KEYS:
        for ours, theirs in zip(key, shown, strict=True):
            if ours != theirs:
                break
        else:
            found = key
    return found


@pytest.mark.parametrize("leaky", [stops_at_the_first_match, stops_at_the_first_difference])
def test_the_measurement_finds_a_lookup_that_stops_early(leaky: Callable[[str], object]) -> None:
    assert spread(leaky) > BOUND
