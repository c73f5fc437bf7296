"""The runner on real things: what it tries, in which order, what it records, and what it leaves for a person."""

from __future__ import annotations

import asyncio
import email
from dataclasses import replace

import pytest

from relay.mail.envelope import Envelope, Recipient
from relay.quota.ledger import key
from relay.spool.entry import Standing
from relay.store.client import Store
from tests.retry.conftest import SCHEDULE, Bench, Starting
from tests.running import free_port


async def test_an_entry_is_settled_before_it_is_sent_and_gone_after(bench: Bench, retrying: Starting) -> None:
    bench.script("connect stall=0.3")
    await bench.put()
    async with retrying():
        async with asyncio.timeout(5):
            while not (entry := await bench.spool.find("m.1")) or not entry.claimed_by:
                await asyncio.sleep(0.01)
        assert entry.is_settled
        assert (await bench.taken(), bench.sink.intake.answered) == (1, 0)
        await bench.until_gone()
    assert (await bench.taken(), bench.sink.intake.answered) == (1, 1)
    (settled,), (delivered,) = bench.events("settled"), bench.events("delivered")
    assert settled["id"] == delivered["id"] == "m.1"
    assert delivered["attempts"] == 2


async def test_what_is_deferred_is_tried_again_in_its_turn_and_only_for_who_still_waits(bench: Bench, retrying: Starting) -> None:
    bench.script('rcpt match=b@* first=2 reply="450 4.2.0 busy"')
    await bench.put("a@example.net", "b@example.net")
    async with retrying():
        await bench.until_gone()
    assert [message.recipients for message in bench.sink.messages] == [("a@example.net",), ("b@example.net",)]
    first, second = bench.events("deferred")
    assert first["recipients"] == second["recipients"] == ["b@example.net"]
    assert "450 4.2.0 busy" in first["reply"] or "4.2.0" in first["reply"]
    assert 0 < first["wait"] <= 0.3


async def test_a_refusal_becomes_a_report_to_the_sender_in_the_commit_that_ends_the_entry(bench: Bench, retrying: Starting) -> None:
    bench.sink.manners = replace(bench.sink.manners, keep=True)
    bench.script('rcpt match=to@* reply="550 5.1.1 no such user"')
    await bench.put()
    async with retrying():
        await bench.until_gone()
    (report,) = bench.sink.messages
    assert (report.sender, report.recipients) == ("", ("app@example.com",))
    assert report.content is not None
    parsed = email.message_from_bytes(report.content)
    assert parsed.get_content_type() == "multipart/report"
    status = parsed.get_payload(1).as_string()  # type: ignore[union-attr]
    assert "Final-Recipient: rfc822; to@example.net" in status
    assert "Status: 5.1.1" in status
    (reported,) = bench.events("reported")
    assert (reported["id"], reported["action"], reported["recipients"]) == ("m.1", "failed", ["to@example.net"])
    assert await bench.taken() == 1


UTF8 = ("用户@例え.example", "ascii@example.net")


@pytest.mark.parametrize("has_smtputf8", [True, False])
async def test_what_needs_smtputf8_is_sent_with_it_or_reported(bench: Bench, retrying: Starting, has_smtputf8: bool) -> None:
    features = bench.sink.manners.features - (set() if has_smtputf8 else {"SMTPUTF8"})
    bench.sink.manners = replace(bench.sink.manners, keep=True, features=features)
    envelope = Envelope("app@example.com", tuple(map(Recipient, UTF8)), smtputf8=True)
    await bench.put(*UTF8, envelope=envelope)
    async with retrying():
        await bench.until_gone()
    first, *rest = bench.sink.messages
    assert first.recipients == (UTF8 if has_smtputf8 else UTF8[1:])
    assert ("SMTPUTF8" in first.mail_params) == has_smtputf8
    assert len(rest) == (not has_smtputf8) and await bench.taken() == 1
    for report in rest:
        assert report.recipients == ("app@example.com",) and report.content is not None and report.content.isascii()
        assert b"Final-Recipient: utf-8; \\x{7528}\\x{6237}@\\x{4F8B}\\x{3048}.example\r\n" in report.content
        assert b"\r\nStatus: 5.6.7\r\n" in report.content


async def test_a_report_that_needs_smtputf8_waits_for_a_person_where_the_smarthost_has_none(bench: Bench, retrying: Starting) -> None:
    features = bench.sink.manners.features
    bench.sink.manners = replace(bench.sink.manners, keep=True, features=features - {"SMTPUTF8"})
    await bench.put(envelope=Envelope("äpp@example.com", (Recipient("to@example.net"),), smtputf8=True))
    async with retrying():
        await bench.until(lambda: bool(bench.events("dsn_undeliverable")))
        assert bench.sink.messages == []
    bench.sink.manners = replace(bench.sink.manners, features=features)
    [report] = [entry async for page in bench.spool.pages() for entry in page]
    assert (report.kind, report.held, report.envelope.smtputf8) == ("dsn", "undeliverable", True)
    assert await bench.spool.unhold(report.id)
    async with retrying():
        await bench.until_gone()
    [sent] = bench.sink.messages
    assert sent.recipients == ("äpp@example.com",) and "SMTPUTF8" in sent.mail_params
    assert sent.content is not None and "\r\nTo: <äpp@example.com>\r\n".encode() in sent.content


