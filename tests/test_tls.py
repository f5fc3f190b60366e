"""TLS of the listener over real sockets: the handshake, its bounds, and the certificate."""

import logging
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.lowlevel
import trustme
from certificates import Certificate, make_certificate
from cryptography import x509
from echo_server import Served, ask, echo_server
from trio_websocket import open_websocket_url

from realtimed.client import InvalidUrl, NotReachable, Refused, connect
from realtimed.config import Limits
from realtimed.server.keys import key_line
from realtimed.server.tls import ServerTls

KEY = "0123456789abcdef"


@pytest.fixture(autouse=True)
async def _deadline() -> AsyncIterator[None]:
    with trio.fail_after(30):
        yield


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"))


def trusting(certificate: Certificate) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate.ca))


async def dial(
    served: Served, context: ssl.SSLContext, *, https_compatible: bool = False
) -> trio.SSLStream[trio.SocketStream]:
    """A TLS connection after its handshake; by default one that insists on close_notify."""
    stream = await trio.open_ssl_over_tcp_stream(
        "localhost", served.port, ssl_context=context, https_compatible=https_compatible
    )
    try:
        await stream.do_handshake()
    except trio.BrokenResourceError:
        await trio.aclose_forcefully(stream)
        raise
    return stream


async def serial_number(served: Served, context: ssl.SSLContext) -> int:
    async with await dial(served, context) as stream:
        shown = x509.load_der_x509_certificate(stream.getpeercert(binary_form=True))
        assert (await ask(stream))[0] == 101
    return shown.serial_number


# --- the handshake -------------------------------------------------------------------------


async def test_an_upgrade_over_tls_is_answered_and_messages_come_back(
    certificate: Certificate,
) -> None:
    async with echo_server(**certificate.settings) as served:
        async with await dial(served, trusting(certificate)) as stream:
            assert stream.version() == "TLSv1.3"
            assert (await ask(stream))[0] == 101
            # A masked text frame with a mask of zeros, and its echo.
            await stream.send_all(b"\x81\x82\x00\x00\x00\x00hi")
            assert await stream.receive_some() == b"\x81\x02hi"


async def test_a_close_is_told_by_tls_too_so_that_nobody_need_fear_a_cut(
    certificate: Certificate,
) -> None:
    async with echo_server(**certificate.settings) as served:
        stream = await dial(served, trusting(certificate))
        assert (await ask(stream))[0] == 101
        await stream.send_all(b"\x88\x82\x00\x00\x00\x00\x03\xe8")
        answer = b""
        # Without close_notify this stream would raise instead of ending.
        while data := await stream.receive_some():
            answer += data
        assert answer == b"\x88\x02\x03\xe8"


async def test_large_messages_pass_both_ways_at_once(certificate: Certificate) -> None:
    message = bytes(range(256)) * 8_192
    async with echo_server(**certificate.settings) as served:
        async with open_websocket_url(
            served.url, trusting(certificate), max_message_size=len(message)
        ) as socket:

            async def send() -> None:
                for _ in range(4):
                    await socket.send_message(message)

            async with trio.open_nursery() as nursery:  # ends when all four are back
                nursery.start_soon(send)
                for _ in range(4):
                    assert await socket.get_message() == message


async def test_a_peer_that_vanishes_in_a_session_is_no_error(
    certificate: Certificate, caplog: pytest.LogCaptureFixture
) -> None:
    async with echo_server(**certificate.settings) as served:
        stream = await dial(served, trusting(certificate))
        assert (await ask(stream))[0] == 101
        await stream.send_all(b"\x81\x82\x00\x00\x00\x00h")
        await stream.transport_stream.aclose()
        await no_connections(served)
    assert caplog.records == []


async def test_refusals_arrive_whole_over_tls(certificate: Certificate) -> None:
    async with echo_server(**certificate.settings) as served:
        async with await dial(served, trusting(certificate)) as stream:
            status, told = await ask(stream, target="/nowhere")
            assert status == 404
            assert told.endswith(b'"code":"not_found"}\n')


async def test_tls_1_1_and_plain_http_are_refused_and_the_log_says_so(
    certificate: Certificate, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "realtimed")
    old = trusting(certificate)
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.deprecated_call():
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    async with echo_server(**certificate.settings) as served:
        with pytest.raises(trio.BrokenResourceError):
            await dial(served, old)
        async with await trio.open_tcp_stream("127.0.0.1", served.port) as stream:
            await stream.send_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            while await stream.receive_some():
                pass
        await no_connections(served)
    reasons = [vars(record)["reason"] for record in caplog.records]
    assert reasons == ["UNSUPPORTED_PROTOCOL", "HTTP_REQUEST"]


async def test_a_peer_that_connects_and_leaves_is_not_worth_a_line(
    certificate: Certificate, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "realtimed")
    async with echo_server(**certificate.settings) as served:
        await (await trio.open_tcp_stream("127.0.0.1", served.port)).aclose()
        await no_connections(served)
    assert caplog.records == []


async def no_connections(served: Served) -> None:
    """Wait until the server has noticed that they are gone."""
    await trio.lowlevel.checkpoint()
    while served.server.connections:
        await trio.sleep(0.01)


