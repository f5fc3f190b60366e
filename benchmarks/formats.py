"""What decoding costs: 80 ms chunks of every encoding, without and with resampling to 16 kHz.

    python -m benchmarks.formats [--chunks 2000]

Median and 95th percentile of `AudioDecoder.decode` a chunk, and the largest distance of `produced`
from `consumed` after a chunk, in samples at 16 kHz and in ms.
"""

import argparse
import time

import numpy as np

from realtimed.audio.formats import AudioDecoder, bytes_per_sample
from realtimed.wire.events import ENCODINGS

TARGET_RATE = 16_000
CHUNK_MS = 80
RATES = (8_000, 11_025, 22_050, 32_000, 44_100, 48_000)
CASES = (
    *((encoding, TARGET_RATE) for encoding in ENCODINGS),
    *((encoding, 24_000) for encoding in ENCODINGS),
    *(("pcm_s16le", rate) for rate in RATES),
    ("pcm_mulaw", 8_000),
    ("pcm_alaw", 8_000),
)


def chunk_of(encoding: str, rate: int) -> bytes:
    """80 ms of noise at a tenth of full scale."""
    noise = np.random.default_rng(0).standard_normal(rate * CHUNK_MS // 1000) / 10
    if encoding.startswith("pcm_f"):
        return noise.astype("<f2" if encoding == "pcm_f16le" else "<f4").tobytes()
    return np.random.default_rng(0).bytes(len(noise) * bytes_per_sample(encoding))


def row(encoding: str, rate: int, chunks: int) -> str:
    decoder, chunk = AudioDecoder(encoding, rate), chunk_of(encoding, rate)
    took_us, held = [], 0.0
    for _ in range(chunks):
        began = time.perf_counter()
        decoder.decode(chunk)
        took_us.append((time.perf_counter() - began) * 1e6)
        held = max(held, decoder.consumed * TARGET_RATE / rate - decoder.produced)
    median, p95 = np.percentile(took_us, (50, 95))
    held_ms = held / TARGET_RATE * 1000
    return f"| {encoding} | {rate:,} | {median:.1f} | {p95:.1f} | {held:,.0f} | {held_ms:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chunks", type=int, default=2_000)
    chunks = parser.parse_args().chunks
    print("| encoding | Hz | median µs | p95 µs | held, samples | held, ms |")
    print("|---|---:|---:|---:|---:|---:|")
    for encoding, rate in CASES:
        print(row(encoding, rate, chunks), flush=True)


if __name__ == "__main__":
    main()
