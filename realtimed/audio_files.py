"""Sound files and raw PCM streams as blocks of 16 kHz mono float32, one block at a time.

Everything here blocks on a disk or a pipe, so call it from a worker thread. No file is ever
held in memory whole: libsndfile decodes a block, the channels are averaged, a streaming
resampler brings it to 16 kHz, and the pieces are cut into chunks of one length.
"""

import os
import sys
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from realtimed.audio.pcm import decode_pcm16
from realtimed.errors import RealtimedError

Samples = NDArray[np.float32]

SAMPLE_RATE: Final = 16_000
STDIN: Final = "-"
# Rates that soxr and every recorder in use agree on; outside them a header is damaged.
MIN_RATE: Final = 1_000
MAX_RATE: Final = 768_000
_BLOCK_S: Final = 0.5
_MAX_FRAMES: Final = 2**40


class AudioFileError(RealtimedError):
    """A file cannot be read as sound: absent, not permitted, not sound, or damaged."""


class AudioInfo(NamedTuple):
    """What the header of a file says.

    `seconds` is `None` where the length is not known before the end: a pipe.
    """

    sample_rate: int
    channels: int
    seconds: float | None


def display_name(path: str) -> str:
    """The name to show for `path`."""
    return "stdin" if path == STDIN else path


def probe(path: str, *, stdin_rate: int = SAMPLE_RATE) -> AudioInfo:
    """Read the header of `path`; `-` is raw PCM16 mono on standard input at `stdin_rate` Hz.

    Raises: `AudioFileError`.
    """
    if path == STDIN:
        return AudioInfo(stdin_rate, 1, None)
    with _open(path) as file:
        # A header that was written before the sound was gives a length beyond all measure.
        known = file.seekable() and file.frames < _MAX_FRAMES
        seconds = file.frames / file.samplerate if known else None
        return AudioInfo(file.samplerate, file.channels, seconds)


def read_chunks(
    path: str, *, chunk_samples: int, stdin_rate: int = SAMPLE_RATE
) -> Generator[Samples, None, None]:
    """Yield `path` as 1-d float32 chunks at 16 kHz, all but the last `chunk_samples` long.

    Raises: `AudioFileError`, also half-way, when a file turns out to be damaged.
    """
    if path == STDIN:
        mono = _stdin_blocks(max(1, chunk_samples * stdin_rate // SAMPLE_RATE))
        return rechunk(resample(mono, stdin_rate), chunk_samples)
    return rechunk(_file_at_16k(path), chunk_samples)


def _file_at_16k(path: str) -> Generator[Samples, None, None]:
    with _open(path) as file:
        yield from resample(_file_blocks(file, path), file.samplerate)


def resample(blocks: Iterable[Samples], rate: int) -> Generator[Samples, None, None]:
    """Bring 1-d float32 blocks at `rate` Hz to 16 kHz, as one unbroken signal."""
    if rate == SAMPLE_RATE:
        yield from blocks
        return
    stream = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
    for block in blocks:
        yield np.asarray(stream.resample_chunk(block), np.float32)
    # The filter holds back the last milliseconds until it is told that nothing follows.
    yield np.asarray(stream.resample_chunk(np.empty(0, np.float32), last=True), np.float32)


def rechunk(blocks: Iterable[Samples], chunk_samples: int) -> Generator[Samples, None, None]:
    """Cut 1-d blocks of any length into chunks of `chunk_samples`; only the last is shorter."""
    held: Samples = np.empty(0, np.float32)
    for block in blocks:
        held = np.concatenate((held, block)) if len(held) else block
        whole = len(held) - len(held) % chunk_samples
        for start in range(0, whole, chunk_samples):
            yield held[start : start + chunk_samples]
        held = held[whole:]
    if len(held):
        yield held


def _open(path: str) -> soundfile.SoundFile:
    try:
        # Asking the system first tells "absent" from "not sound", which libsndfile does not.
        with Path(path).open("rb"):
            pass
        file = soundfile.SoundFile(path)
    except OSError as error:
        reason = error.strerror or "cannot be opened"
        raise AudioFileError(f"Cannot read {path}: {reason}.") from error
    except (soundfile.SoundFileError, TypeError) as error:
        raise AudioFileError(
            f"Cannot read {path}: not a sound file. Expected WAV, FLAC or OGG;"
            " raw PCM goes in on standard input, with - for a file."
        ) from error
    if not MIN_RATE <= file.samplerate <= MAX_RATE:
        file.close()
        raise AudioFileError(
            f"Cannot read {path}: its sample rate is {file.samplerate} Hz."
            f" Expected {MIN_RATE} to {MAX_RATE} Hz."
        )
    return file


def _file_blocks(file: soundfile.SoundFile, path: str) -> Generator[Samples, None, None]:
    frames = max(1, int(file.samplerate * _BLOCK_S))
    while True:
        try:
            block = file.read(frames, dtype="float32", always_2d=True)
        except soundfile.SoundFileError as error:
            seconds = file.tell() / file.samplerate
            raise AudioFileError(
                f"Cannot read {path}: damaged after {seconds:.1f} s of sound."
            ) from error
        if not len(block):
            return
        # A float file can hold NaN and infinity, which have no place on a 16-bit scale.
        yield np.nan_to_num(block.mean(axis=1, dtype=np.float32), posinf=1.0, neginf=-1.0)


def _stdin_blocks(block_samples: int) -> Generator[Samples, None, None]:
    # Reading the descriptor itself: a thread that is left behind in a read at exit would hold
    # the lock of `sys.stdin`, and the interpreter would abort on it.
    descriptor = sys.stdin.fileno()
    odd = b""
    while True:
        try:
            data = os.read(descriptor, 2 * block_samples)
        except OSError as error:
            raise AudioFileError(f"Cannot read stdin: {error.strerror}.") from error
        if not data:
            return
        data = odd + data
        whole = len(data) - len(data) % 2
        odd = data[whole:]
        yield decode_pcm16(data[:whole])
