"""The pinned requirements: whole, hashed, true to pyproject.toml, and free of any one machine's addresses."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
FILES = ("requirements.txt", "requirements-test.txt")


def pins(name: str) -> dict[str, tuple[Version, int]]:
    """Each package of a file of pins: its version and how many hashes it has."""
    text = (ROOT / "config" / name).read_text().replace("\\\n", " ")
    found: dict[str, tuple[Version, int]] = {}
    for line in text.splitlines():
        match = re.fullmatch(r"([a-z0-9._-]+)==(\S+)( ; [^#]*?)?((?: +--hash=sha256:[0-9a-f]{64})+) *", line)
        assert match is not None, f"{name}: not a pin with hashes: {line[:80]}"
        found[canonicalize_name(match[1])] = (Version(match[2]), str(match[4]).count("--hash"))
    return found


def wanted(*extras: str) -> list[Requirement]:
    """What pyproject.toml asks for, its build backend included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    texts = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    for extra in extras:
        texts += project["project"]["optional-dependencies"][extra]
    return [Requirement(text) for text in texts]


@pytest.mark.parametrize(("name", "extras"), [("requirements.txt", ["embedded"]), ("requirements-test.txt", ["embedded", "test"])])
def test_every_requirement_is_pinned_to_a_version_that_is_allowed(name: str, extras: list[str]) -> None:
    found = pins(name)
    for requirement in wanted(*extras):
        package = canonicalize_name(requirement.name)
        assert package in found, f"{name} lacks {requirement}; run .ci/pin"
        assert requirement.specifier.contains(found[package][0], prereleases=True), f"{name}: {requirement}; run .ci/pin"


def test_the_tests_run_on_the_versions_that_are_installed_to_run() -> None:
    tested = pins("requirements-test.txt")
    assert pins("requirements.txt").items() <= tested.items()


@pytest.mark.parametrize("name", FILES)
def test_the_pins_name_no_address_and_no_path(name: str) -> None:
    text = (ROOT / "config" / name).read_text()
    assert not re.search(r"://|--(extra-)?index|--find-links|^#|@ ", text, re.MULTILINE)
    assert not re.search(r"(^|\s)\.?/", text)
