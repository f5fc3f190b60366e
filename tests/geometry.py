"""The frame arithmetic of the bundled model, for tests that need no engine."""

from realtimed.engine.spec import StreamGeometry, StreamingModel

PAD = 32
BUNDLED = StreamGeometry(
    sample_rate=16_000,
    samples_per_token=1_280,
    look_ahead=40,
    look_back=840,
    left_pad=32 * 1_280,
    right_pad=14 * 1_280,
    delay_tokens=3,
    prompt=(1, *[PAD] * 35),
    word_mark=33,
)


def model(max_model_len: int = 16_384) -> StreamingModel:
    return StreamingModel(
        model="test",
        served_names=("test",),
        architecture="VoxtralRealtimeGeneration",
        geometry=BUNDLED,
        max_model_len=max_model_len,
        max_num_seqs=4,
        sample_rate=BUNDLED.sample_rate,
        max_chunk_tokens=1,
    )
