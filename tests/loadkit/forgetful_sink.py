"""A sink that loses a message: python -m tests.loadkit.forgetful_sink PORT. It answers 250 to each, and counts one less than came."""

from __future__ import annotations

import asyncio
import sys

from relay.loadkit.sink import Sink


async def main() -> None:
    """Serve until the end."""
    sink = Sink("127.0.0.1", int(sys.argv[1]))
    await sink.start()
    while True:
        print(f"messages={max(0, sink.intake.answered - 1)}", flush=True)
        await asyncio.sleep(0.1)


if __name__ == "__main__":
    asyncio.run(main())
