"""Certificates for the tests, from an authority of their own."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import trustme

HOSTS = ("localhost", "127.0.0.1")


@dataclass(frozen=True)
class Certificate:
    """PEM files: a certificate for this machine, its key, and the authority to trust."""

    cert: Path
    key: Path
    ca: Path

    @property
    def settings(self) -> dict[str, str]:
        return {"tls_cert": str(self.cert), "tls_key": str(self.key)}


def make_certificate(
    directory: Path,
    *,
    not_before: datetime | None = None,
    not_after: datetime | None = None,
    kind: Any = trustme.KeyType.ECDSA,
) -> Certificate:
    """Write one into `directory`, which is made."""
    directory.mkdir(parents=True, exist_ok=True)
    made = Certificate(directory / "cert.pem", directory / "key.pem", directory / "ca.pem")
    authority = trustme.CA(key_type=kind)
    server = authority.issue_cert(*HOSTS, not_before=not_before, not_after=not_after, key_type=kind)
    chain = b"".join(blob.bytes() for blob in server.cert_chain_pems)
    made.cert.write_bytes(chain)
    made.key.write_bytes(server.private_key_pem.bytes())
    authority.cert_pem.write_to_path(str(made.ca))
    return made
