"""Settings: what they are, what bounds them, and how a file, the environment and flags merge.

A TOML file is overridden by the environment, the environment by flags. Each value keeps its
source until it is checked, so that a mistake is reported where it was made, in one line, with
the nearest key that exists. The tables are `limits` (below) and `engine` (vLLM's own engine
arguments, passed through unchanged: only the engine room can tell which ones exist):

    file         [limits] ring_s = 30     [engine] max_model_len = 8192
    environment  REALTIMED_LIMITS_RING_S  REALTIMED_ENGINE_MAX_MODEL_LEN
    flags        --limits.ring-s 30       --engine.max-model-len 8192
"""

import difflib
import tomllib
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from realtimed.errors import ConfigError

CONFIG_VARIABLE: Final = "REALTIMED_CONFIG"
"""The environment variable that names the TOML file."""

_PREFIX: Final = "REALTIMED_"
# Ours, but no settings: the first names the file, the others belong to the client commands.
_NOT_SETTINGS: Final = frozenset({CONFIG_VARIABLE, "REALTIMED_URL", "REALTIMED_API_KEY"})
_TABLES: Final = ("limits", "engine")
_LISTS: Final = ("served_model_name", "allowed_origins")
_LONGEST_SHOWN: Final = 60

# Bounded above as well: an infinite or absurd wait is a deadline that does not exist.
_Seconds = Annotated[float, Meta(gt=0, le=1e7)]
_Text = Annotated[str, Meta(min_length=1)]
_EncoderWindow = Annotated[int, Meta(ge=5, le=30)]
_Count = Annotated[int, Meta(ge=1, le=10_000_000)]
_CountOrNone = Annotated[int, Meta(ge=0, le=10_000_000)]


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Every bound on time and memory. `_s` is seconds, `_bytes` bytes, all else a count."""

    ring_s: Annotated[_Seconds, Meta(description="audio kept a session until recognised")] = 30.0
    overflow_s: Annotated[
        _Seconds, Meta(description="how long that audio may stay full before the session ends")
    ] = 10.0
    message_bytes: Annotated[
        int, Meta(ge=1, le=2**30, description="the largest WebSocket message accepted")
    ] = 16 * 2**20
    rate: Annotated[
        float,
        Meta(ge=0, le=1e6, description="audio of a session, in times real time; 0 is no limit"),
    ] = 8.0
    key_rate: Annotated[
        float,
        Meta(
            ge=0,
            le=1e6,
            description="the same of all of an API key together, for each session; 0 is no limit",
        ),
    ] = 2.0
    pending_utterances: Annotated[
        _Count, Meta(description="utterances of one session that wait to be recognised")
    ] = 32
    outbox_events: Annotated[
        _Count, Meta(description="events of one session that wait to be sent")
    ] = 256
    connections: Annotated[_Count, Meta(description="open TCP connections, upgraded or not")] = 1024
    connections_per_address: Annotated[
        _CountOrNone, Meta(description="the same of one client address; 0 is no limit")
    ] = 0
    handshakes: Annotated[
        _Count, Meta(description="of connections, those that are not upgraded yet")
    ] = 256
    sessions_per_address: Annotated[
        _CountOrNone, Meta(description="sessions at once of one client address; 0 is no limit")
    ] = 0
    client_secrets: Annotated[
        _Count, Meta(description="short-lived client secrets that are valid at once")
    ] = 10_000
    tls_handshake_s: Annotated[
        _Seconds, Meta(description="of handshake_s, what the TLS handshake may take")
    ] = 5.0
    handshake_s: Annotated[
        _Seconds, Meta(description="from accepted connection to finished upgrade")
    ] = 10.0
    first_event_s: Annotated[
        _Seconds, Meta(description="from the upgrade to the client's first message")
    ] = 600.0
    message_s: Annotated[
        _Seconds, Meta(description="one message may take from its first byte to its last")
    ] = 120.0
    idle_s: Annotated[_Seconds, Meta(description="without any message from the client")] = 600.0
    slow_reader_s: Annotated[
        _Seconds, Meta(description="one event may take to be sent before the client is dropped")
    ] = 20.0
    stall_s: Annotated[
        _Seconds, Meta(description="the engine may take to answer a frame before a restart")
    ] = 5.0
    blank_s: Annotated[
        _Seconds, Meta(description="speech without a word before recognition is restarted")
    ] = 10.0
    resume_s: Annotated[
        _Seconds, Meta(description="audio kept behind recognition to restart from")
    ] = 12.0
    engine_hang_s: Annotated[
        _Seconds, Meta(description="the engine may make no step while frames wait, then is killed")
    ] = 20.0
    engine_restart_deadline_s: Annotated[
        _Seconds, Meta(description="to bring a lost engine back before the sessions end")
    ] = 120.0
    engine_restarts: Annotated[
        _Count, Meta(description="of the engine within the window before the daemon gives up")
    ] = 5
    engine_restart_window_s: Annotated[
        _Seconds, Meta(description="in which restarts of the engine are counted")
    ] = 600.0
    canary_s: Annotated[
        _Seconds, Meta(description="an idle engine makes no step before a test inference")
    ] = 30.0
    canary_deadline_s: Annotated[_Seconds, Meta(description="that test inference may take")] = 10.0
    queue_s: Annotated[_Seconds, Meta(description="an utterance may wait for an engine slot")] = (
        20.0
    )
    gate_s: Annotated[
        _Seconds, Meta(description="a pause after which a session leaves the engine")
    ] = 2.0
    soft_age_s: Annotated[
        _Seconds, Meta(description="age from which a segment is cut in the next short pause")
    ] = 45.0
    hard_age_s: Annotated[
        _Seconds, Meta(description="age at which a segment is cut where it is quietest")
    ] = 90.0
    partial_interval_s: Annotated[
        _Seconds,
        Meta(description="audio between two decodes of growing speech (segmented models)"),
    ] = 1.0
    pause_s: Annotated[
        _Seconds, Meta(description="quiet that ends a stretch of speech (segmented models)")
    ] = 0.8
    close_s: Annotated[_Seconds, Meta(description="the closing handshake may take")] = 5.0
    drain_s: Annotated[
        _Seconds, Meta(description="sessions have to finish when the daemon stops")
    ] = 30.0
    drain_spread_s: Annotated[
        _Seconds,
        Meta(description="of that: open utterances go on, and sessions are closed one by one"),
    ] = 10.0


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `realtimed serve` runs with."""

    model: Annotated[
        _Text | None,
        Meta(description="model to serve: a name or a directory (default: bundled)"),
    ] = None
    served_model_name: Annotated[
        tuple[_Text, ...], Meta(description="names that clients may ask for (default: the model's)")
    ] = ()
    host: Annotated[_Text, Meta(description="address to listen on")] = "127.0.0.1"
    port: Annotated[
        int, Meta(ge=0, le=65535, description="port to listen on; 0 takes a free one")
    ] = 8000
    tls_cert: Annotated[
        _Text | None,
        Meta(description="PEM file with the certificate and its chain; serves wss:// only"),
    ] = None
    tls_key: Annotated[
        _Text | None, Meta(description="PEM file with the private key, without a passphrase")
    ] = None
    api_keys_file: Annotated[
        _Text | None,
        Meta(description="keys that may connect, a line each from hash-key (default: no key)"),
    ] = None
    allowed_origins: Annotated[
        tuple[_Text, ...],
        Meta(description="web pages that may connect: scheme://host[:port]; * is any"),
    ] = ()
    admin: Annotated[
        bool, Meta(description="serve health, metrics and drain on a listener of their own")
    ] = True
    admin_host: Annotated[_Text, Meta(description="address of the admin listener")] = "127.0.0.1"
    admin_port: Annotated[
        int, Meta(ge=0, le=65535, description="port of the admin listener; 0 takes a free one")
    ] = 8010
    max_sessions: Annotated[
        _Count | None,
        Meta(description="sessions at once (default: 4 for each engine slot; 1 without the gate)"),
    ] = None
    strict_model_names: Annotated[
        bool, Meta(description="a model name that is not served is an error in every dialect")
    ] = False
    silence_gate: Annotated[
        bool, Meta(description="a session that is silent leaves the engine until speech returns")
    ] = True
    encoder_window_s: Annotated[
        _EncoderWindow | None,
        Meta(description="Whisper's encoder hears so much, and costs so much (default: 30)"),
    ] = None
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="least severe shown")
    ] = "info"
    log_format: Annotated[
        Literal["console", "json"], Meta(description="for people or for machines")
    ] = "console"
    limits: Limits = Limits()
    engine: dict[str, object] = {}
    """vLLM engine arguments in snake_case. From a file they have TOML's types; from the
    environment and flags they are strings, lists of strings, True or False."""


