"""Who may connect, and how often: origins, API keys, and counts per key and address. Sans-IO.

The listener counts a connection first (`connected`), asks whose upgrade it is when it has read one
(`identify`), and counts the session when everything else lets it in (`begin_session`). What says no
raises a `Refusal`.
"""

import ipaddress
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from realtimed.config import Limits, Settings
from realtimed.errors import ConfigError, Refusal
from realtimed.server.client_secrets import ClientSecrets
from realtimed.server.handshake import Upgrade
from realtimed.server.keys import ApiKey, Keyring, read_keys
from realtimed.server.pacing import KeyBudget, KeyShare

ANY_ORIGIN: Final = "*"
_ORIGIN: Final = re.compile(
    r"([a-z][a-z0-9+.-]*)://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{1,5}))?"
)
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
# Browsers can send no header of their own, so OpenAI's and Mistral's SDKs put the key here.
_KEY_PROTOCOLS: Final = ("openai-insecure-api-key.", "rt_")
_RETRY_AFTER_S: Final = 5
# No hash is all zeros, so nobody can show this key itself; only secrets stand for it.
_ADMINISTRATOR: Final = ApiKey("admin", bytes(32))
_IPV6_SITE_BITS: Final = 64


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose connection it is."""

    address: str
    """The client's, as `site` has it."""
    key: ApiKey | None = None
    """`None` where no key is asked for."""

    @property
    def log_fields(self) -> dict[str, str]:
        """What log lines say of it: the name of its key."""
        return {"key": self.key.name} if self.key else {}


class AccessPolicy:
    """Decides about one daemon's connections and sessions, and counts them."""

    _origins: frozenset[str]
    _keys: Keyring | None
    _budgets: dict[str, KeyBudget]
    _limits: Limits

    def __init__(self, settings: Settings) -> None:
        """Raises: `ConfigError`, as `prepare`."""
        self._connections: Counter[str] = Counter()
        self._sessions_of_key: Counter[str] = Counter()
        self._sessions_of_address: Counter[str] = Counter()
        self._secrets = ClientSecrets()
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        """Take up what the settings say now; `prepare` and what it returns, in one."""
        self.prepare(settings)()

    def prepare(self, settings: Settings) -> Callable[[], None]:
        """Read what the settings say now, the file of keys included; the result takes it up.

        For what comes from then on: sessions that are there stay, and stay counted.

        Raises: `ConfigError`; what is returned raises nothing.
        """
        origins = frozenset(map(_allowed, settings.allowed_origins))
        keys = read_keys(Path(settings.api_keys_file)) if settings.api_keys_file else None

        def take_up() -> None:
            self._origins, self._keys, self._limits = origins, keys, settings.limits
            self._budgets = {}
            self._secrets.keep({_ADMINISTRATOR.name, *(key.name for key in keys or ())})

        return take_up

    @property
    def key_count(self) -> int | None:
        """How many keys may connect; `None` if everybody may."""
        return None if self._keys is None else len(self._keys)

    # --- connections ----------------------------------------------------------------------

    def connected(self, address: str) -> None:
        """Count a TCP connection of that address (see `site`), admitted or not."""
        self._connections[address] += 1

    def disconnected(self, address: str) -> None:
        """The counterpart of `connected`."""
        _decrement(self._connections, address)

    def check_connections(self, address: str) -> None:
        """Raises: `Refusal` 429 if that address has more connections than it may."""
        if 0 < self._limits.connections_per_address < self._connections[address]:
            message = "Too many connections from this address."
            raise Refusal(429, "too_many_connections", message, retry_after_s=_RETRY_AFTER_S)

    # --- upgrades -------------------------------------------------------------------------

    def identify(self, upgrade: Upgrade, address: str) -> Identity:
        """Whose upgrade it is, judged by nothing but what it says of itself.

        Raises: `Refusal`: 403 for a web page that may not connect, 401 without a known key.
        """
        self._check_origin(upgrade.values(b"origin"))
        if self._keys is None:
            return Identity(address)
        offered = offered_key(upgrade)
        if offered is None:
            message = "An API key is needed: Authorization: Bearer KEY."
            raise Refusal(401, "unauthorized", message)
        key = self._keys.find(offered) or self._secrets.find(offered, time.time())
        if key is None:
            raise _unknown_key()
        return Identity(address, key)

    def issue_secret(self, shown_key: str | None, expires_at: float) -> str:
        """A client secret for who shows this API key; without one it is the administrator's.

        `expires_at`: seconds since the epoch.

        Raises: `Refusal`: 401 for an unknown key, 429 if there are as many secrets as may be.
        """
        key: ApiKey | None = _ADMINISTRATOR
        if shown_key is not None:
            key = self._keys.find(shown_key) if self._keys is not None else None
            if key is None:
                raise _unknown_key()
        assert key is not None
        return self._secrets.issue(key, expires_at, time.time(), self._limits.client_secrets)

    def _check_origin(self, origins: tuple[str, ...]) -> None:
        """Browsers always send one and let no script change it; other clients need none."""
        if not origins or ANY_ORIGIN in self._origins:
            return
        if len(origins) > 1 or normal_origin(origins[0]) not in self._origins:
            message = "This web page may not connect: its origin is not among allowed_origins."
            raise Refusal(403, "forbidden_origin", message)

    # --- sessions -------------------------------------------------------------------------

    def begin_session(self, identity: Identity) -> None:
        """Count a session.

        Raises: `Refusal` 429 if its key or its address has as many as it may; nothing is counted
        then.
        """
        key, address = identity.key, identity.address
        if key and key.max_sessions and self._sessions_of_key[key.name] >= key.max_sessions:
            raise _too_many_sessions(f"This API key has all of its {key.max_sessions} sessions.")
        if 0 < self._limits.sessions_per_address <= self._sessions_of_address[address]:
            raise _too_many_sessions("This address has as many sessions as one may have.")
        self._sessions_of_address[address] += 1
        if key:
            self._sessions_of_key[key.name] += 1

    def end_session(self, identity: Identity) -> None:
        """The counterpart of a `begin_session` that raised nothing."""
        _decrement(self._sessions_of_address, identity.address)
        if identity.key:
            _decrement(self._sessions_of_key, identity.key.name)

    @contextmanager
    def key_share(self, identity: Identity, now: float) -> Iterator[KeyShare | None]:
        """The share of a session that begins at time `now` in the audio that its key may bring.

        `None` if that has no limit. A key keeps its budget between sessions, or each new one would
        begin with a full bucket.
        """
        limits, key = self._limits, identity.key
        if key is None or not limits.rate or not limits.key_rate:
            yield None
            return
        if key.name not in self._budgets:
            self._budgets[key.name] = KeyBudget(limits)
        with self._budgets[key.name].share(now) as share:
            yield share


