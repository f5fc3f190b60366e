"""Who may connect: origins, keys and counts, as plain decisions and over real sockets."""

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import trio
from echo_server import ask, echo_server
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from realtimed.config import Limits, Settings
from realtimed.daemon import Daemon
from realtimed.errors import ConfigError, Refusal
from realtimed.server.access import (
    AccessPolicy,
    Identity,
    is_loopback,
    normal_origin,
    offered_key,
    site,
)
from realtimed.server.handshake import Upgrade
from realtimed.server.keys import key_line, parse_keys
from realtimed.server.listener import State

ALICE, BOB = "alice-0123456789abcdef", "bob-0123456789abcdef"
HERE = "192.0.2.1"
token = st.text(st.sampled_from("abcXYZ019-._~+/="), min_size=1, max_size=40)


def upgrade(*headers: tuple[str, str], query: dict[str, list[str]] | None = None) -> Upgrade:
    raw = tuple((name.encode(), value.encode("latin-1")) for name, value in headers)
    protocols = [v for name, v in headers if name == "sec-websocket-protocol"]
    offered = tuple(part.strip() for v in protocols for part in v.split(",") if part.strip())
    return Upgrade("/v1/realtime", query or {}, raw, offered, b"")


@pytest.fixture
def keys(tmp_path: Path) -> str:
    """A file in which bob may have two sessions, alice any number."""
    path = tmp_path / "keys"
    path.write_text(f"{key_line('alice', ALICE)}\n{key_line('bob', BOB, 2)}\n")
    return str(path)


def policy(*, limits: Limits | None = None, **settings: Any) -> AccessPolicy:
    return AccessPolicy(Settings(limits=limits or Limits(), **settings))


def refused(access: AccessPolicy, *headers: tuple[str, str], **query: list[str]) -> tuple[int, str]:
    with pytest.raises(Refusal) as refusal:
        access.identify(upgrade(*headers, query=query), HERE)
    return refusal.value.status, refusal.value.code


# --- keys ----------------------------------------------------------------------------------


@given(key=token, scheme=st.sampled_from(["Bearer", "bearer", "BEARER", "bEaReR"]))
def test_a_bearer_token_is_a_key_in_any_case_of_the_scheme(key: str, scheme: str) -> None:
    assert offered_key(upgrade(("authorization", f"{scheme} {key}"))) == key
    assert offered_key(upgrade(("authorization", f"{scheme}   {key}"))) == key


@given(
    key=token,
    prefix=st.sampled_from(["openai-insecure-api-key.", "rt_"]),
    others=st.lists(st.sampled_from(["realtime", "openai-beta.realtime-v1", "x"]), max_size=3),
    at=st.integers(0, 3),
)
def test_a_subprotocol_carries_the_key_of_a_browser(
    key: str, prefix: str, others: list[str], at: int
) -> None:
    offered = [*others[:at], prefix + key, *others[at:]]
    assert offered_key(upgrade(("sec-websocket-protocol", ", ".join(offered)))) == key


def test_the_header_comes_before_the_subprotocol() -> None:
    protocol = ("sec-websocket-protocol", "realtime, rt_second")
    assert offered_key(upgrade(protocol, ("authorization", "Bearer first"))) == "first"
    assert offered_key(upgrade(protocol, ("authorization", "Basic first"))) == "second"


@pytest.mark.parametrize(
    "header",
    [
        ("authorization", "Bearer"),
        ("authorization", "Bearer "),
        ("authorization", f"Basic {ALICE}"),
        ("authorization", ALICE),
        ("api-key", ALICE),
        ("x-api-key", ALICE),
        ("sec-websocket-protocol", "realtime"),
        ("sec-websocket-protocol", "rt_"),
        ("sec-websocket-protocol", "openai-insecure-api-key."),
        ("cookie", f"api_key={ALICE}"),
    ],
)
def test_nothing_else_is_a_key(header: tuple[str, str]) -> None:
    assert offered_key(upgrade(header)) is None


@given(value=st.text(st.characters(max_codepoint=255), max_size=80))
def test_any_header_is_a_key_or_none_and_unknown(value: str) -> None:
    for name in ("authorization", "sec-websocket-protocol", "origin"):
        offered = offered_key(upgrade((name, value)))
        assert offered is None or offered in value
        normal_origin(value)


