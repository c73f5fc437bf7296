"""Asking a store that may be away for a moment."""

from __future__ import annotations

import asyncio
from typing import Any

from relay.store.client import Store, StoreUnavailable


async def patiently(store: Store, *command: str) -> Any:
    """Repeat a command until the store answers."""
    async with asyncio.timeout(10):
        while True:
            try:
                return await store.command(*command)
            except StoreUnavailable:
                await asyncio.sleep(0.02)