def site(host: str) -> str:
    """What counts as one address: of IPv6 the /64 network, all of which one client has."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((address, _IPV6_SITE_BITS), strict=False))


def is_loopback(host: str) -> bool:
    """Whether an address reaches no further than this machine."""
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def offered_key(upgrade: Upgrade) -> str | None:
    """The key that an upgrade shows: a bearer token (RFC 6750), else a subprotocol.

    A key in the query is none: addresses end up in logs and histories.
    """
    for value in upgrade.values(b"authorization"):
        scheme, _, token = value.partition(" ")
        if scheme.lower() == "bearer" and token.strip():
            return token.strip()
    for protocol in upgrade.subprotocols:
        for prefix in _KEY_PROTOCOLS:
            if protocol.startswith(prefix) and protocol != prefix:
                return protocol.removeprefix(prefix)
    return None


def normal_origin(text: str) -> str | None:
    """An origin (RFC 6454) in the spelling that all its spellings share; `None` if it is none.

    Schemes and hosts have no case, and a scheme's default port goes without saying. `null`, the
    origin of a page that has none to show, is none.
    """
    match = _ORIGIN.fullmatch(text.lower())
    if match is None:
        return None
    scheme, host, port = match.groups()
    if port is None or int(port) == _DEFAULT_PORTS.get(scheme):
        return f"{scheme}://{host}"
    return f"{scheme}://{host}:{int(port)}" if int(port) < 65_536 else None


def _allowed(text: str) -> str:
    origin = text if text == ANY_ORIGIN else normal_origin(text)
    if origin is None:
        shown = "".join(c for c in text[:60] if c.isprintable())
        raise ConfigError(
            f'allowed_origins: "{shown}" is no origin; '
            "expected scheme://host or scheme://host:port without a path, or *"
        )
    return origin


def _decrement(counter: Counter[str], name: str) -> None:
    """Count one less, and forget what has come to nothing: addresses have no bound."""
    counter[name] -= 1
    if counter[name] <= 0:
        del counter[name]


def _unknown_key() -> Refusal:
    return Refusal(401, "unauthorized", "The API key is not known here.")


def _too_many_sessions(message: str) -> Refusal:
    return Refusal(429, "too_many_sessions", message, retry_after_s=_RETRY_AFTER_S)