class Option(msgspec.Struct, frozen=True):
    """One setting, apart from the open `engine` table."""

    key: str
    """As in an override: `port`, `limits.ring_s`."""
    type: object
    default: object
    description: str


class _Given(msgspec.Struct, frozen=True):
    key: str
    value: object
    spelled: str
    """The key as it was written there: `REALTIMED_PORT`, `--port`."""
    source: str
    typed: bool = False
    """Whether the source has types of its own, as TOML has; elsewhere all is text."""


def load(
    argv_overrides: Mapping[str, object], config_file: Path | None, environ: Mapping[str, str]
) -> Settings:
    """Merge the file, the environment and the flags into checked settings.

    `argv_overrides` maps keys (`port`, `limits.ring_s`, `engine.max_model_len`) to values.
    Without a `config_file`, the one that REALTIMED_CONFIG names is read, if it names one.

    Raises: `ConfigError`, in one line, for a file that cannot be read or parsed, an unknown
    key, and a value of the wrong type or out of range.
    """
    if config_file is None and environ.get(CONFIG_VARIABLE):
        config_file = Path(environ[CONFIG_VARIABLE])
    values: dict[str, object] = {}
    if config_file is not None:
        values |= {given.key: _checked(given) for given in _from_file(config_file)}
    values |= {given.key: _checked(given) for given in _from_environment(environ)}
    values |= {given.key: _checked(given) for given in _from_flags(argv_overrides)}
    return _settings(values)


