"""Write hashes-cpu.txt: the SHA-256 of every file that requirements-cpu.txt may install.

    python conf/lock_hashes.py

Asks pip which files it would take for each Python on x86-64, without installing any. Run it
whenever a pin changes. torch is left out: its CPU build is not on PyPI, and the Makefile takes it
from PyTorch's own index.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

CONF = Path(__file__).parent
PYTHONS = ("3.11", "3.12", "3.13")
GLIBCS = (17, 24, 26, 27, 28, 31, 34)
LEFT_OUT = ("torch",)
HEAD = """\
# Written by conf/lock_hashes.py from requirements-cpu.txt; not to be edited. What each pin may be,
# for Python 3.11 to 3.13 on Linux, x86-64. `make venv` installs it with --require-hashes.
"""


def pins(text: str) -> list[str]:
    """The requirements of a file, without comments."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line and re.split("==", line)[0] not in LEFT_OUT]


def chosen(requirements: list[str], *target: str) -> list[tuple[str, str, str, str]]:
    """What pip would install: name, version, file and hash of each."""
    with tempfile.TemporaryDirectory() as directory:
        report, listed = Path(directory, "report.json"), Path(directory, "requirements.txt")
        listed.write_text("\n".join(requirements))
        command = [sys.executable, "-m", "pip", "install", "-qq", "--dry-run", "--no-deps"]
        command += ["--ignore-installed", "--report", str(report), "-r", str(listed), *target]
        if target:
            command += ["--target", directory]
        subprocess.run(command, check=True)
        found = json.loads(report.read_text())["install"]
    return [
        (
            each["metadata"]["name"],
            each["metadata"]["version"],
            each["download_info"]["url"],
            each["download_info"]["archive_info"]["hashes"]["sha256"],
        )
        for each in found
    ]


def main() -> None:
    requirements = pins((CONF / "requirements-cpu.txt").read_text())
    hashes: dict[str, set[str]] = defaultdict(set)
    here = chosen(requirements)
    for name, version, _, digest in here:
        hashes[f"{name}=={version}"].add(digest)
    # A source archive is the same everywhere, and pip takes only wheels for another machine.
    sources = {f"{name}=={version}".lower() for name, version, url, _ in here if ".whl" not in url}
    wheels = [each for each in requirements if each.lower() not in sources]
    tags = [f"manylinux_2_{minor}_x86_64" for minor in GLIBCS]
    tags += ["manylinux2014_x86_64", "linux_x86_64"]
    platforms = [word for tag in tags for word in ("--platform", tag)]
    for python in PYTHONS:
        target = ["--python-version", python, "--only-binary", ":all:", *platforms]
        for name, version, _, digest in chosen(wheels, *target):
            hashes[f"{name}=={version}"].add(digest)
    entries = [
        " \\\n".join([pin, *(f"    --hash=sha256:{digest}" for digest in sorted(digests))])
        for pin, digests in sorted(hashes.items(), key=lambda item: item[0].lower())
    ]
    (CONF / "hashes-cpu.txt").write_text(HEAD + "\n".join(entries) + "\n")


if __name__ == "__main__":
    main()
