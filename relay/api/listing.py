"""Listings, sent a page at a time however long they are.

Promise: what fails before the second page is answered as an error; later, the answer is cut off.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from starlette.responses import Response, StreamingResponse

from relay.accounts.user import Entry

JSON = "application/json"
NO_STORE = {"Cache-Control": "no-store"}
"""Answers carry passwords: nothing on the way may keep them."""


async def answer_pages(pages: AsyncIterator[list[Entry]], begins: bytes, ends: bytes, write: Callable[[list[Entry]], bytes]) -> Response:
    """Answer with `begins`, what `write` makes of each page, joined by commas, and `ends`."""
    first = await anext(pages, None)
    second = await anext(pages, None) if first is not None else None
    head = begins + (write(first) if first is not None else b"")
    if second is None:
        return Response(head + ends, media_type=JSON, headers=NO_STORE)
    follows = write(second)

    async def body() -> AsyncIterator[bytes]:
        yield head
        yield b"," + follows
        async for page in pages:
            yield b"," + write(page)
        yield ends

    return StreamingResponse(body(), media_type=JSON, headers=NO_STORE)