def options() -> Mapping[str, Option]:
    """Every known setting by its key, in the order in which they are declared."""
    return _OPTIONS


def flag_name(key: str) -> str:
    """`limits.ring_s` as a flag: `--limits.ring-s`."""
    return "--" + key.replace("_", "-")


def unknown_key(spelled: str, source: str, known: list[str], hint: str = "") -> ConfigError:
    """The error for a key that does not exist, naming the nearest one of `known`."""
    (nearest,) = difflib.get_close_matches(spelled, known, n=1, cutoff=0.0)
    return ConfigError(f"{shown(spelled)}: unknown {source}; did you mean {nearest}?{hint}")


def shown(text: str) -> str:
    """`text` on one line of bounded length, control characters escaped."""
    capped = text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 1] + "…"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in capped)


def _path(path: Path) -> str:
    """A path whole, since its end is what tells files apart."""
    return " ".join(str(path).split())


# --- the three sources -------------------------------------------------------------------


def _from_file(path: Path) -> Iterator[_Given]:
    """Hyphens and underscores are the same in a key, so one key could be there twice."""
    seen: set[str] = set()
    for given in _flattened(path):
        if given.key in seen:
            raise ConfigError(f"{shown(given.spelled)}: set twice {given.source}")
        seen.add(given.key)
        yield given


def _flattened(path: Path) -> Iterator[_Given]:
    source = f"in {_path(path)}"
    for key, value in _read(path).items():
        if key not in _TABLES:
            yield _Given(_snake(key), value, key, source, typed=True)
        elif isinstance(value, dict):
            for inner, inner_value in value.items():
                spelled = f"{key}.{inner}"
                yield _Given(_snake(spelled), inner_value, spelled, source, typed=True)
        else:
            raise ConfigError(f"{key}: expected a table, [{key}], got {_got(value)}; {source}")


def _read(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = error.strerror or "it cannot be opened"
        raise ConfigError(f"Cannot read the settings in {_path(path)}: {reason}") from error
    except ValueError as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"{_path(path)} is not valid TOML: {reason}") from error


def _from_environment(environ: Mapping[str, str]) -> Iterator[_Given]:
    """An empty variable is one that is not set, as with most daemons."""
    for name, text in environ.items():
        if not name.startswith(_PREFIX) or name in _NOT_SETTINGS or not text:
            continue
        key = _snake(name.removeprefix(_PREFIX).lower())
        for table in _TABLES:
            if key.startswith(f"{table}_"):
                key = f"{table}.{key.removeprefix(f'{table}_')}"
        value: object = text
        if key in _LISTS:
            value = [item.strip() for item in text.split(",")]
        yield _Given(key, value, name, "in the environment")


