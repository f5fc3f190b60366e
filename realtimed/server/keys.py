"""API keys: the file that names them, and finding one among them. Sans-IO but for reading it.

A line of the file is `name:hash` or `name:hash:max_sessions`; `hash` is the SHA-256 of the key in
64 hexadecimal digits. Empty lines and lines that begin with `#` say nothing.

SHA-256 is right for keys that are random: nobody can try out 2^256 of them, however fast each try
is. It would be wrong for passwords, which people choose among far fewer.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from realtimed.errors import ConfigError

MIN_KEY_LENGTH: Final = 16
"""In characters. What `hash-key` makes itself has 43, of 6 bits each."""

_RANDOM_BYTES: Final = 32
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HASH: Final = re.compile(r"[0-9A-Fa-f]{64}")
_COUNT: Final = re.compile(r"[1-9][0-9]{0,6}")
# What fits into an HTTP header, and so into what clients send.
_KEY: Final = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One line of the file: what is known of a key, which is not the key."""

    name: str
    """What logs call it."""
    digest: bytes
    """SHA-256 of the key, 32 bytes."""
    max_sessions: int | None = None
    """Sessions at once; `None` is as many as the daemon has."""


class Keyring:
    """The keys that may connect."""

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        self._keys = tuple(keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[ApiKey]:
        return iter(self._keys)

    def find(self, key: str) -> ApiKey | None:
        """The entry of a key that somebody shows.

        Compares with all of them, each in constant time: how long it takes tells neither whether
        there is one nor which.
        """
        digest = _digest(key)
        found = None
        for candidate in self._keys:
            if hmac.compare_digest(candidate.digest, digest):
                found = candidate
        return found


def read_keys(path: Path) -> Keyring:
    """The keys of a file. Raises: `ConfigError`, in one line that holds nothing of the file."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"Cannot read the API keys in {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"The API keys in {path} are not text in UTF-8") from error
    return Keyring(parse_keys(text, str(path)))


def parse_keys(text: str, source: str) -> tuple[ApiKey, ...]:
    """The keys that `text` names; errors name `source` and the line.

    Raises: `ConfigError` for a line of another shape, and for a name or a key that is there twice.
    """
    keys: list[ApiKey] = []
    lines_of: dict[str | bytes, int] = {}
    for number, line in enumerate(text.split("\n"), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        key = _parse_line(stripped, f"{source}, line {number}")
        for what, value in (("name", key.name), ("key", key.digest)):
            earlier = lines_of.setdefault(value, number)
            if earlier != number:
                raise ConfigError(f"{source}, line {number}: the same {what} as in line {earlier}")
        keys.append(key)
    return tuple(keys)


def _parse_line(line: str, where: str) -> ApiKey:
    """One entry. What is wrong is not shown: it may be a key that somebody forgot to hash."""
    name, *fields = line.split(":")
    if len(fields) not in (1, 2):
        raise ConfigError(
            f"{where}: expected name:hash or name:hash:max_sessions; "
            "realtimed hash-key prints such a line"
        )
    _check_name(name, where)
    if not _HASH.fullmatch(fields[0]):
        raise ConfigError(
            f"{where}: expected the SHA-256 of the key, 64 hexadecimal digits; "
            "realtimed hash-key computes it"
        )
    if len(fields) == 2 and not _COUNT.fullmatch(fields[1]):
        raise ConfigError(f"{where}: max_sessions has to be a whole number from 1 to 9999999")
    return ApiKey(name, bytes.fromhex(fields[0]), int(fields[1]) if len(fields) == 2 else None)


def _check_name(name: str, where: str) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{where}: the name takes 1 to 64 letters, digits, dots, - and _")


def generate_key() -> str:
    """A new key of 256 random bits, in characters that headers and subprotocols can carry."""
    return secrets.token_urlsafe(_RANDOM_BYTES)


def key_line(name: str, key: str, max_sessions: int | None = None) -> str:
    """The line of the file that lets `key` in.

    Raises: `ConfigError` for a key that is too short or that no header can carry, and for a name
    that no line can have.
    """
    if len(key) < MIN_KEY_LENGTH or not _KEY.fullmatch(key):
        raise ConfigError(
            f"A key takes at least {MIN_KEY_LENGTH} printable ASCII characters without spaces, "
            "chosen at random: leave it to realtimed hash-key"
        )
    _check_name(name, "hash-key")
    line = f"{name}:{_digest(key).hex()}"
    line += "" if max_sessions is None else f":{max_sessions}"
    _parse_line(line, "hash-key")
    return line


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
