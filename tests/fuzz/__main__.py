"""Coverage-guided fuzzing of all that clients' bytes reach (not part of `make test`).

    python -m venv FUZZ && FUZZ/bin/pip install atheris==3.0.0
    cd tests && PYTHONPATH=..:SITE_PACKAGES FUZZ/bin/python -m fuzz -max_total_time=300

SITE_PACKAGES is that of the environment that realtimed runs in. Arguments are libFuzzer's.
"""

import sys

import atheris

with atheris.instrument_imports(include=["realtimed", "h11", "wsproto"]):
    from fuzz import targets

SEEDS = (
    b'\x00{"type":"session.update","model":"","turn_detection":{"type":"server_vad"}}',
    b'\x00{"type":"input_audio_buffer.append","audio":"AAAA"}\x00{"type":"input_audio_buffer.commit"}',
    b'\x01{"type":"session.update","session":{"type":"transcription","audio":{"input":{}}}}',
    b'\x02{"type":"transcription_session.update","session":{"input_audio_format":"pcm16"}}',
    b'\x03{"type":"session.update","session":{"audio_format":{"encoding":"pcm_s16le"}}}',
    b"\x05\x81\x85\x00\x00\x00\x00hello\x01\x80\x00\x00\x00\x00",
    b"\x06GET /v1/realtime HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Key: a\r\nSec-WebSocket-Version: 13\r\n\r\n",
    b"\x07\x03\x00\x00\xc0\x7f\x00\x00\x80\x7f",
)


def main() -> None:
    for seed in SEEDS:
        targets.one_input(seed)
    atheris.Setup(sys.argv, targets.one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
