"""What a client shows to a server, and what it wants to see of it: the API key, the certificate."""

import re
import ssl
from collections.abc import Callable

from realtimed.client_errors import InvalidUrl, NotReachable, Unauthorised, without_query


def authorisation(api_key: str | None) -> list[tuple[bytes, bytes]]:
    """The HTTP header that carries the key, if there is one. Raises: `Unauthorised`."""
    if not api_key:
        return []
    if not re.fullmatch(r"[\x21-\x7e]+", api_key):
        raise Unauthorised(
            "The API key holds characters that no HTTP header can carry. Expected printable"
            " ASCII without spaces: check for a stray newline.",
            status=401,
        )
    return [(b"Authorization", b"Bearer " + api_key.encode("ascii"))]


class TlsTrust(ssl.SSLContext):
    """Another context for one connection, that also tells when its handshake fails.

    trio-websocket's does not: it waits on for an upgrade that can no longer come.
    """

    on_failure: Callable[[], None]
    """Called once, when `failure` has been set."""

    def __new__(cls, context: ssl.SSLContext) -> "TlsTrust":
        """`context` does all the work and may be shared."""
        return super().__new__(cls, context.protocol)

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self.failure: ssl.SSLError | None = None

    def wrap_bio(self, *args, **kwargs) -> ssl.SSLObject:  # type: ignore[no-untyped-def]
        """As the other context does."""
        ssl_object = self._context.wrap_bio(*args, **kwargs)
        ssl_object.do_handshake = self._watched(ssl_object.do_handshake)  # type: ignore[method-assign]
        return ssl_object

    def _watched(self, do_handshake: Callable[[], None]) -> Callable[[], None]:
        def watched() -> None:
            try:
                do_handshake()
            except ssl.SSLWantReadError:
                raise
            except ssl.SSLError as error:
                self.failure = error
                self.on_failure()
                raise

        return watched


def tls_trust(
    address: str, ssl_context: ssl.SSLContext | None, ca_file: str | None
) -> TlsTrust | None:
    """How to judge the certificate at `address`; `None` for one without TLS.

    Raises: `InvalidUrl` for a choice that this address has no use for, or a file of no use.
    """
    if address.startswith("wss:"):
        return TlsTrust(ssl_context or _trusting(ca_file))
    if ssl_context is not None or ca_file is not None:
        raise InvalidUrl("Trust in a certificate was given for an address without TLS: use wss://.")
    return None


def _trusting(ca_file: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        reason = "not in PEM format" if isinstance(error, ssl.SSLError) else error.strerror
        raise InvalidUrl(f"Cannot use the certificates in {ca_file}: {reason}.") from None


def no_tls(failure: ssl.SSLError, url: str) -> NotReachable:
    """What a handshake that failed means for the user."""
    shown = without_query(url)
    if isinstance(failure, ssl.SSLCertVerificationError):
        return NotReachable(
            f"The certificate of {shown} is not trusted: {failure.verify_message.rstrip('.')}."
            " Check the host's name, or name its authority with --ca-file (ca_file)."
        )
    return NotReachable(
        f"No TLS with {shown}: {failure.reason or 'the server hung up'}."
        " Check the port, and ws:// against wss://."
    )