@pytest.mark.parametrize(("notify", "sender", "reason"), [
    ("NEVER", "app@example.com", "never"), ("SUCCESS", "app@example.com", "never"), ("", "", "null_sender"),
])  # fmt: skip
async def test_who_wants_or_may_have_no_report_gets_none_and_that_is_on_record(
    bench: Bench, retrying: Starting, notify: str, sender: str, reason: str
) -> None:
    bench.script('rcpt reply="550 5.1.1 no such user"')
    await bench.put(notify=notify, sender=sender)
    async with retrying():
        await bench.until_gone()
    assert bench.sink.messages == []
    assert [(line["id"], line["reason"]) for line in bench.events("discarded")] == [("m.1", reason)]


async def test_a_report_that_is_refused_is_held_for_a_person_and_bounces_nowhere(bench: Bench, retrying: Starting) -> None:
    bench.script('rcpt reply="550 5.1.1 no such user"')
    await bench.put()
    async with retrying():
        await bench.until(lambda: bool(bench.events("dsn_undeliverable")))
        bench.script()
        await asyncio.sleep(0.3)
        (entry,) = [entry async for page in bench.spool.pages() for entry in page]
        assert (entry.kind, entry.held, entry.origin) == ("dsn", "undeliverable", "m.1")
        assert await bench.spool.unhold(entry.id)
        await bench.until_gone()
    assert [message.sender for message in bench.sink.messages] == [""]


async def test_mail_of_a_disabled_user_is_held_until_it_is_enabled_again(bench: Bench, retrying: Starting) -> None:
    await bench.put()
    await bench.provisioning.edit_user(bench.user.name, is_enabled=False)
    async with retrying():
        await bench.until(lambda: bool(bench.events("held")))
        assert bench.sink.messages == []
        await bench.provisioning.edit_user(bench.user.name, is_enabled=True)
        await bench.until_gone()
    assert [line["reason"] for line in bench.events("held", "unheld")] == ["disabled", "disabled"]
    assert bench.sink.intake.answered == 1


async def test_mail_of_a_disabled_user_goes_out_where_that_is_wanted(bench: Bench, retrying: Starting) -> None:
    await bench.put()
    await bench.provisioning.edit_user(bench.user.name, is_enabled=False)
    async with retrying(is_holding=False):
        await bench.until_gone()
    assert bench.sink.intake.answered == 1


async def test_what_is_too_old_is_given_up_after_a_last_attempt_and_reported(bench: Bench, retrying: Starting) -> None:
    bench.script('rcpt match=to@* reply="450 4.2.0 busy"')
    await bench.put()
    async with retrying(schedule=replace(SCHEDULE, expire=0.5)):
        await bench.until_gone()
    (report,) = bench.sink.messages
    assert report.sender == ""
    (reported,) = bench.events("reported")
    assert reported["action"] == "failed"


async def test_what_is_too_old_is_given_up_even_while_the_smarthost_is_away(bench: Bench, retrying: Starting) -> None:
    for _ in range(3):
        await bench.put()
    async with retrying(port=free_port(), schedule=replace(SCHEDULE, expire=0.5), overdue=0.1):
        await bench.until(lambda: len(bench.events("reported")) == 3)
    left = [entry async for page in bench.spool.pages() for entry in page]
    assert {entry.kind for entry in left} == {"dsn"}


async def test_a_sender_is_warned_of_a_delay_once(bench: Bench, retrying: Starting) -> None:
    bench.script('rcpt match=to@* reply="450 4.2.0 busy"')
    await bench.put()
    async with retrying(schedule=replace(SCHEDULE, warn_after=0.1)):
        await bench.until(lambda: len(bench.events("deferred")) >= 4)
        bench.script()
        await bench.until_gone()
    assert [line["action"] for line in bench.events("reported")] == ["delayed"]
    assert sorted(message.sender for message in bench.sink.messages) == ["", "app@example.com"]


async def test_a_lost_answer_to_the_dot_is_put_on_record_and_not_tried_again_before_the_doubt_is_over(
    bench: Bench, retrying: Starting
) -> None:
    bench.script("dot first=1 drop")
    entry = await bench.put()
    async with retrying(doubt=1.0):
        await bench.until(lambda: bool(bench.events("in_doubt")))
        found = await bench.spool.find(entry.id)
        assert found is not None
        await bench.until_gone()
    assert bench.spool.now() - entry.arrived >= 1.0
    assert len(bench.sink.messages) == 2


async def test_a_smarthost_that_comes_back_meets_one_session_and_no_herd(bench: Bench, retrying: Starting) -> None:
    for _ in range(30):
        await bench.put()
    port = bench.sink.port
    await bench.sink.stop()
    async with retrying(port=port, sessions=4):
        await bench.until(lambda: bool(bench.events("deferred")))
        await asyncio.sleep(0.5)
        assert len(bench.events("deferred")) < 10  # most entries were not touched
        bench.script("dot first=1 stall=0.4")
        await bench.sink.start()
        await bench.until(lambda: bench.sink.intake.connections > 0)
        await asyncio.sleep(0.2)
        assert bench.sink.intake.connections == 1  # while the first message is under way
        await bench.until_gone()
    assert bench.sink.intake.answered == 30
    assert bench.sink.intake.connections <= 4


