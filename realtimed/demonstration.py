"""`realtimed demo`: from a cold start to words on the screen, and back to nothing running."""

import argparse
import json
import logging
import sys

import trio

from realtimed import demo
from realtimed.client import connect
from realtimed.config import Settings
from realtimed.daemon import Daemon
from realtimed.ops import logs
from realtimed.transcribe import stream_file


def run(argv: list[str]) -> int:
    """Serve the bundled model, stream one sample through it at the speed of speech, stop."""
    parser = argparse.ArgumentParser(
        prog="realtimed demo",
        description="Serve the bundled model, stream a sample through it as if it were spoken "
        "now, show the words as they come, and stop everything.",
    )
    parser.add_argument(
        "sample", nargs="?", default="digits", choices=sorted(_references()), help="which sample"
    )
    sample = parser.parse_args(argv).sample
    logs.set_up("info", "console")
    return trio.run(_demonstrate, sample)


async def _demonstrate(sample: str) -> int:
    daemon = Daemon(Settings(port=0, admin=False))
    # Ends when the daemon does: it is told to stop once the sample is through.
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_converse, daemon, sample)
        code = await daemon.run()
        nursery.cancel_scope.cancel()
    return code


async def _converse(daemon: Daemon, sample: str) -> None:
    try:
        await daemon.ready.wait()
        logging.getLogger("realtimed.server").setLevel("WARNING")  # the words come first here
        print(f"\nspoken now:  {_references()[sample]}\nheard:      ", end="", flush=True)
        async with connect(f"ws://127.0.0.1:{daemon.port}") as session:
            transcript = await stream_file(
                session, str(demo.SAMPLES_DIR / f"{sample}.wav"), on_text=_show
            )
        seconds = transcript.usage.audio_seconds
        print(f"\nfinal:       {transcript.text}   ({seconds:.1f} s of audio)\n", flush=True)
    finally:
        daemon.stop()


def _show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _references() -> dict[str, str]:
    """Names and texts of the bundled samples."""
    manifest = json.loads((demo.SAMPLES_DIR / "manifest.json").read_text())
    return {entry["file"].removesuffix(".wav"): entry["text"] for entry in manifest}
