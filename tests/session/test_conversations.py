"""The golden dialogs of tests/conversations; their format is told in `dialog`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.session.conftest import Opening
from tests.session.dialog import Mismatch, play, read

FILES = sorted((Path(__file__).parent.parent / "conversations").glob("*.smtp"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
async def test_the_relay_answers_as_the_dialog_says(path: Path, open_worker: Opening) -> None:
    try:
        await play(read(path), open_worker)
    except Mismatch as mismatch:
        pytest.fail(f"{path.name}, {mismatch}", pytrace=False)
