"""Short-lived keys for clients that cannot keep one, such as web pages. Sans-IO.

A secret is random, lives in memory only, as its SHA-256, and stands for the key that asked for it:
it counts for that key's sessions and audio, and goes when that key goes.
"""

import hashlib
import secrets
from collections.abc import Container
from dataclasses import dataclass
from typing import Final

from realtimed.errors import Refusal
from realtimed.server.keys import ApiKey

PREFIX: Final = "ek_"
"""As OpenAI's ephemeral keys have it."""
_RANDOM_BYTES: Final = 32
_RETRY_AFTER_S: Final = 60


@dataclass(frozen=True, slots=True)
class _Issued:
    key: ApiKey
    expires_at: float


class ClientSecrets:
    """The secrets that are valid now."""

    def __init__(self) -> None:
        self._issued: dict[bytes, _Issued] = {}

    def __len__(self) -> int:
        return len(self._issued)

    def issue(self, key: ApiKey, expires_at: float, now: float, at_most: int) -> str:
        """A new secret for that key. Times are seconds since the epoch.

        Raises: `Refusal` 429 if `at_most` are valid already.
        """
        if len(self._issued) >= at_most:
            self._forget_expired(now)
        if len(self._issued) >= at_most:
            message = "As many client secrets are valid as may be: limits.client_secrets."
            raise Refusal(429, "too_many_secrets", message, retry_after_s=_RETRY_AFTER_S)
        secret = PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
        self._issued[_digest(secret)] = _Issued(key, expires_at)
        return secret

    def find(self, secret: str, now: float) -> ApiKey | None:
        """The key that a secret stands for, while it is valid.

        The table is asked for a digest, of which nobody can choose a part, so that how long the
        answer takes tells nothing about the secrets in it.
        """
        issued = self._issued.get(_digest(secret)) if secret.startswith(PREFIX) else None
        return issued.key if issued is not None and now < issued.expires_at else None

    def keep(self, names: Container[str]) -> None:
        """Forget the secrets of keys that are none any more."""
        kept = {d: issued for d, issued in self._issued.items() if issued.key.name in names}
        self._issued = kept

    def _forget_expired(self, now: float) -> None:
        self._issued = {d: one for d, one in self._issued.items() if now < one.expires_at}


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
