"""What OpenAI's Realtime API tells of a transcription, as it stands on the wire, GA shape.

The fields are those of the types in openai-python (`openai.types.realtime`), which has their
documentation. Every event has an `event_id`. Times are milliseconds on the session's clock.
"""

from typing import Any, Final

from msgspec import UNSET, Struct, UnsetType


class Session(Struct, tag_field="type"):
    event_id: str
    session: Any


class SessionCreated(Session, tag="session.created"):
    pass


class SessionUpdated(Session, tag="session.updated"):
    pass


class TranscriptionSessionCreated(Session, tag="transcription_session.created"):
    """The beta's."""


class TranscriptionSessionUpdated(Session, tag="transcription_session.updated"):
    """The beta's."""


class SpeechStarted(Struct, tag_field="type", tag="input_audio_buffer.speech_started"):
    event_id: str
    audio_start_ms: int
    item_id: str


class SpeechStopped(Struct, tag_field="type", tag="input_audio_buffer.speech_stopped"):
    event_id: str
    audio_end_ms: int
    item_id: str


class Committed(Struct, tag_field="type", tag="input_audio_buffer.committed"):
    event_id: str
    item_id: str
    previous_item_id: str | None


class Cleared(Struct, tag_field="type", tag="input_audio_buffer.cleared"):
    event_id: str


class Content(Struct):
    transcript: str | None
    type: str = "input_audio"


class Item(Struct):
    id: str
    content: tuple[Content]
    object: str = "realtime.item"
    type: str = "message"
    status: str = "completed"
    role: str = "user"


class ItemEvent(Struct, tag_field="type"):
    event_id: str
    previous_item_id: str | None
    item: Item


class ItemAdded(ItemEvent, tag="conversation.item.added"):
    pass


class ItemDone(ItemEvent, tag="conversation.item.done"):
    pass


class ItemCreated(ItemEvent, tag="conversation.item.created"):
    """The beta's word for an item that was added."""


_TRANSCRIPTION: Final = "conversation.item.input_audio_transcription"


class Logprob(Struct, gc=False):
    token: str
    bytes: list[int]
    logprob: float


class Delta(Struct, tag_field="type", tag=f"{_TRANSCRIPTION}.delta", gc=False):
    event_id: str
    item_id: str
    delta: str
    content_index: int = 0
    logprobs: list[Logprob] | UnsetType = UNSET


class Tokens(Struct, tag_field="type", tag="tokens"):
    input_tokens: int
    output_tokens: int
    total_tokens: int


class Language(Struct):
    code: str


class Completed(Struct, tag_field="type", tag=f"{_TRANSCRIPTION}.completed"):
    event_id: str
    item_id: str
    transcript: str
    usage: Tokens
    content_index: int = 0
    logprobs: list[Logprob] | UnsetType = UNSET
    languages: tuple[Language, ...] | UnsetType = UNSET


class Cause(Struct):
    type: str
    code: str
    message: str
    param: str | None = None


class Failed(Struct, tag_field="type", tag=f"{_TRANSCRIPTION}.failed"):
    event_id: str
    item_id: str
    error: Cause
    content_index: int = 0


class CauseWithId(Cause):
    event_id: str | None = None


class Error(Struct, tag_field="type", tag="error"):
    event_id: str
    error: CauseWithId
