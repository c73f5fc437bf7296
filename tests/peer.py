"""Programs that do not come from PyPI: where they are, and what a test does without them."""

from __future__ import annotations

import os
import shutil

import pytest

_PLACES = ("/usr/local/sbin", "/usr/sbin", "/sbin")
"""Where servers are installed; not on an ordinary user's PATH."""


def need(program: str) -> str:
    """The path of a program. Without it the test is skipped, except where CI is set: there it fails."""
    path = shutil.which(program, path=os.pathsep.join((os.environ.get("PATH", os.defpath), *_PLACES)))
    if path is not None:
        return path
    if os.environ.get("CI"):
        pytest.fail(f"{program} is not installed, and under CI nothing may be skipped for that", pytrace=False)
    pytest.skip(f"{program} is not installed")
