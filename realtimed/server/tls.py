"""TLS for the listener: the certificate, checked before it is shown, and the handshake."""

import logging
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NoReturn

import trio
from cryptography import x509

from realtimed.config import Settings
from realtimed.errors import ConfigError

log = logging.getLogger("realtimed.server")

SecureStream = trio.SSLStream[trio.SocketStream]

# Not the reason but the lack of one: the peer just left.
_PEER_LEFT: Final = (ssl.SSLEOFError, ssl.SSLZeroReturnError)


class ServerTls:
    """The certificate that new connections see, and how they get to see it."""

    not_after: datetime
    """When the certificate expires, in UTC."""

    def __init__(self, cert: Path, key: Path) -> None:
        """Read a certificate with the chain behind it, and its private key without a passphrase.

        Both are PEM files. Another certificate is another `ServerTls`: one context keeps one for
        each kind of key, and would go on to show an old ECDSA certificate beside a new RSA one.

        Raises: `ConfigError` for files that cannot be read, that do not fit together, or whose
        certificate is not valid now.
        """
        self.not_after = _check_dates(cert)
        self._context = _context(cert, key)

    async def handshake(
        self, transport: trio.SocketStream, timeout_s: float
    ) -> SecureStream | None:
        """Agree on keys with a peer; `None` if that takes longer.

        Closing the stream says so to the peer (close_notify) and does not wait for its answer.

        Raises: `trio.BrokenResourceError` if the peer speaks no TLS, does not want this
        certificate, or has left.
        """
        stream = trio.SSLStream(transport, self._context, server_side=True)
        try:
            with trio.move_on_after(timeout_s):
                await stream.do_handshake()
                return stream
        except trio.BrokenResourceError as error:
            cause = error.__cause__
            if isinstance(cause, ssl.SSLError) and not isinstance(cause, _PEER_LEFT):
                log.info("TLS handshake failed", extra={"reason": cause.reason})
            raise
        return None


def server_tls(settings: Settings) -> ServerTls | None:
    """What the settings ask for; `None` for plain TCP. Raises: `ConfigError`, as `ServerTls`."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return ServerTls(Path(settings.tls_cert), Path(settings.tls_key))


def _check_dates(cert: Path) -> datetime:
    """When the certificate expires. Raises: `ConfigError` if it is not valid now."""
    try:
        leaf = x509.load_pem_x509_certificates(cert.read_bytes())[0]
    except OSError as error:
        raise ConfigError(f"Cannot read the certificate in {cert}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{cert} holds no certificate in PEM format") from error
    now = datetime.now(UTC)
    if leaf.not_valid_after_utc <= now:
        raise ConfigError(f"The certificate in {cert} expired {_shown(leaf.not_valid_after_utc)}")
    if leaf.not_valid_before_utc > now:
        begins = _shown(leaf.not_valid_before_utc)
        raise ConfigError(
            f"The certificate in {cert} is not valid before {begins}: look at the clock"
        )
    return leaf.not_valid_after_utc


def _shown(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _context(cert: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # One handshake a connection: those after it would be work at no cost for who asks for it.
    context.options |= ssl.OP_NO_RENEGOTIATION
    # WebSocket over HTTP/2 is another protocol (RFC 8441); browsers that offer both take this.
    context.set_alpn_protocols(["http/1.1"])

    def no_passphrase() -> NoReturn:
        raise ConfigError(f"The key in {key} has a passphrase: a daemon needs one without")

    try:
        key.read_bytes()
        context.load_cert_chain(cert, key, password=no_passphrase)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(f"The key in {key} does not fit the certificate in {cert}") from error
        reason = error.reason or "no key in PEM format"
        raise ConfigError(f"Cannot use {cert} with the key in {key}: {reason}") from error
    except OSError as error:
        raise ConfigError(f"Cannot read the key in {key}: {error.strerror}") from error
    return context
