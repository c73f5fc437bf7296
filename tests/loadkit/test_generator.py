"""The load against a scripted sink: what it sends arrives, what it is told is on record."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import Counter

import pytest

from relay.loadkit.attempt import Attempt
from relay.loadkit.generator import Load, RemoteTarget, resolve
from relay.loadkit.message import Template, identify, stuff, unstuff
from relay.loadkit.mixture import Mixture
from relay.loadkit.pattern import Burst, Rate
from relay.loadkit.sink import Sink
from tests.loadkit.conftest import StartSink

USERS = {"u1": "one", "u2": "two"}


def load(sink: Sink, connections: int = 4, messages: int | None = 40, **more: object) -> Load:
    return Load("127.0.0.1", sink.port, [("u1", "one"), ("u2", "two")], connections, messages, **more)  # type: ignore[arg-type]


def ends(attempts: list[Attempt]) -> Counter[tuple[int, str | None]]:
    return Counter((attempt.code, attempt.stage) for attempt in attempts)


@pytest.mark.parametrize("size", [0, 1, 20, 100, 333, 334, 335, 336, 2048, 50_000])
def test_a_message_reads_back_as_it_was_written(size: int) -> None:
    wire = Template(size, 4).write("id-1", "a@b.example", "c@d.example")
    content = unstuff(wire[:-3])
    assert wire.endswith(b"\r\n.\r\n")
    assert b"\r\n.\r\n" not in wire[:-5] + b"\r\n"
    assert stuff(content) + b".\r\n" == wire
    assert identify(content) == ("id-1", True)
    assert identify(content[:-3] + b"X\r\n") == ("id-1", False)
    assert abs(len(content.partition(b"\r\n\r\n")[2]) - max(size, 6)) <= 1


async def test_every_message_arrives_intact_and_by_the_right_user(start_sink: StartSink) -> None:
    sink = await start_sink(credentials=USERS)
    seen: list[int] = []
    run = load(sink, recipients=3)
    attempts = await run.run(lambda attempts: seen.append(len(attempts)))
    assert ends(attempts) == {(250, None): 40}
    assert seen[-1] == 40
    by_id = {message.id: message for message in sink.messages}
    assert len(by_id) == 40
    assert (sink.damaged, sink.duplicates) == (0, 0)
    for attempt in attempts:
        assert by_id[attempt.load_id].user == attempt.user == f"u{attempt.connection % 2 + 1}"
        assert len(by_id[attempt.load_id].recipients) == attempt.units == 3
        assert attempt.started <= attempt.dot_sent <= attempt.replied
        assert abs(attempt.replied_at - time.time()) < 10


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
async def test_a_load_may_go_over_tls(start_sink: StartSink, certificate: ssl.SSLContext, tls: str) -> None:
    sink = await start_sink(tls=tls, certificate=certificate, credentials=USERS)
    assert ends(await load(sink, tls=tls).run()) == {(250, None): 40}


async def test_a_load_goes_one_by_one_where_the_sink_does_not_pipeline(start_sink: StartSink) -> None:
    sink = await start_sink('data every=2 reply="451 4.7.0 Hourly; retry-after=7"', without=["PIPELINING"], credentials=USERS)
    assert ends(await load(sink).run()) == {(250, None): 20, (451, "data"): 20}


async def test_a_connection_carries_no_more_messages_than_it_may(start_sink: StartSink) -> None:
    sink = await start_sink(credentials=USERS)
    await load(sink, connections=2, messages=20, per_connection=5).run()
    assert 4 <= sink.intake.connections <= 5
    assert sink.intake.answered == 20


async def test_refusals_are_recorded_with_their_stage_and_wait(start_sink: StartSink) -> None:
    sink = await start_sink(
        'mail every=10 reply="451 4.0.0 mail"',
        'rcpt every=9 reply="550 5.1.1 rcpt"',
        'data every=4 reply="451 4.7.0 Hourly sending limit reached (2/2 messages); retry-after=1312 at=2026-11-21T10:21:52Z"',
        'dot every=9 reply="554 5.6.0 dot"',
        credentials=USERS,
    )
    attempts = await load(sink).run()
    assert ends(attempts) == {(451, "mail"): 4, (550, "rcpt"): 4, (451, "data"): 8, (554, "dot"): 2, (250, None): 22}
    assert {attempt.retry_after for attempt in attempts if attempt.stage == "data"} == {1312}
    assert {attempt.retry_after for attempt in attempts if attempt.stage != "data"} == {None}
    assert all(attempt.dot_sent == 0 for attempt in attempts if attempt.stage in ("mail", "rcpt", "data"))
    assert sink.intake.answered == 22


async def test_a_421_and_a_lost_connection_are_recorded_and_made_anew(start_sink: StartSink) -> None:
    sink = await start_sink('data every=10 reply="421 4.7.0 enough; retry-after=3" close', "dot every=9 drop", credentials=USERS)
    attempts = await load(sink).run()
    assert ends(attempts) == {(421, "data"): 4, (0, "dot"): 4, (250, None): 32}
    assert sum(attempt.is_unanswered for attempt in attempts) == 4
    assert sink.intake.unanswered == 4
    assert sink.intake.connections > 4


async def test_garbage_ends_the_connection_and_a_surplus_reply_is_mistaken_for_nothing(start_sink: StartSink) -> None:
    sink = await start_sink("dot first=1 garbage", "dot every=5 twice", credentials=USERS)
    attempts = await load(sink, connections=1, messages=20).run()
    assert ends(attempts) == {(0, "dot"): 1, (250, None): 19}
    assert {attempt.load_id for attempt in attempts if attempt.is_taken} == set(sink.ids)


async def test_a_silent_server_is_given_up(start_sink: StartSink) -> None:
    sink = await start_sink("dot first=1 stall=forever", credentials=USERS)
    assert ends(await load(sink, connections=1, messages=3, timeout=0.2).run()) == {(0, "dot"): 1, (250, None): 2}


async def test_a_wrong_password_is_recorded_once_and_the_others_go_on(start_sink: StartSink) -> None:
    sink = await start_sink(credentials={"u1": "one", "u2": "changed"})
    attempts = await load(sink, connections=2, messages=10).run()
    assert ends(attempts) == {(535, "auth"): 1, (250, None): 10}
    [refused] = [attempt for attempt in attempts if attempt.stage == "auth"]
    assert (refused.user, refused.load_id, refused.units) == ("u2", "", 0)


async def test_a_server_that_comes_back_within_patience_is_found_again(start_sink: StartSink) -> None:
    sink = await start_sink(credentials=USERS)
    run = load(sink, connections=2, messages=30, pattern=Rate(50.0))
    sending = asyncio.create_task(run.run())
    async with asyncio.timeout(20):
        while not sink.intake.answered:
            await asyncio.sleep(0.01)
        await sink.stop()
        before = sink.intake.answered
        while not any(attempt.stage == "connect" for attempt in run.attempts):
            await asyncio.sleep(0.01)
        await sink.start()
        attempts = await sending
    taken = sum(attempt.is_taken for attempt in attempts)
    assert sink.intake.answered >= taken > before > 0


async def test_an_absent_server_ends_the_load_when_patience_does() -> None:
    sink = Sink()
    await sink.start()
    await sink.stop()
    attempts = await load(sink, connections=1, patience=0.3).run()
    assert {attempt.stage for attempt in attempts} == {"connect"}
    assert 2 <= len(attempts) <= 6


async def test_a_rate_is_kept_and_seconds_end_the_load(start_sink: StartSink) -> None:
    sink = await start_sink(credentials=USERS)
    began = time.monotonic()
    attempts = await load(sink, messages=None, seconds=0.5, rate=40).run()
    assert time.monotonic() - began < 2
    assert 10 <= len(attempts) <= 21


async def test_what_had_to_wait_for_a_slow_server_counts_from_when_it_was_due(start_sink: StartSink) -> None:
    sink = await start_sink("dot first=1 stall=0.5", credentials=USERS)
    run = load(sink, connections=1, messages=5, pattern=Burst(5, 60.0))
    attempts = await run.run()
    assert [attempt.due for attempt in attempts] == [run.began] * 5
    assert min(attempt.latency for attempt in attempts) >= 0.5
    assert sum(attempt.replied - attempt.started > 0.5 for attempt in attempts) == 1


async def test_a_load_of_so_many_messages_ends_with_the_last_and_waits_for_no_other(start_sink: StartSink) -> None:
    sink = await start_sink(credentials=USERS)
    attempts = await load(sink, connections=4, messages=6, pattern=Burst(6, 60.0)).run()
    assert len(attempts) == 6


async def test_a_connection_that_was_lost_while_it_waited_is_made_anew_and_the_message_sent(start_sink: StartSink) -> None:
    sink = await start_sink("dot first=1 close", credentials=USERS)
    attempts = await load(sink, connections=1, messages=3, pattern=Rate(5.0)).run()
    assert ends(attempts) == {(250, None): 3}
    assert sink.intake.connections == 2


@pytest.mark.parametrize("greeting", [(), ('ehlo reply="250 sink.example"',)], ids=["pipelined", "one by one"])
async def test_to_be_told_to_go_in_answer_to_a_reset_is_on_record(start_sink: StartSink, greeting: tuple[str, ...]) -> None:
    sink = await start_sink('data first=1 reply="451 4.0.0 busy"', 'rset reply="421 4.3.2 going" close', *greeting)
    attempts = await Load("127.0.0.1", sink.port, connections=1, messages=3).run()
    assert [(attempt.code, attempt.stage) for attempt in attempts] == [(451, "data"), (421, "mail"), (250, None)]
    assert attempts[1].text == "4.3.2 going"


async def test_sizes_and_recipients_may_vary_and_do_so_alike_for_the_same_seed(start_sink: StartSink) -> None:
    sink = await start_sink(credentials=USERS)
    seen = []
    for _ in range(2):
        run = load(sink, 1, size=Mixture.parse("300,5k-9k"), recipients=Mixture.parse("1-3"), seed=5)
        attempts = await run.run()
        seen.append([attempt.units for attempt in attempts])
    assert seen[0] == seen[1]
    assert set(seen[0]) == {1, 2, 3}
    assert {len(message.recipients) for message in sink.messages} == {1, 2, 3}
    assert min(message.size for message in sink.messages) < 1000 < 5000 < max(message.size for message in sink.messages)
    assert sink.damaged == 0


async def test_a_stubborn_load_tries_a_refused_login_again_with_the_password_it_is_given(start_sink: StartSink) -> None:
    sink = await start_sink(credentials={"u1": "one", "u2": "changed"})
    run = load(sink, connections=2, messages=30, is_stubborn=True)
    sending = asyncio.create_task(run.run())
    while not run.attempts:
        await asyncio.sleep(0.01)
    run.passwords["u2"] = "changed"
    attempts = await sending
    assert Counter(attempt.stage for attempt in attempts)["auth"] >= 1
    assert {attempt.user for attempt in attempts if attempt.is_taken} == {"u1", "u2"}


async def test_a_load_that_is_cancelled_ends_at_once_amid_a_message(start_sink: StartSink) -> None:
    sink = await start_sink("data stall=forever", credentials=USERS)
    run = load(sink, connections=2, messages=30)
    sending = asyncio.create_task(run.run())
    while sink.intake.replies[250] < 6:
        await asyncio.sleep(0.01)
    began = time.monotonic()
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    assert time.monotonic() - began < 20, "not the time-out of a reply"
    assert len(run.attempts) == 2


async def test_another_machine_is_not_dialled_unless_asked_for() -> None:
    with pytest.raises(RemoteTarget, match=r"192\.0\.2\.1.*--allow-remote"):
        await Load("192.0.2.1", 25, messages=1).run()
    assert await resolve("192.0.2.1", 25, allow_remote=True) == "192.0.2.1"
    assert await resolve("127.0.0.1", 25) == "127.0.0.1"


@pytest.mark.parametrize("host", ["nowhere.invalid", "a..b"])
async def test_a_host_without_an_address_is_named(host: str) -> None:
    with pytest.raises(OSError, match=f"^{host}: "):
        await resolve(host, 25)


def test_a_taken_attempt_names_the_relays_id() -> None:
    attempt = Attempt("l1", "u", 0, 1, code=250, text="2.0.0 ab12-3 2.0.0 Ok: queued as 9")
    assert attempt.relay_id == "ab12-3"
    attempt.stage = "dot"
    assert attempt.relay_id == ""