def test_a_known_key_gives_its_name_and_no_other_key_does(keys: str) -> None:
    access = policy(api_keys_file=keys)
    assert access.key_count == 2
    identity = access.identify(upgrade(("authorization", f"Bearer {BOB}")), HERE)
    assert identity.log_fields == {"key": "bob"}
    assert refused(access) == (401, "unauthorized")
    assert refused(access, ("authorization", f"Bearer {BOB}x")) == (401, "unauthorized")
    assert refused(access, ("authorization", "Bearer bob")) == (401, "unauthorized")
    assert refused(access, ("authorization", "Bearer \xe9\xff")) == (401, "unauthorized")


@pytest.mark.parametrize("name", ["api_key", "key", "token", "authorization"])
def test_a_key_in_the_query_is_not_read(keys: str, name: str) -> None:
    assert refused(policy(api_keys_file=keys), **{name: [ALICE]}) == (401, "unauthorized")


def test_without_a_file_everybody_may_connect_and_a_key_is_no_harm() -> None:
    access = policy()
    assert access.key_count is None
    assert access.identify(upgrade(), HERE) == Identity(HERE)
    assert access.identify(upgrade(("authorization", "Bearer none")), HERE).log_fields == {}


def test_a_file_without_keys_lets_nobody_in(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# none yet\n")
    access = policy(api_keys_file=str(tmp_path / "keys"))
    assert access.key_count == 0
    assert refused(access, ("authorization", f"Bearer {ALICE}")) == (401, "unauthorized")


def test_configure_takes_up_new_keys_and_a_bad_file_leaves_everything_as_it_was(keys: str) -> None:
    settings = Settings(api_keys_file=keys, allowed_origins=("https://a.example",))
    access = AccessPolicy(settings)
    with_alice = upgrade(("authorization", f"Bearer {ALICE}"), ("origin", "https://a.example"))
    session = access.identify(with_alice, HERE)
    access.begin_session(session)

    Path(keys).write_text("alice:not-a-hash\n")
    with pytest.raises(ConfigError, match="line 1"):
        access.configure(Settings(api_keys_file=keys))
    assert access.identify(with_alice, HERE).log_fields == {"key": "alice"}
    with pytest.raises(ConfigError, match="no origin"):
        access.configure(Settings(allowed_origins=("a.example",)))
    assert access.identify(with_alice, HERE).log_fields == {"key": "alice"}

    Path(keys).write_text(key_line("bob", BOB) + "\n")
    access.configure(settings)
    with pytest.raises(Refusal):
        access.identify(with_alice, HERE)
    access.end_session(session)


# --- origins -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("https://A.Example", "https://a.example"),
        ("HTTPS://a.example:443", "https://a.example"),
        ("http://a.example:80", "http://a.example"),
        ("http://a.example:443", "http://a.example:443"),
        ("https://a.example:08443", "https://a.example:8443"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("chrome-extension://abcdefg", "chrome-extension://abcdefg"),
        *((wrong, None) for wrong in ("", "null", "*", "a.example", "https://", "https://a/",
          "https://a.example/path", "https://u@a.example", "https://a.example:", "https://a b",
          "https://a.example:65536", "https://a:999999999", "https://a.example\n",
          "https://a.example, https://b.example")),
    ],
)  # fmt: skip
def test_an_origin_has_one_normal_spelling(text: str, normal: str | None) -> None:
    assert normal_origin(text) == normal


def test_no_web_page_may_connect_unless_it_is_on_the_list() -> None:
    header = ("origin", "https://a.example")
    assert refused(policy(), header) == (403, "forbidden_origin")
    access = policy(allowed_origins=("https://a.example", "http://b.example:8080"))
    access.identify(upgrade(header), HERE)
    access.identify(upgrade(("origin", "HTTP://B.example:8080")), HERE)
    for other in ("http://a.example", "https://a.example:8443", "https://www.a.example",
                  "https://a.example.evil.example", "http://b.example", "null", ""):  # fmt: skip
        assert refused(access, ("origin", other)) == (403, "forbidden_origin")
    assert refused(access, header, header) == (403, "forbidden_origin")


def test_a_star_allows_every_page_and_no_origin_is_no_page() -> None:
    access = policy(allowed_origins=("*",))
    for origin in ("https://a.example", "null"):
        access.identify(upgrade(("origin", origin)), HERE)
    policy().identify(upgrade(), HERE)


