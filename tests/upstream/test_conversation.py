"""Replies matched to commands, whatever the smarthost writes and however it arrives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.upstream.conversation import MAX_REPLY, Broken, Conversation, Overdue


class Line(asyncio.Transport):
    """A transport to nobody, that keeps what was written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.is_cut = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return self.is_cut

    def close(self) -> None:
        self.is_cut = True

    def abort(self) -> None:
        self.is_cut = True


def talk(owed: int) -> tuple[Conversation, Line]:
    """A conversation that waits for so many replies."""
    conversation, line = Conversation(asyncio.get_running_loop()), Line()
    conversation.connection_made(line)
    if owed:
        conversation.send(b"X\r\n" * owed, replies=owed)
    return conversation, line


async def heard(conversation: Conversation, count: int) -> list[tuple[int, str]]:
    """So many replies, or those there are and (0, "") where it is broken."""
    replies: list[tuple[int, str]] = []
    try:
        while len(replies) < count:
            replies.append(await conversation.reply())
    except Broken:
        replies.append((0, ""))
    return replies


def reference(stream: bytes, owed: int) -> list[tuple[int, str]]:
    """What a reader of the whole stream makes of it."""
    found: list[tuple[int, str]] = []
    lines: list[str] = []
    for raw in stream.split(b"\n")[:-1]:
        line = raw.rstrip(b"\r").decode("utf-8", "replace")
        is_reply = (
            line[:3].isascii() and line[:3].isdigit() and len(line) >= 3 and "200" <= line[:3] < "600" and line[3:4] in ("", " ", "-")
        )
        if not is_reply or (lines and lines[0][:3] != line[:3]) or len(found) == owed:
            return [*found, (0, "")]
        lines.append(line)
        if line[3:4] != "-":
            found.append((int(line[:3]), "\n".join(part[4:] for part in lines)))
            lines = []
    return found


def whole_replies(count: int) -> bytes:
    return b"".join(b"250-a%d\r\n250 b%d\r\n" % (i, i) for i in range(count))


PIECES = st.sampled_from([
    b"250 ok\r\n", b"250-more\r\n", b"250 \r\n", b"250\r\n", b"354 go\n", b"550-no\r\n", b"550 5.1.1 no\r\n", b"421 bye\r\n", b"\r\n",
    b"garbage\r\n", b"2", b"50 x", b"600 no\r\n", b"199 no\r\n", b"250_x\r\n", b"\xff\xfe\r\n", b"250 \xc3\xbc\r\n",
])  # fmt: skip


@given(st.lists(PIECES, max_size=8).map(b"".join), st.integers(0, 5), st.lists(st.integers(1, 9), max_size=30))
async def test_any_splitting_of_what_the_smarthost_writes_is_heard_as_the_same_replies(
    stream: bytes, owed: int, sizes: Sequence[int]
) -> None:
    conversation, line = talk(owed)
    rest = stream
    for size in [*sizes, len(stream)]:
        if not rest:
            break
        piece, rest = rest[:size], rest[size:]
        conversation.data_received(piece)
    expected = reference(stream, owed)
    assert line.is_cut == ((0, "") in expected)
    assert await heard(conversation, len(expected)) == expected


async def test_a_reply_split_bytewise_is_one_reply() -> None:
    conversation, _ = talk(3)
    for i in whole_replies(3):
        conversation.data_received(bytes([i]))
    assert await heard(conversation, 3) == [(250, "a0\nb0"), (250, "a1\nb1"), (250, "a2\nb2")]
    assert conversation.is_clean


@pytest.mark.parametrize("joint", [b"", None])
async def test_after_garbage_nothing_is_an_answer_any_more(joint: bytes | None) -> None:
    conversation, line = talk(1)
    if joint is None:
        conversation.data_received(b"garbage\r\n")
        conversation.data_received(b"250 ok\r\n")
    else:
        conversation.data_received(b"garbage\r\n250 ok\r\n")
    with pytest.raises(Broken, match="no SMTP reply"):
        await conversation.reply()
    assert line.is_cut and not conversation.is_clean