async def test_an_entry_whose_book_is_damaged_is_not_in_the_others_way(bench: Bench, retrying: Starting, store: Store) -> None:
    owner, _ = await bench.provisioning.add_owner("another")
    other, _ = await bench.provisioning.add_user(owner.owner_id, 1000, None)
    await bench.put()
    await store.command("SET", f"{key(bench.user.name)}:log", "damaged")
    bench.user = other
    await bench.put()
    async with retrying():
        await bench.until(lambda: bool(bench.events("delivered") and bench.events("charge_refused")))
    assert [line["id"] for line in bench.events("delivered")] == ["m.2"]
    assert bench.events("charge_refused")[0]["id"] == "m.1"


async def test_a_user_whose_record_cannot_be_read_is_not_in_the_others_way(bench: Bench, retrying: Starting, store: Store) -> None:
    owner, _ = await bench.provisioning.add_owner("another")
    other, _ = await bench.provisioning.add_user(owner.owner_id, 1000, None)
    for _ in range(2):
        await bench.put(is_settled=True)
    assert await bench.spool.hold("m.2", "disabled")
    await store.command("DEL", key(bench.user.name))
    await store.command("SET", key(bench.user.name), "damaged")
    bench.user = other
    await bench.put()
    async with retrying():
        await bench.until(lambda: bool(bench.events("delivered")))
    assert [line["id"] for line in bench.events("delivered")] == ["m.3"]
    assert bench.events("user_unreadable")
    assert bench.events("bug") == []


async def test_mail_of_a_user_that_was_deleted_does_not_go_out_as_another_owners_user_of_that_name(
    bench: Bench, retrying: Starting
) -> None:
    await bench.put(is_settled=True, owner="99999999")
    async with retrying():
        await bench.until(lambda: bool(bench.events("held")))
        await asyncio.sleep(0.5)  # some looks at what is held
    assert bench.sink.messages == []
    assert bench.events("unheld") == []


async def test_many_entries_of_a_user_whose_book_is_damaged_do_not_starve_the_others(
    bench: Bench, retrying: Starting, store: Store
) -> None:
    owner, _ = await bench.provisioning.add_owner("another")
    other, _ = await bench.provisioning.add_user(owner.owner_id, 1000, None)
    for _ in range(60):
        await bench.put()
    await store.command("SET", f"{key(bench.user.name)}:log", "damaged")
    bench.user = other
    await bench.put()
    async with retrying():
        await bench.until(lambda: bool(bench.events("delivered")))
    assert [line["id"] for line in bench.events("delivered")] == ["m.61"]
    assert len(bench.events("charge_refused")) <= 4


async def test_a_claim_that_lapsed_in_other_hands_is_taken_over_on_record(bench: Bench, retrying: Starting) -> None:
    now = bench.spool.now()
    await bench.put(is_settled=True, claimed_by="other", due=now + 0.2)  # so long does the claim of a put last
    async with retrying():
        await bench.until_gone()
    (line,) = bench.events("killed_in_flight")
    assert (line["id"], line["incarnation"], line["recipients"]) == ("m.1", "other", ["to@example.net"])


async def test_a_stop_ends_what_is_under_way_and_gives_back_what_was_not_begun(bench: Bench, retrying: Starting) -> None:
    bench.script("dot stall=0.5")
    for _ in range(5):
        await bench.put()
    async with retrying(sessions=1):
        await bench.until(lambda: bench.sink.replies[354] == 1)
    left = [entry async for page in bench.spool.pages() for entry in page]
    assert len(left) == 4
    assert {entry.claimed_by for entry in left} == {""}
    assert all(entry.due <= bench.spool.now() for entry in left)
    assert bench.sink.intake.answered == 1


async def test_two_processes_never_send_the_same_entry(bench: Bench, retrying: Starting) -> None:
    for number in range(40):
        await bench.put(f"to{number}@example.net")
    async with retrying(incarnation="one"), retrying(incarnation="two"):
        await bench.until_gone()
    assert bench.sink.intake.answered == 40
    assert len({message.recipients for message in bench.sink.messages}) == 40


async def test_the_standing_of_who_was_reported_on_stays_while_others_wait(bench: Bench, retrying: Starting) -> None:
    failed = Standing(Recipient("b@example.net"), "failed", "550 5.1.1 upstream said: no such user")
    entry = await bench.put("a@example.net", "b@example.net")
    standings = (entry.standings[0], failed)
    assert await bench.spool.finish(entry.id, standings, bench.spool.now())
    async with retrying():
        await bench.until_gone()
    assert sorted(message.recipients for message in bench.sink.messages) == [("a@example.net",), ("app@example.com",)]
    assert len(bench.events("reported")) == 1
