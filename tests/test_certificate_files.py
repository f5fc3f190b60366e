"""The files of certificate and key: what is wrong with them is said before anything starts."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from certificates import Certificate, make_certificate
from cryptography.hazmat.primitives import serialization

from realtimed.cli import main
from realtimed.errors import ConfigError
from realtimed.server.keys import key_line
from realtimed.server.tls import ServerTls

KEY = "0123456789abcdef"


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return make_certificate(tmp_path / "tls")


def test_the_end_of_the_certificate_is_known(tmp_path: Path) -> None:
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(days=30)
    made = make_certificate(tmp_path, not_after=end)
    assert ServerTls(made.cert, made.key).not_after == end


def wrong_pairs(directory: Path) -> dict[str, tuple[Path, Path]]:
    """Pairs of files that will not do, by what the error says of them."""
    good, other = make_certificate(directory / "good"), make_certificate(directory / "other")
    now = datetime.now(UTC)
    old = make_certificate(
        directory / "old", not_before=now - timedelta(days=9), not_after=now - timedelta(days=2)
    )
    early = make_certificate(directory / "early", not_before=now + timedelta(days=2))
    text, locked = directory / "text", directory / "locked"
    text.write_text("no PEM")
    private = serialization.load_pem_private_key(good.key.read_bytes(), None)
    locked.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    missing = directory / "missing"
    return {
        "Cannot read the certificate in .*missing: No such file": (missing, good.key),
        "Cannot read the key in .*missing: No such file": (good.cert, missing),
        "holds no certificate in PEM format": (text, good.key),
        "Cannot use .*cert.pem with the key in .*text": (good.cert, text),
        "does not fit the certificate": (good.cert, other.key),
        "has a passphrase": (good.cert, locked),
        f"expired {now - timedelta(days=2):%Y-%m-%d}": (old.cert, old.key),
        f"not valid before {now + timedelta(days=2):%Y-%m-%d}": (early.cert, early.key),
    }


def test_each_way_to_be_wrong_is_one_line_at_start_and_in_check_config(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for message, (cert, key) in wrong_pairs(tmp_path).items():
        with pytest.raises(ConfigError, match=message) as error:
            ServerTls(cert, key)
        assert "\n" not in str(error.value)
        for command in ("check-config", "serve"):
            assert main([command, "--tls-cert", str(cert), "--tls-key", str(key)]) == 2
            assert f"realtimed: {error.value}" in capsys.readouterr().err.splitlines()


def test_check_config_looks_into_every_file_that_is_named(
    certificate: Certificate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = tmp_path / "keys"
    keys.write_text(key_line("alice", KEY))
    tls = ["--tls-cert", str(certificate.cert), "--tls-key", str(certificate.key)]
    assert main(["check-config", *tls, "--api-keys-file", str(keys)]) == 0
    for arguments, message in (
        (tls[:2], "tls_cert is set without tls_key"),
        (tls[2:], "tls_key is set without tls_cert"),
        (["--api-keys-file", str(tmp_path / "none")], "Cannot read the API keys"),
        (["--allowed-origins", "a.example"], "is no origin"),
    ):
        assert main(["check-config", *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
