"""Frames put together from a template are, byte for byte, what vLLM's encoder makes of them."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

pytest.importorskip("vllm", reason="vLLM is not installed")

from vllm.v1.engine import EngineCoreRequest
from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

from realtimed.engine.frames import FrameRequests, FrameTemplate

SAMPLES = 2_160
INLINE = 2**15
decoder = MsgpackDecoder(EngineCoreRequest)


@pytest.fixture(scope="module")
def requests() -> FrameRequests:
    return FrameRequests(1)


def audio(seed: int) -> Any:
    return np.random.default_rng(seed).standard_normal(SAMPLES).astype(np.float32)


def understood(message: Sequence[Any]) -> dict[str, Any]:
    """What the engine decodes, but for the names that differ from frame to frame."""
    request = decoder.decode(message)
    (feature,) = request.mm_features
    fields = {name: getattr(request, name) for name in request.__struct_fields__}
    del fields["arrival_time"], fields["mm_features"]
    element = feature.data["audio_arrays"]
    return {
        **fields,
        "sampling_params": str(request.sampling_params),
        "position": asdict(feature.mm_position),
        "modality": feature.modality,
        "audio": element.data.numpy().tobytes(),
        "dtype": str(element.data.dtype),
        "field": type(element.field),
    }


@pytest.mark.parametrize("token", [0, 33, 127, 128, 65_536, 131_071, 2**31])
@pytest.mark.parametrize("logprobs", [False, True])
def test_a_filled_template_decodes_to_the_same_request(
    requests: FrameRequests, token: int, logprobs: bool
) -> None:
    encode = MsgpackEncoder(INLINE).encode
    template = FrameTemplate(requests, encode, "rt-7", SAMPLES, logprobs=logprobs)
    filled = template.fill([token], audio(token))
    assert filled is not None
    expected = encode(requests.frame("rt-7", [token], audio(token), logprobs=logprobs))
    assert understood([filled]) == understood(expected)
    asked = decoder.decode([filled]).sampling_params.logprobs
    assert asked == (0 if logprobs else None)


def test_every_frame_has_an_identifier_of_its_own(requests: FrameRequests) -> None:
    encode = MsgpackEncoder(INLINE).encode
    templates = [FrameTemplate(requests, encode, name, SAMPLES) for name in ("rt-1", "rt-2")]
    messages = [template.fill([1], audio(0)) for template in templates * 2]
    plain = encode(requests.frame("rt-3", [1], audio(0)))[0]
    names = {decoder.decode([message]).mm_features[0].identifier for message in [*messages, plain]}
    assert len(names) == 5


def test_another_shape_is_left_to_vllm(requests: FrameRequests) -> None:
    template = FrameTemplate(requests, MsgpackEncoder(INLINE).encode, "rt-7", SAMPLES)
    assert template.fill([1, 2], audio(0)) is None
    assert template.fill([1], audio(0)[:-1]) is None


def test_audio_that_travels_beside_the_message_is_left_to_vllm(requests: FrameRequests) -> None:
    template = FrameTemplate(requests, MsgpackEncoder(256).encode, "rt-7", SAMPLES)
    assert template.fill([1], audio(0)) is None
