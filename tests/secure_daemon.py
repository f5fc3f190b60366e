"""A daemon that speaks TLS only, asks for keys, and lets one web page in."""

from dataclasses import dataclass
from pathlib import Path

from certificates import Certificate, make_certificate
from daemon_process import DaemonProcess

from realtimed.server.keys import generate_key, key_line

ORIGIN = "https://app.example"


@dataclass(frozen=True)
class SecureDaemon:
    """The process, and what a client has to know to be let in."""

    process: DaemonProcess
    certificate: Certificate
    key: str
    """One that may connect, called `alice` in the log."""
    single_key: str
    """One with a single session, called `bob`."""

    @property
    def host(self) -> str:
        """Name and port, as the certificate has the name."""
        return f"localhost:{self.process.port}"

    @property
    def url(self) -> str:
        return f"wss://{self.host}"

    @property
    def https_url(self) -> str:
        return f"https://{self.host}"


def start_secure_daemon(directory: Path, *more_flags: str) -> SecureDaemon:
    """Start one, with its files in `directory`, and wait until it is ready."""
    certificate = make_certificate(directory)
    alice, bob = generate_key(), generate_key()
    keys = directory / "keys"
    keys.write_text(f"# who may connect\n{key_line('alice', alice)}\n{key_line('bob', bob, 1)}\n")
    flags = ["--tls-cert", str(certificate.cert), "--tls-key", str(certificate.key)]
    flags += ["--api-keys-file", str(keys), "--allowed-origins", ORIGIN]
    return SecureDaemon(DaemonProcess(*flags, *more_flags).wait_ready(), certificate, alice, bob)