# --- its bounds ----------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00\x01\x00"])
async def test_half_a_tls_handshake_ends_at_its_own_deadline(
    certificate: Certificate, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    limits = Limits(handshake_s=20, tls_handshake_s=0.2)
    async with echo_server(limits, **certificate.settings) as served:
        async with await trio.open_tcp_stream("127.0.0.1", served.port) as stream:
            await stream.send_all(sent)
            with trio.fail_after(10):
                assert await stream.receive_some() == b""
        await no_connections(served)
    assert caplog.records == [], "what a peer does or does not do is no error of the daemon"


async def test_the_tls_handshake_is_within_the_budget_of_the_whole_handshake(
    certificate: Certificate,
) -> None:
    limits = Limits(handshake_s=0.3, tls_handshake_s=20)
    async with echo_server(limits, **certificate.settings) as served:
        async with await trio.open_tcp_stream("127.0.0.1", served.port) as stream:
            with trio.fail_after(10):
                assert await stream.receive_some() == b""
        # After TLS the rest of the budget is for the upgrade.
        async with await dial(served, trusting(certificate), https_compatible=True) as stream:
            with trio.fail_after(10):
                assert await stream.receive_some() == b""


async def test_half_open_connections_are_counted_and_the_one_too_many_costs_no_handshake(
    certificate: Certificate, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "realtimed")
    async with echo_server(Limits(connections=3), **certificate.settings) as served:
        held = [await trio.open_tcp_stream("127.0.0.1", served.port) for _ in range(3)]
        while served.server.connections < 3:
            await trio.sleep(0.01)
        with pytest.raises(trio.BrokenResourceError):
            await dial(served, trusting(certificate))
        assert [vars(record)["code"] for record in caplog.records] == ["too_many_connections"]
        for stream in held:
            await stream.aclose()
        await no_connections(served)
        assert await serial_number(served, trusting(certificate))


# --- the certificate -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", [trustme.KeyType.ECDSA, trustme.KeyType.RSA])
async def test_another_certificate_is_shown_to_new_connections_only(
    certificate: Certificate, tmp_path: Path, kind: trustme.KeyType
) -> None:
    renewed = make_certificate(tmp_path / "new", kind=kind)
    async with echo_server(**certificate.settings) as served:
        before = await serial_number(served, trusting(certificate))
        async with await dial(served, trusting(certificate)) as old:
            assert (await ask(old))[0] == 101
            served.server.tls = ServerTls(renewed.cert, renewed.key)
            assert await serial_number(served, trusting(renewed)) != before
            await old.send_all(b"\x81\x82\x00\x00\x00\x00hi")
            assert await old.receive_some() == b"\x81\x02hi"
        with pytest.raises(trio.BrokenResourceError):
            await dial(served, trusting(certificate))


# --- the client ----------------------------------------------------------------------------


async def test_the_client_trusts_the_file_it_is_given(certificate: Certificate) -> None:
    async with echo_server(**certificate.settings) as served:
        # The echo greets nobody, so a client that is through TLS waits for its greeting.
        with pytest.raises(NotReachable, match="has said nothing"):
            async with connect(served.url, ca_file=str(certificate.ca), connect_timeout_s=0.5):
                pass
        assert len(served.server.served) == 1


async def test_the_client_says_that_a_certificate_is_not_trusted(certificate: Certificate) -> None:
    async with echo_server(**certificate.settings) as served:
        with pytest.raises(NotReachable, match=r"not trusted.*--ca-file") as error:
            async with connect(served.url):
                pass
        assert "\n" not in str(error.value)
        assert served.server.served == []


@pytest.mark.parametrize("speaks_tls", [True, False])
async def test_the_client_says_that_tls_meets_none(
    certificate: Certificate, speaks_tls: bool
) -> None:
    async with echo_server(**certificate.settings if speaks_tls else {}) as served:
        other = "ws" if speaks_tls else "wss"
        with trio.fail_after(5), pytest.raises(NotReachable, match="against wss://") as error:
            async with connect(f"{other}://localhost:{served.port}", connect_timeout_s=0.5):
                pass
        assert "\n" not in str(error.value)


async def test_the_client_is_told_of_a_missing_key_over_tls(
    certificate: Certificate, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text(key_line("alice", KEY))
    async with echo_server(**certificate.settings, api_keys_file=str(keys)) as served:
        with pytest.raises(Refused, match="HTTP 401"):
            async with connect(served.url, ca_file=str(certificate.ca)):
                pass


@pytest.mark.parametrize(
    ("url", "name", "message"),
    [
        ("ws://localhost", "ca.pem", "use wss://"),
        ("wss://localhost", "missing", "No such file"),
        ("wss://localhost", "text", "not in PEM format"),
    ],
)
async def test_a_file_of_no_use_is_said_before_dialling(
    certificate: Certificate, url: str, name: str, message: str
) -> None:
    (certificate.ca.parent / "text").write_text("no PEM")
    with pytest.raises(InvalidUrl, match=message):
        async with connect(url, ca_file=str(certificate.ca.parent / name)):
            pass