def _from_flags(overrides: Mapping[str, object]) -> Iterator[_Given]:
    for key, value in overrides.items():
        yield _Given(_snake(key), value, flag_name(key), "on the command line")


def _snake(key: str) -> str:
    return key.replace("-", "_")


# --- checking ----------------------------------------------------------------------------


def _checked(given: _Given) -> object:
    """The value in its setting's type."""
    if given.key.startswith("engine.") and given.key != "engine.":
        return given.value if given.typed else _flag_value(given.value)
    option = _OPTIONS.get(given.key)
    if option is None:
        raise _unknown(given)
    value = given.value
    if given.key in _LISTS and isinstance(value, str):
        value = [value]
    try:
        return msgspec.convert(value, option.type, strict=given.typed)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        raise ConfigError(
            f"{shown(given.spelled)}: expected {_expected(option, error)}, "
            f"got {_got(given.value)}; {given.source}"
        ) from error


def _flag_value(value: object) -> object:
    """A switch of vLLM takes no value on a command line, so true and false become booleans."""
    words = {"true": True, "false": False}
    return words.get(value.lower(), value) if isinstance(value, str) else value


def _unknown(given: _Given) -> ConfigError:
    spell = {"in the environment": _variable, "on the command line": flag_name}
    known = [spell.get(given.source, str)(key) for key in _OPTIONS]
    hint = "" if "." in given.key else " vLLM's own arguments go under engine."
    return unknown_key(given.spelled, given.source, known, hint)


def _variable(key: str) -> str:
    return _PREFIX + key.replace(".", "_").upper()


def _expected(option: Option, error: Exception) -> str:
    """What a setting takes, in msgspec's words less its position and the type it got."""
    if choices := [arg for arg in _arguments(option.type) if isinstance(arg, str)]:
        return "one of " + ", ".join(choices)
    if isinstance(error, UnicodeEncodeError):
        return "text in UTF-8"
    if "out of range" in str(error):
        return "a smaller number"
    message = str(error).partition(" - at ")[0].partition(", got ")[0]
    return message.removeprefix("Expected ").replace("`", "")


def _arguments(annotation: object) -> tuple[object, ...]:
    inner = typing.get_args(annotation)[0] if typing.get_args(annotation) else annotation
    return typing.get_args(inner) if typing.get_origin(inner) is Literal else ()


def _got(value: object) -> str:
    match value:
        case str():
            return f'"{shown(value)}"'
        case bool():
            return str(value).lower()
        case int() if value.bit_length() > 64:
            return "a number of more than 64 bits"
    return shown(str(value))


def _settings(values: Mapping[str, object]) -> Settings:
    tables: dict[str, dict[str, object]] = {name: {} for name in _TABLES}
    top: dict[str, typing.Any] = {}
    for key, value in values.items():
        table, dot, inner = key.partition(".")
        (tables[table] if dot else top)[inner if dot else key] = value
    limits: dict[str, typing.Any] = tables["limits"]
    settings = Settings(**top, limits=Limits(**limits), engine=tables["engine"])
    if (settings.tls_cert is None) != (settings.tls_key is None):
        here, missing = ("tls_cert", "tls_key") if settings.tls_cert else ("tls_key", "tls_cert")
        raise ConfigError(f"{here} is set without {missing}: TLS takes both, plain ws:// neither")
    return settings


def _options(struct: type[msgspec.Struct], prefix: str) -> Iterator[Option]:
    hints = typing.get_type_hints(struct, include_extras=True)
    for info in msgspec.structs.fields(struct):
        if info.name in _TABLES:
            continue
        metas = [arg for arg in typing.get_args(hints[info.name]) if isinstance(arg, Meta)]
        description = next((meta.description for meta in metas if meta.description), "")
        yield Option(prefix + info.name, hints[info.name], info.default, description)


_OPTIONS: Final[Mapping[str, Option]] = {
    option.key: option for option in (*_options(Settings, ""), *_options(Limits, "limits."))
}