def test_a_page_that_may_connect_still_needs_a_key_and_another_is_told_of_its_origin_first(
    keys: str,
) -> None:
    access = policy(api_keys_file=keys, allowed_origins=("https://a.example",))
    assert refused(access, ("origin", "https://a.example")) == (401, "unauthorized")
    assert refused(access, ("origin", "https://b.example")) == (403, "forbidden_origin")


@pytest.mark.parametrize("wrong", ["a.example", "https://a.example/", "null", "https://*"])
def test_an_entry_that_can_match_nothing_is_an_error(wrong: str) -> None:
    with pytest.raises(ConfigError, match="allowed_origins") as error:
        policy(allowed_origins=(wrong,))
    assert "\n" not in str(error.value)


# --- addresses and counts ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::7", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_an_address_is_an_ipv4_address_or_an_ipv6_network(host: str, expected: str) -> None:
    assert site(host) == expected


def test_loopback_is_told_from_the_network() -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "127.9.9.9")] == [True] * 3
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "192.0.2.1", "")] == [False] * 4


class Counting(RuleBasedStateMachine):
    """Sessions come and go; the policy refuses exactly those that are over a limit."""

    PER_ADDRESS = 3
    ADDRESSES = ("192.0.2.1", "192.0.2.2")

    def __init__(self) -> None:
        super().__init__()
        self.access = AccessPolicy(Settings(limits=Limits(sessions_per_address=self.PER_ADDRESS)))
        self.live: list[Identity] = []

    @rule(address=st.sampled_from(ADDRESSES), name=st.sampled_from(["alice", "bob", ""]))
    def come(self, address: str, name: str) -> None:
        count = 2 if name == "bob" else None
        key = parse_keys(key_line(name, ALICE, count), "")[0] if name else None
        identity = Identity(address, key)
        addresses = Counter(one.address for one in self.live)
        names = Counter(one.key.name for one in self.live if one.key)
        full = addresses[address] >= self.PER_ADDRESS or (name == "bob" and names[name] >= 2)
        try:
            self.access.begin_session(identity)
        except Refusal as refusal:
            assert full
            assert (refusal.status, refusal.code) == (429, "too_many_sessions")
            assert refusal.retry_after_s
        else:
            assert not full
            self.live.append(identity)

    @precondition(lambda self: self.live)
    @rule(which=st.integers(0, 100))
    def go(self, which: int) -> None:
        self.access.end_session(self.live.pop(which % len(self.live)))

    @invariant()
    def nothing_is_remembered_of_those_who_left(self) -> None:
        assert len(self.access._sessions_of_address) <= len({one.address for one in self.live})
        assert len(self.access._sessions_of_key) <= len({one.key for one in self.live if one.key})


TestCounting = Counting.TestCase


def test_connections_of_one_address_are_counted_and_those_of_others_are_not() -> None:
    access = policy(limits=Limits(connections_per_address=2))
    for _ in range(2):
        access.connected(HERE)
        access.check_connections(HERE)
    access.connected(HERE)
    with pytest.raises(Refusal) as refusal:
        access.check_connections(HERE)
    assert (refusal.value.status, refusal.value.code) == (429, "too_many_connections")
    access.connected("192.0.2.2")
    access.check_connections("192.0.2.2")
    access.disconnected(HERE)
    access.check_connections(HERE)


# --- over real sockets ---------------------------------------------------------------------


async def answer(port: int, *headers: str, target: str = "/v1/realtime") -> tuple[int, bytes]:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        return await ask(stream, *headers, target=target)


@pytest.mark.parametrize("state", [State.LOADING, State.READY, State.DRAINING])
async def test_without_a_key_nothing_is_told_but_that_one_is_needed(
    keys: str, state: State
) -> None:
    async with echo_server(api_keys_file=keys, state=state) as served:
        answers = {
            await answer(served.port, target=target)
            for target in ("/v1/realtime", "/v1/realtime?model=x", "/no/such/path", "/metrics")
        }
        assert len(answers) == 1
        ((status, told),) = answers
        assert status == 401
        assert b"\r\nwww-authenticate: Bearer\r\n" in told
        assert b'"code":"unauthorized"' in told
        status, _ = await answer(served.port, f"Authorization: Bearer {ALICE}")
        assert status == (101 if state is State.READY else 503)


