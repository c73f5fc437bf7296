"""A change of an account holds from the answer on: nothing that it forbids is taken after, however busy the connections are.

Each test keeps connections sending, makes the change through the door an admin uses, and compares the instant of the answer with
the commit instants of what was taken. Both are this machine's clock, which is the store's too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from smtplib import SMTP

from relay.loadkit.generator import Load
from relay.loadkit.script import Script
from relay.loadkit.sink import Sink
from tests.running import Relay, User, running
from tests.surroundings import until
from tests.talking import logged_in, offer

ROUNDS = 3
CONNECTIONS = 20
Change = Callable[[Relay, User], Awaitable[object]]


async def _disable(relay: Relay, user: User) -> None:
    await relay.tes("editSmtp", smtp_user_name=user.name, status="Disable")


async def _reset(relay: Relay, user: User) -> None:
    await relay.tes("resetSmtpPassword", smtp_user_name=user.name)


async def _disable_owner(relay: Relay, user: User) -> None:
    await relay.cli("owner", "disable", relay.owner)


async def _delete(relay: Relay, user: User) -> None:
    await relay.cli("user", "delete", user.name, "--yes")


async def _busy(relay: Relay, user: User, change: Change, seconds: float = 2.0) -> tuple[float, list[float]]:
    """Make the change amid traffic; the instant it was answered, and all commit instants (s)."""
    load = Load("127.0.0.1", relay.smtp, [(user.name, user.password)], connections=CONNECTIONS, seconds=seconds, size=500, patience=0.2)
    sending = asyncio.create_task(load.run())
    await until(lambda: sum(attempt.is_taken for attempt in load.attempts) > 5 * CONNECTIONS, what="traffic")
    await change(relay, user)
    answered = time.time()
    await sending
    taken = [line["at"] / 1e6 for line in relay.events("taken") if line["user"] == user.name]
    assert len(taken) > 20, "the connections were to be busy"
    assert 0 not in taken
    return answered, taken


async def _rounds(place: Path, sink: Sink, change: Change, owner_each: bool = False) -> list[float]:
    """Seconds from the answer to the last commit, negative when the commit came first, for each round."""
    late = []
    sink.script = Script.parse(["dot p=0.2 stall=0.05"])  # so that there is always something in flight
    async with running(place / "relay", sink.port) as relay:
        for _ in range(ROUNDS):
            if owner_each:
                await relay.add_owner()
            user = await relay.add_user(hourly=1_000_000, total=10_000_000)
            answered, taken = await _busy(relay, user, change)
            late.append(max(taken) - answered)
        assert not relay.events("change_overtaken", "bug")
    print(f"last commit after the answer, s: {sorted(round(x, 4) for x in late)}")
    return late


async def test_nothing_is_taken_after_a_disabled_user_was_answered(place: Path, sink: Sink) -> None:
    assert max(await _rounds(place, sink, _disable)) <= 0


async def test_nothing_is_taken_after_a_reset_password_was_answered(place: Path, sink: Sink) -> None:
    assert max(await _rounds(place, sink, _reset)) <= 0


async def test_nothing_is_taken_after_a_disabled_owner_was_answered(place: Path, sink: Sink) -> None:
    assert max(await _rounds(place, sink, _disable_owner, owner_each=True)) <= 0


async def test_nothing_is_taken_after_a_deleted_user_was_answered(place: Path, sink: Sink) -> None:
    assert max(await _rounds(place, sink, _delete)) <= 0


async def test_nothing_above_a_lowered_limit_is_taken_after_it_was_answered(place: Path, sink: Sink) -> None:
    async def lower(relay: Relay, user: User) -> None:
        await relay.tes("editSmtp", smtp_user_name=user.name, hourly_limit=10)

    assert max(await _rounds(place, sink, lower)) <= 0


async def test_a_message_that_is_being_uploaded_meets_the_change_at_its_dot(place: Path, sink: Sink) -> None:
    cases: list[tuple[Change, int, bytes]] = [
        (_disable, 550, b"5.7.13 "),
        (_reset, 530, b"5.7.0 "),
        (_lower_total, 550, b"5.7.1 Total"),
        (_disable_owner, 550, b"5.7.13 "),
    ]
    async with running(place / "relay", sink.port) as relay:
        for change, code, text in cases:
            user = await relay.add_user(hourly=5, total=5)
            await asyncio.to_thread(relay.send, user, 2)
            client = await asyncio.to_thread(logged_in, relay, user)
            client.mail("app@example.com")
            client.rcpt("to@example.net")
            assert client.docmd("DATA")[0] == 354
            client.send(b"Subject: slow\r\n\r\nhalf of it,")
            began = time.monotonic()
            await change(relay, user)
            assert time.monotonic() - began < 10, "a change does not wait for an upload to end"
            client.send(b" and the rest\r\n.\r\n")
            found = client.getreply()
            assert (found[0], found[1][: len(text)]) == (code, text)
            if code != 550 or b"5.7.13" in text:
                assert client.noop()[0] == 421
            client.close()
        assert sink.intake.answered == 2 * len(cases)


async def _lower_total(relay: Relay, user: User) -> None:
    await relay.tes("editSmtp", smtp_user_name=user.name, total_limit=2)


async def test_a_lowered_limit_that_still_fits_is_answered_at_once_amid_uploads(place: Path, sink: Sink) -> None:
    async with running(place / "relay", sink.port, workers=2) as relay:
        user = await relay.add_user(hourly=1000)
        clients = [await asyncio.to_thread(_uploading, relay, user) for _ in range(8)]
        for limit in range(900, 890, -1):
            began = time.monotonic()
            await relay.tes("editSmtp", smtp_user_name=user.name, hourly_limit=limit)
            assert time.monotonic() - began < 2
        assert not relay.events("change_overtaken")
        for client in clients:
            client.send(b".\r\n")
            assert (await asyncio.to_thread(client.getreply))[0] == 250
            client.close()


async def test_an_edit_that_repeats_or_follows_another_holds_from_its_own_answer(place: Path, sink: Sink) -> None:
    sink.script = Script.parse(["dot stall=2"])
    pairs: list[tuple[dict[str, object], dict[str, object]]] = [
        ({"status": "Disable"}, {"status": "Disable"}),
        ({"hourly_limit": 1}, {"hourly_limit": 2}),
    ]
    async with running(place / "relay", sink.port, workers=1) as relay:
        for first, second in pairs:
            user = await relay.add_user(hourly=1000)
            clients = [await asyncio.to_thread(logged_in, relay, user) for _ in range(3)]
            sending = [asyncio.create_task(asyncio.to_thread(offer, client)) for client in clients]
            await asyncio.sleep(0.7)
            edit = asyncio.create_task(relay.tes("editSmtp", smtp_user_name=user.name, **first))
            await asyncio.sleep(0.2)
            await relay.tes("editSmtp", smtp_user_name=user.name, **second)
            answered = time.time()
            assert [(await reply)[0] for reply in sending] == [250] * 3  # they were at the smarthost before the first edit
            await edit
            assert max(line["at"] / 1e6 for line in relay.events("taken") if line["user"] == user.name) <= answered
            for client in clients:
                client.close()


async def test_a_connection_of_a_deleted_user_does_not_send_as_the_next_one_of_that_name(place: Path, sink: Sink) -> None:
    async with running(place / "relay", sink.port, workers=1) as relay:
        await relay.add_owner()
        other = (await relay.cli("owner", "add", "Other"))["owner_id"]
        users = place / "users.csv"
        users.write_text("bob,old-password,10,100\n")
        await relay.cli("user", "import", str(users), "--owner", relay.owner)
        client = await asyncio.to_thread(logged_in, relay, User("bob", "old-password"))
        assert (await asyncio.to_thread(offer, client))[0] == 250
        await relay.cli("user", "delete", "bob", "--yes")
        users.write_text("bob,new-password,10,100\n")
        await relay.cli("user", "import", str(users), "--owner", other)
        assert (await asyncio.to_thread(offer, client))[0] == 530
        client.close()
        assert (await relay.usage(User("bob", "new-password")))["sent_total"] == 0


def _uploading(relay: Relay, user: User) -> SMTP:
    client = logged_in(relay, user)
    client.mail("app@example.com")
    client.rcpt("to@example.net")
    assert client.docmd("DATA")[0] == 354
    client.send(b"Subject: slow\r\n\r\n")
    return client
