"""API keys: the file, finding one among them, and the command that makes them."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtimed.errors import ConfigError
from realtimed.server.keys import ApiKey, Keyring, generate_key, key_line, parse_keys, read_keys

names = st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True)
keys = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=16, max_size=80)
counts = st.none() | st.integers(1, 9_999_999)
entries = st.lists(
    st.tuples(names, keys, counts),
    unique_by=(lambda entry: entry[0], lambda entry: entry[1]),
    max_size=8,
)
noise = st.sampled_from(["", "   ", "# a comment", "  # name:hash", "\t"])
HASH = hashlib.sha256(b"0123456789abcdef").hexdigest()


@given(entries=entries, between=st.lists(noise, max_size=4), ending=st.sampled_from(["\n", "\r\n"]))
def test_lines_of_hash_key_come_back_whatever_stands_between_them(
    entries: list[tuple[str, str, int | None]], between: list[str], ending: str
) -> None:
    lines = [line for entry in entries for line in (*between, f"  {key_line(*entry)}  ")]
    parsed = parse_keys(ending.join(lines), "keys")
    assert [(key.name, key.max_sessions) for key in parsed] == [(n, c) for n, _, c in entries]
    ring = Keyring(parsed)
    assert [ring.find(key) for _, key, _ in entries] == list(parsed)
    assert ring.find(generate_key()) is None
    assert len(ring) == len(entries)


@given(text=st.text(max_size=200))
def test_any_text_is_keys_or_one_line_of_error_with_its_number(text: str) -> None:
    try:
        parsed = parse_keys(text, "keys")
    except ConfigError as error:
        assert str(error).startswith("keys, line ")
        assert "\n" not in str(error)
    else:
        assert all(isinstance(key, ApiKey) for key in parsed)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("alice", "expected name:hash"),
        (f"alice:{HASH}:1:2", "expected name:hash"),
        (f":{HASH}", "the name"),
        (f"al ice:{HASH}", "the name"),
        (f"{'a' * 65}:{HASH}", "the name"),
        ("alice:sk-secret-forgotten-to-hash", "SHA-256"),
        (f"alice:{HASH[:-1]}", "SHA-256"),
        (f"alice:{HASH}:", "max_sessions"),
        (f"alice:{HASH}:0", "max_sessions"),
        (f"alice:{HASH}:-1", "max_sessions"),
        (f"alice:{HASH}:many", "max_sessions"),
        (f"alice:{HASH} # comment", "SHA-256"),
        (f"alice:{HASH}\nALICE:{HASH}", "the same key as in line 2"),
        (f"alice:{HASH}\nalice:{'0' * 64}", "the same name as in line 2"),
    ],
)
def test_a_wrong_line_is_named_by_its_number_and_never_shown(line: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        parse_keys(f"# keys\n{line}", "keys")
    assert f"keys, line {2 + line.count(chr(10))}: " in str(error.value)
    assert "secret" not in str(error.value)
    assert HASH not in str(error.value)


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Cannot read .*missing: No such file"):
        read_keys(tmp_path / "missing")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not text in UTF-8"):
        read_keys(tmp_path / "binary")


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "keys").write_bytes(b"\xef\xbb\xbf" + f"alice:{HASH}".encode())
    assert len(read_keys(tmp_path / "keys")) == 1


# --- the command ---------------------------------------------------------------------------


def hash_key(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "realtimed", "hash-key", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60)


def test_hash_key_makes_a_key_that_the_line_on_stdout_lets_in() -> None:
    run = hash_key("alice", "--max-sessions", "3")
    assert run.returncode == 0, run.stderr
    key = run.stderr.strip().rpartition(" ")[2]
    assert len(key) == 43
    (entry,) = parse_keys(run.stdout, "stdout")
    assert (entry.name, entry.max_sessions) == ("alice", 3)
    assert Keyring([entry]).find(key) == entry
    assert key not in run.stdout


def test_hash_key_takes_a_key_of_your_own_from_stdin_and_does_not_show_it() -> None:
    run = hash_key("--stdin", stdin="0123456789abcdef\n")
    assert (run.returncode, run.stdout, run.stderr) == (0, f"default:{HASH}\n", "")


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        (["--stdin"], "0123456789abcde\n", "at least 16"),
        (["--stdin"], "", "at least 16"),
        (["--stdin"], "0123456789 abcdef\n", "without spaces"),
        (["--stdin"], "0123456789äbcdef\n", "ASCII"),
        (["al:ice"], "", "the name"),
        (["alice", "--max-sessions", "0"], "", "max_sessions"),
    ],
)
def test_hash_key_refuses_what_would_not_work_or_not_protect(
    arguments: list[str], stdin: str, message: str
) -> None:
    run = hash_key(*arguments, stdin=stdin)
    assert run.returncode == 2
    assert run.stdout == ""
    assert message in run.stderr
    assert run.stderr.count("\n") == 1