async def test_the_key_is_named_in_the_log_and_neither_it_nor_the_query_is_shown(
    keys: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "realtimed")
    async with echo_server(api_keys_file=keys) as served:
        target = f"/v1/realtime?api_key={ALICE}&token={BOB}"
        assert (await answer(served.port, target=target))[0] == 401
        for header in (f"Authorization: bEARER {BOB}", f"Sec-WebSocket-Protocol: x, rt_{ALICE}"):
            assert (await answer(served.port, header, target=target))[0] == 101
        names = [identity.key and identity.key.name for identity in served.server.served]
        assert names == ["bob", "alice"]
    (line,) = caplog.records
    told = vars(line)
    assert (told["status"], told["code"], told["address"]) == (401, "unauthorized", "127.0.0.1")
    for record in caplog.records:
        assert ALICE not in str(vars(record))
        assert BOB not in str(vars(record))


@pytest.mark.parametrize(
    "protocols",
    ["realtime, rt_KEY", "rt_KEY, realtime", "realtime,openai-insecure-api-key.KEY, other"],
)
async def test_a_browser_gets_the_subprotocol_realtime_and_never_its_key_back(
    keys: str, protocols: str
) -> None:
    async with echo_server(api_keys_file=keys, allowed_origins=("https://a.example",)) as served:
        header = f"Sec-WebSocket-Protocol: {protocols.replace('KEY', ALICE)}"
        status, told = await answer(served.port, header, "Origin: https://a.example")
        assert status == 101
        assert b"\r\nsec-websocket-protocol: realtime\r\n" in told
        assert ALICE.encode() not in told
        status, told = await answer(served.port, header, "Origin: https://b.example")
        assert status == 403
        assert b'"code":"forbidden_origin"' in told


async def test_a_key_has_as_many_sessions_as_its_line_says_and_gets_them_back(keys: str) -> None:
    header = f"Authorization: Bearer {BOB}"
    async with echo_server(api_keys_file=keys) as served:
        first, second, third = [
            await trio.open_tcp_stream("127.0.0.1", served.port) for _ in range(3)
        ]
        assert (await ask(first, header))[0] == 101
        assert (await ask(second, header))[0] == 101
        status, told = await ask(third, header)
        assert status == 429
        assert b'"code":"too_many_sessions"' in told
        assert b"\r\nretry-after: 5\r\n" in told
        assert (await answer(served.port, f"Authorization: Bearer {ALICE}"))[0] == 101
        await first.aclose()
        with trio.fail_after(5):
            while (await answer(served.port, header))[0] != 101:
                await trio.sleep(0.01)
        for stream in (second, third):
            await stream.aclose()


async def test_an_address_has_as_many_connections_as_the_limit_says() -> None:
    async with echo_server(Limits(connections_per_address=2)) as served:
        held = [await trio.open_tcp_stream("127.0.0.1", served.port) for _ in range(2)]
        with trio.fail_after(5):
            while served.server.connections < 2:
                await trio.sleep(0.01)
        status, told = await answer(served.port)
        assert status == 429
        assert b'"code":"too_many_connections"' in told
        for stream in held:
            await stream.aclose()
        with trio.fail_after(5):
            while (await answer(served.port))[0] != 101:
                await trio.sleep(0.01)


async def test_an_address_has_as_many_sessions_as_the_limit_says() -> None:
    async with echo_server(Limits(sessions_per_address=1)) as served:
        async with await trio.open_tcp_stream("127.0.0.1", served.port) as stream:
            assert (await ask(stream))[0] == 101
            assert (await answer(served.port))[0] == 429


# --- what the operator is told -------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "with_keys", "warning"),
    [
        ("0.0.0.0", False, "everybody who reaches this address may connect"),
        ("0.0.0.0", True, None),
        ("127.0.0.1", False, None),
        ("localhost", False, None),
    ],
)
async def test_a_daemon_that_is_open_to_the_network_says_so_once(
    keys: str, host: str, with_keys: bool, warning: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    daemon = Daemon(Settings(host=host, port=0, api_keys_file=keys if with_keys else None))
    for listener in await daemon._listen():
        await listener.aclose()
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == (warning is not None)
    assert warning is None or warnings[0].startswith(warning)