async def test_a_reply_to_no_command_breaks_the_conversation() -> None:
    conversation, line = talk(1)
    conversation.data_received(b"250 ok\r\n250 surplus\r\n")
    assert await conversation.reply() == (250, "ok")
    assert line.is_cut
    with pytest.raises(Broken):
        conversation.send(b"MAIL\r\n", replies=1)


async def test_a_session_is_not_clean_while_a_reply_nobody_asked_for_is_coming_in() -> None:
    conversation, _ = talk(1)
    conversation.data_received(b"250 ok\r\n250-surplus\r\n")
    assert await conversation.reply() == (250, "ok")
    assert not conversation.is_clean


async def test_lines_of_one_reply_with_different_codes_are_no_reply() -> None:
    conversation, _ = talk(1)
    conversation.data_received(b"250-yes\r\n550 no\r\n")
    with pytest.raises(Broken):
        await conversation.reply()


@pytest.mark.parametrize("line", [b"250-\r\n", b"250-" + b"x" * 500 + b"\r\n", b"2" * 1000])
async def test_a_reply_without_an_end_is_cut_off(line: bytes) -> None:
    conversation, transport = talk(1)
    sent = 0
    while not transport.is_cut and sent < 3 * MAX_REPLY:
        conversation.data_received(line)
        sent += len(line)
    assert transport.is_cut
    with pytest.raises(Broken, match=r"without an end|no SMTP reply"):
        await conversation.reply()


async def test_what_was_answered_before_the_connection_ended_is_still_heard() -> None:
    conversation, _ = talk(2)
    conversation.data_received(b"250 ok\r\n")
    conversation.eof_received()
    conversation.connection_lost(None)
    assert await conversation.reply() == (250, "ok")
    with pytest.raises(Broken, match="closed by the smarthost"):
        await conversation.reply()


async def test_who_stops_waiting_breaks_the_conversation() -> None:
    conversation, line = talk(1)
    waiting = asyncio.create_task(conversation.reply())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert line.is_cut and not conversation.is_clean


async def test_it_says_quit_only_where_nothing_is_owed() -> None:
    clean, line = talk(0)
    clean.quit()
    assert (line.written, line.is_cut) == (b"QUIT\r\n", True)
    owing, line = talk(1)
    owing.quit()
    assert (line.written, line.is_cut) == (b"X\r\n", True)


@pytest.mark.parametrize("partial", [b"", b"250-al", b"250-almost\r\n"])
async def test_an_interrupted_wait_leaves_the_reply_to_be_asked_for_again(partial: bytes) -> None:
    conversation, line = talk(1)
    waiting = asyncio.create_task(conversation.reply())
    await asyncio.sleep(0)
    conversation.data_received(partial)
    conversation.interrupt()
    with pytest.raises(Overdue):
        await waiting
    assert conversation.owed == 1 and not line.is_cut
    conversation.data_received(b"250-almost\r\n"[len(partial) :] + b"250 done\r\n")
    assert await conversation.reply() == (250, "almost\ndone")
    assert conversation.is_clean


@pytest.mark.parametrize("comes_first", [False, True])
async def test_a_reply_that_comes_together_with_the_interruption_is_heard(comes_first: bool) -> None:
    conversation, _ = talk(1)
    waiting = asyncio.create_task(conversation.reply())
    await asyncio.sleep(0)
    deeds = [lambda: conversation.data_received(b"250 done\r\n"), conversation.interrupt]
    for deed in deeds if comes_first else reversed(deeds):
        deed()
    assert await waiting == (250, "done")
    conversation.interrupt()
    conversation.send(b"X\r\n", replies=1)
    again = asyncio.create_task(conversation.reply())
    await asyncio.sleep(0)
    assert not again.done()
    conversation.data_received(b"250 more\r\n")
    assert await again == (250, "more")


GO_AHEAD = b"250 sender ok\r\n250 recipient ok\r\n354 go\r\n"


