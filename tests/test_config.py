"""Settings from a file, the environment and flags."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtimed import config
from realtimed.config import Limits, Settings, flag_name, load
from realtimed.errors import ConfigError
from realtimed.flags import settings_from_serve_args

OPTIONS = config.options()
LIMITS = [key for key in OPTIONS if key.startswith("limits.")]


def serve(*argv: str, **environ: str) -> Settings:
    return settings_from_serve_args(argv, environ)


def from_file(directory: Path, text: str, *argv: str, **environ: str) -> Settings:
    path = directory / "realtimed.toml"
    path.write_text(text, encoding="utf-8")
    return settings_from_serve_args(["--config", str(path), *argv], environ)


def message_of(error: pytest.ExceptionInfo[ConfigError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    assert message.isprintable()
    assert len(message) < 400
    return message


def env_name(key: str) -> str:
    return "REALTIMED_" + key.replace(".", "_").upper()


def value_of(settings: Settings, key: str) -> object:
    section, _, name = key.rpartition(".")
    return getattr(getattr(settings, section) if section else settings, name)


# --- values and where they come from -------------------------------------------------------


def test_nothing_set_gives_the_defaults() -> None:
    assert serve() == Settings()
    assert Settings().port == 8000
    assert Settings().limits == Limits(ring_s=30.0, message_bytes=16 * 2**20)


@pytest.mark.parametrize("key", LIMITS)
def test_every_limit_is_reachable_from_every_source(key: str, tmp_path: Path) -> None:
    name = key.removeprefix("limits.")
    assert value_of(from_file(tmp_path, f"[limits]\n{name} = 7"), key) == 7
    assert value_of(serve(**{env_name(key): "7"}), key) == 7
    assert value_of(serve(flag_name(key), "7"), key) == 7


def test_flags_win_over_the_environment_which_wins_over_the_file(tmp_path: Path) -> None:
    text = """
        host = "file"
        port = 1
        log_level = "error"
        [limits]
        ring_s = 1
        [engine]
        max_num_seqs = 1
        dtype = "float32"
    """
    environ = {"REALTIMED_PORT": "2", "REALTIMED_HOST": "environment"}
    environ |= {"REALTIMED_LIMITS_RING_S": "2", "REALTIMED_ENGINE_MAX_NUM_SEQS": "2"}
    flags = ["--port", "3", "--limits.ring-s", "3", "--engine.max-num-seqs", "3"]
    settings = from_file(tmp_path, text, *flags, **environ)
    assert (settings.log_level, settings.host, settings.port) == ("error", "environment", 3)
    assert settings.limits.ring_s == 3.0
    assert settings.engine == {"max_num_seqs": "3", "dtype": "float32"}


def test_the_environment_names_the_file_and_a_flag_names_another(tmp_path: Path) -> None:
    first, second = tmp_path / "first.toml", tmp_path / "second.toml"
    first.write_text("port = 1")
    second.write_text("port = 2")
    assert serve(REALTIMED_CONFIG=str(first)).port == 1
    assert serve("--config", str(second), REALTIMED_CONFIG=str(first)).port == 2


def test_served_names_are_a_list_in_toml_and_flags_and_commas_in_the_environment(
    tmp_path: Path,
) -> None:
    names = ("a", "b")
    assert from_file(tmp_path, 'served-model-name = ["a", "b"]').served_model_name == names
    assert serve(REALTIMED_SERVED_MODEL_NAME="a, b").served_model_name == names
    assert serve("--served-model-name", "a", "b").served_model_name == names
    assert from_file(tmp_path, 'served_model_name = "a"').served_model_name == ("a",)


def test_allowed_origins_are_a_list_in_the_same_ways(tmp_path: Path) -> None:
    origins = ("https://a.example", "http://b.example:81")
    text = 'allowed_origins = ["https://a.example", "http://b.example:81"]'
    assert from_file(tmp_path, text).allowed_origins == origins
    environ = {"REALTIMED_ALLOWED_ORIGINS": "https://a.example, http://b.example:81"}
    assert serve(**environ).allowed_origins == origins
    assert serve("--allowed-origins", *origins).allowed_origins == origins


@pytest.mark.parametrize(("one", "other"), [("tls_cert", "tls_key"), ("tls_key", "tls_cert")])
def test_certificate_and_key_come_together_from_wherever(one: str, other: str) -> None:
    with pytest.raises(ConfigError, match=f"{one} is set without {other}") as error:
        serve(flag_name(one), "x.pem")
    message_of(error)
    both = serve(flag_name(one), "x.pem", **{env_name(other): "y.pem"})
    assert (value_of(both, one), value_of(both, other)) == ("x.pem", "y.pem")


def test_variables_of_the_client_and_empty_ones_are_ignored() -> None:
    assert serve(REALTIMED_URL="ws://x", REALTIMED_API_KEY="secret", REALTIMED_PORT="") == serve()


def test_the_example_file_is_valid_and_shows_the_defaults(tmp_path: Path) -> None:
    example = Path(__file__).parent.parent / "conf" / "realtimed.toml"
    text = example.read_text(encoding="utf-8")
    assert from_file(tmp_path, text) == Settings()
    shown = "\n".join(line.removeprefix("# ") for line in text.splitlines() if " = " in line)
    shown = shown.replace("ring_s", "[limits]\nring_s").replace("max_model", "[engine]\nmax_model")
    settings = from_file(tmp_path, shown)
    assert settings.limits == Limits()
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert all(f"{name.removeprefix('limits.')} = " in text for name in OPTIONS)


# --- engine arguments ----------------------------------------------------------------------


def test_engine_flags_take_no_one_or_several_values_and_leave_the_rest_alone() -> None:
    settings = serve(
        "some/model",
        "--engine.enforce-eager",
        "--engine.max-model-len",
        "8192",
        "--engine.limit=-1",
        "--engine.names",
        "a",
        "b",
        "--port",
        "9",
    )
    assert settings.model == "some/model"
    assert settings.port == 9
    assert settings.engine == {
        "enforce_eager": True,
        "max_model_len": "8192",
        "limit": "-1",
        "names": ["a", "b"],
    }


def test_engine_values_of_the_file_keep_their_types(tmp_path: Path) -> None:
    text = '[engine]\nmax-model-len = 8192\nenforce_eager = true\nhf_overrides = {a = [1.5, "x"]}'
    assert from_file(tmp_path, text).engine == {
        "max_model_len": 8192,
        "enforce_eager": True,
        "hf_overrides": {"a": [1.5, "x"]},
    }


def test_engine_values_of_the_environment_are_text_but_for_booleans() -> None:
    environ = {"REALTIMED_ENGINE_ENFORCE_EAGER": "True", "REALTIMED_ENGINE_MAX_MODEL_LEN": "8"}
    assert serve(**environ).engine == {"enforce_eager": True, "max_model_len": "8"}
    assert serve("--engine.enforce-eager=false").engine == {"enforce_eager": False}


@given(
    names=st.lists(st.from_regex(r"[a-z]{1,8}(-[a-z]{1,8}){0,2}", fullmatch=True), unique=True),
    values=st.lists(st.text().filter(lambda v: not v.startswith("--")), max_size=3),
)
def test_any_engine_flag_passes_through_unchanged(names: list[str], values: list[str]) -> None:
    values = [v for v in values if v.lower() not in ("true", "false")]
    argv = ["model"]
    for name in names:
        argv += [f"--engine.{name}", *values]
    expected = True if not values else values[0] if len(values) == 1 else values
    settings = serve(*argv)
    assert settings.model == "model"
    assert settings.engine == {name.replace("-", "_"): expected for name in names}


# --- mistakes ------------------------------------------------------------------------------


def test_an_unknown_key_names_its_source_and_the_nearest_known_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        from_file(tmp_path, "prot = 1")
    assert message_of(error).startswith("prot: unknown in ")
    assert "realtimed.toml; did you mean port?" in message_of(error)
    with pytest.raises(ConfigError) as error:
        from_file(tmp_path, "[limits]\nrings_s = 1")
    assert "did you mean limits.ring_s?" in message_of(error)
    with pytest.raises(ConfigError) as error:
        serve(REALTIMED_LIMIT_RING_S="1")
    assert message_of(error).startswith("REALTIMED_LIMIT_RING_S: unknown in the environment")
    assert "did you mean REALTIMED_LIMITS_RING_S?" in message_of(error)
    with pytest.raises(ConfigError) as error:
        serve("--limits.ring", "1")
    assert message_of(error).startswith("--limits.ring: unknown on the command line")
    assert "did you mean --limits.ring-s?" in message_of(error)


def test_a_flag_is_never_abbreviated() -> None:
    with pytest.raises(ConfigError, match=r"did you mean --log-format\?"):
        serve("--log-form", "json")


@pytest.mark.parametrize("key", [key for key in OPTIONS if key != "served_model_name"])
def test_a_wrong_type_names_key_source_expected_and_got(key: str, tmp_path: Path) -> None:
    section, _, name = key.rpartition(".")
    header = f"[{section}]\n" if section else ""
    with pytest.raises(ConfigError) as error:
        from_file(tmp_path, f"{header}{name} = [1]")
    message = message_of(error)
    assert message.startswith(f"{key}: expected ")
    assert ", got [1]; in " in message
    assert message.endswith("realtimed.toml")


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--port", "x"),
        ("--port", "-1"),
        ("--port", "65536"),
        ("--port", "8000.5"),
        ("--limits.ring-s", "0"),
        ("--limits.ring-s", "-1"),
        ("--limits.ring-s", "nan"),
        ("--limits.ring-s", "inf"),
        ("--limits.connections", "0"),
        ("--limits.message-bytes", "9" * 5000),
        ("--max-sessions", "0"),
        ("--max-sessions", "many"),
        ("--log-level", "loud"),
        ("--host", ""),
        ("--served-model-name", ""),
    ],
)
def test_a_value_out_of_range_is_refused(flag: str, value: str) -> None:
    with pytest.raises(ConfigError) as error:
        serve(flag, value)
    assert message_of(error).startswith(f"{flag}: expected ")
    assert message_of(error).endswith("; on the command line")


@pytest.mark.parametrize("text", ["ring_s = nan", "ring_s = inf", "ring_s = true", 'ring_s = "30"'])
def test_the_file_is_read_strictly(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^limits\.ring_s: expected float"):
        from_file(tmp_path, f"[limits]\n{text}")


def test_a_mistake_is_reported_even_where_a_stronger_source_hides_it() -> None:
    with pytest.raises(ConfigError, match="REALTIMED_PORT"):
        serve("--port", "8000", REALTIMED_PORT="x")


@pytest.mark.parametrize("text", ["limits = 3", "engine = 3"])
def test_a_section_must_be_a_table(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a table"):
        from_file(tmp_path, text)


def test_one_key_in_two_spellings_is_set_twice(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="set twice"):
        from_file(tmp_path, "[engine]\nmax-model-len = 1\nmax_model_len = 2")


@pytest.mark.parametrize(
    ("text", "got"), [("0x" + "f" * 5000, "more than 64 bits"), ("1979-05-27", "1979-05-27")]
)
def test_any_value_that_toml_can_say_is_shown(text: str, got: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        from_file(tmp_path, f"port = {text}")
    assert got in message_of(error)


def test_bytes_that_are_not_text_are_shown_escaped() -> None:
    with pytest.raises(ConfigError) as error:
        serve("--port", os.fsdecode(b"\xff"))
    assert r"\udcff" in message_of(error)


@pytest.mark.parametrize(
    "argv", [("--port",), ("a", "b"), ("--served-model-name",), ("--config",), ("--engine.",)]
)
def test_a_command_line_that_does_not_parse_is_one_line(argv: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as error:
        serve(*argv)
    assert "on the command line" in message_of(error)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.toml: No such file"):
        load({}, tmp_path / "missing.toml", {})
    with pytest.raises(ConfigError, match="Is a directory"):
        load({}, tmp_path, {})
    with pytest.raises(ConfigError, match=r"not valid TOML: .*line 2"):
        from_file(tmp_path, "port = 1\nport 2")
    (tmp_path / "latin.toml").write_bytes(b"# \xff")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load({}, tmp_path / "latin.toml", {})


def test_a_long_value_is_cut_in_the_message() -> None:
    with pytest.raises(ConfigError) as error:
        serve("--port", "\x1b[31m\n" + "x" * 10_000)
    assert "…" in message_of(error)


ANY_TEXT = st.text(st.characters(codec="utf-8"), max_size=50)
KNOWN_OR_NOT = st.sampled_from([*OPTIONS, "engine.x", "limits", "engine", "limits.", "engine."])


def settings_or_message(read: Callable[[], Settings]) -> Settings | str:
    try:
        return read()
    except ConfigError as error:
        return str(error)


@given(st.dictionaries(KNOWN_OR_NOT | ANY_TEXT, ANY_TEXT, max_size=4))
def test_any_environment_gives_settings_or_one_line(table: dict[str, str]) -> None:
    environ = {env_name(key): value for key, value in table.items()} | {"REALTIMED_CONFIG": ""}
    match settings_or_message(lambda: load({}, None, environ)):
        case str(message):
            assert "\n" not in message
        case settings:
            assert msgspec.convert(msgspec.to_builtins(settings), Settings) == settings


@given(st.lists(KNOWN_OR_NOT.map(flag_name) | ANY_TEXT, max_size=6))
def test_any_command_line_gives_settings_or_one_line(argv: list[str]) -> None:
    argv = [argument for argument in argv if not argument.startswith(("-h", "--help", "--config"))]
    result = settings_or_message(lambda: settings_from_serve_args(argv, {}))
    assert isinstance(result, Settings) or "\n" not in result


# --- help and weight -----------------------------------------------------------------------


def test_help_lists_every_setting_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        serve("--help")
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert all(flag_name(key) in shown for key in OPTIONS if key != "model")
    assert "MODEL" in shown
    assert "(default: 16777216)" in shown
    assert "--engine.enforce-eager" in shown


def test_settings_load_without_the_engine_or_an_event_loop() -> None:
    code = "import sys, realtimed.flags; sys.exit(bool({'vllm', 'torch', 'trio'} & {*sys.modules}))"
    environ = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    assert subprocess.run([sys.executable, "-c", code], env=environ, check=False).returncode == 0