def flight(conversation: Conversation, replies: int = 3) -> tuple[list[str], asyncio.Task[tuple[int, str]]]:
    """A flight that asks for the content: what is done at the go-ahead, and what waits for the next reply."""
    deeds: list[str] = []

    def go_on() -> None:
        deeds.append("content")
        conversation.send_content(b"head", b"content", b".\r\n")

    async def hear() -> tuple[int, str]:
        await conversation.wait()
        return conversation.take()

    conversation.send(b"X\r\n" * replies, replies, go_on)
    return deeds, asyncio.create_task(hear())


async def test_the_go_ahead_is_followed_in_its_own_turn_and_nobody_hears_of_it() -> None:
    conversation, line = talk(0)
    for text in (GO_AHEAD, GO_AHEAD, GO_AHEAD.upper()):  # read, remembered, worded in another way
        deeds, hearing = flight(conversation)
        await asyncio.sleep(0)
        conversation.data_received(text)
        assert deeds == ["content"] and line.written.endswith(b"headcontent.\r\n")
        await asyncio.sleep(0)
        assert not hearing.done() and conversation.owed == 1
        conversation.data_received(b"250 taken\r\n")
        assert await hearing == (250, "taken")
        assert conversation.is_clean


@pytest.mark.parametrize(
    ("text", "first"),
    [
        (b"250 ok\r\n550 no\r\n354 go\r\n", (250, "ok")),
        (b"250 ok\r\n250 ok\r\n250 what\r\n", (250, "ok")),
        (b"354 what\r\n250 ok\r\n354 go\r\n", (354, "what")),
        (b"250 ok\r\n250 ok\r\n354 go\r\n250 surplus\r\n", (250, "ok")),
        (b"250 ok\r\n250 ok\r\n354 go\r\n2", (250, "ok")),
        (b"250 ok\r\n", (250, "ok")),
    ],
)  # fmt: skip
async def test_what_is_no_go_ahead_is_heard_reply_by_reply(text: bytes, first: tuple[int, str]) -> None:
    conversation, _ = talk(0)
    deeds, hearing = flight(conversation)
    await asyncio.sleep(0)
    conversation.data_received(text)
    assert await hearing == first
    conversation.data_received(GO_AHEAD)
    assert deeds == []


async def test_the_go_ahead_to_another_number_of_commands_is_not_taken_for_a_known_one() -> None:
    conversation, _ = talk(0)
    deeds, hearing = flight(conversation)
    await asyncio.sleep(0)
    conversation.data_received(GO_AHEAD + b"")
    conversation.data_received(b"250 taken\r\n")
    await hearing
    deeds, hearing = flight(conversation, 4)
    await asyncio.sleep(0)
    conversation.data_received(GO_AHEAD)
    assert await hearing == (250, "sender ok") and deeds == [] and conversation.owed == 3


@pytest.mark.parametrize("is_known", [False, True])
@pytest.mark.parametrize("end", [lambda conversation, hearing: hearing.cancel(), lambda conversation, hearing: conversation.interrupt()])
async def test_nothing_follows_a_go_ahead_that_nobody_waits_for_any_more(
    end: Callable[[Conversation, asyncio.Task[tuple[int, str]]], object], is_known: bool
) -> None:
    conversation, _ = talk(0)
    if is_known:
        _, hearing = flight(conversation)
        await asyncio.sleep(0)
        conversation.data_received(GO_AHEAD)
        conversation.data_received(b"250 taken\r\n")
        await hearing
    deeds, hearing = flight(conversation)
    await asyncio.sleep(0)
    end(conversation, hearing)
    conversation.data_received(GO_AHEAD)
    (outcome,) = await asyncio.gather(hearing, return_exceptions=True)
    assert deeds == [] and (outcome == (250, "sender ok") or isinstance(outcome, asyncio.CancelledError))


async def test_a_broken_conversation_follows_no_go_ahead() -> None:
    conversation, _ = talk(0)
    deeds, hearing = flight(conversation)
    await asyncio.sleep(0)
    conversation.abort()
    conversation.data_received(GO_AHEAD)
    with pytest.raises(Broken, match="aborted"):
        await hearing
    assert deeds == []
