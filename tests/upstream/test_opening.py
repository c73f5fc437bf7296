"""Opening a session: what is dialled, what is waited for, how we log in, and what is said when there is no session."""

from __future__ import annotations

import asyncio
import base64
import socket
import time

import pytest

from relay.upstream.guard import HOST, Guard
from relay.upstream.opening import connect
from relay.upstream.route import Target
from tests.upstream.opening import PASSWORD, a_server, a_sink, leading, opened, refused

LOGIN = {"me": PASSWORD}
REPEATED = [PASSWORD, base64.b64encode(PASSWORD.encode()).decode(), base64.b64encode(f"\0me\0{PASSWORD}".encode()).decode()]


# -- the connection ------------------------------------------------------------------------------------------------------------


async def test_the_next_address_is_dialled_where_one_refuses() -> None:
    async with a_sink() as sink:
        target = Target("mail.example.com", sink.port, is_guarded=True)
        (await opened(target, leading("127.0.0.2", "::1", "127.0.0.1"))).close()
        assert sink.intake.connections == 1


async def test_an_address_that_never_answers_has_only_its_share_of_the_time() -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.3", 0))
        deaf.listen(0)
        port = deaf.getsockname()[1]
        with socket.create_connection(("127.0.0.3", port)):  # its queue is full: who comes now is left without an answer
            async with a_sink(port=port):
                target = Target("mail.example.com", port, connect_timeout=2.0, is_guarded=True)
                began = time.monotonic()
                (await opened(target, leading("127.0.0.3", "127.0.0.1"))).close()
                assert 0.9 <= time.monotonic() - began < 2.0
                none = await refused(target, leading("127.0.0.3", "127.0.0.3"))
                assert none.stage == "connect" and none.code == "ETIMEDOUT" and "did not answer in time" in none.text
                assert time.monotonic() - began < 7


async def test_a_host_that_is_forbidden_is_ours_and_nobody_is_dialled() -> None:
    async with a_sink() as sink:
        for guard in (None, Guard(), Guard(allow_ports=[sink.port])):
            none = await refused(Target("127.0.0.1", sink.port, is_guarded=True), guard)
            assert none.stage == "guard" and none.code == "ECONNECTION" and none.verdict.ours
        assert none.text == HOST and sink.intake.connections == 0


async def test_a_name_that_leads_inside_a_moment_later_leads_nowhere() -> None:
    answers = [["127.0.0.1"], ["10.0.0.1"], ["127.0.0.1"]]

    async def look_up(host: str, port: int) -> list[str]:
        return answers.pop(0)

    async with a_sink() as sink:
        guard = Guard(["127.0.0.1/32"], [sink.port], look_up)
        target = Target("mail.example.com", sink.port, is_guarded=True)
        (await opened(target, guard)).close()
        assert (await refused(target, guard)).stage == "dns"
        (await opened(target, guard)).close()
        assert sink.intake.connections == 2 and not answers


async def test_a_host_nobody_knows_is_told_from_one_that_cannot_be_asked_for() -> None:
    async def unknown(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "10.99.0.53 says no")

    async def unanswered(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_AGAIN, "10.99.0.53 says nothing")

    async def endless(host: str, port: int) -> list[str]:
        await asyncio.sleep(60)
        return []

    target = Target("mail.example.com", 25, connect_timeout=0.1, is_guarded=True)
    for look_up, code, words in (
        (unknown, "EDNS", "no host of that name"),
        (unanswered, "EDNS", "for now"),
        (endless, "ETIMEDOUT", "in time"),
    ):
        none = await refused(target, Guard(lookup=look_up))
        assert none.stage == "dns" and none.code == code and words in none.text and "mail.example.com" in none.text
        assert "10.99" not in none.text and not none.verdict.ours


async def test_a_port_where_nobody_listens_is_said_to_refuse() -> None:
    async with a_sink() as sink:
        port = sink.port
    none = await refused(Target("127.0.0.1", port))
    assert none.stage == "connect" and none.code == "ECONNECTION" and "refuses the connection" in none.text and not none.verdict.ours


async def test_opening_that_is_cut_short_leaves_no_connection() -> None:
    async with a_sink("ehlo stall=forever") as sink:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await connect(Target("127.0.0.1", sink.port), None, "relay.example")
        await asyncio.sleep(0.05)
        assert not sink.conversations


# -- the greeting --------------------------------------------------------------------------------------------------------------


async def test_a_greeting_that_never_comes_is_waited_for_as_long_as_is_said() -> None:
    async with a_sink("connect stall=forever") as sink:
        began = time.monotonic()
        none = await refused(Target("127.0.0.1", sink.port, greeting_timeout=0.2))
        assert time.monotonic() - began < 1.0
        assert none.stage == "greeting" and none.code == "ETIMEDOUT" and "TLS from the first byte" in none.text


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("connect reply='554 5.7.1 [192.0.2.1] is on a list'", "turns us away (554 5.7.1 [192.0.2.1] is on a list)"),
        ("connect reply='421 4.3.2 busy' close", "turns us away (421 4.3.2 busy)"),
        ("connect drop", "closed the connection without a greeting"),
        ("connect garbage", "no mail server"),
        ("ehlo reply='502 5.5.1 no'", "turns us away (502 5.5.1 no)"),
        ("ehlo drop", "closed the connection"),
        ("ehlo garbage", "no mail server"),
    ],
)
async def test_a_smarthost_that_does_not_welcome_us_is_quoted(rule: str, words: str) -> None:
    async with a_sink(rule) as sink:
        none = await refused(Target("127.0.0.1", sink.port))
        assert none.stage == "greeting" and none.code == "ECONNECTION" and words in none.text
        assert not none.verdict.ours and none.verdict.reply.status == "4.4.1"


async def test_we_call_ourselves_as_the_target_says_or_else_by_the_relays_name() -> None:
    async with a_sink("ehlo match=other.example reply='550 5.7.1 not you'") as sink:
        (await opened(Target("127.0.0.1", sink.port))).close()
        assert "not you" in (await refused(Target("127.0.0.1", sink.port, name="other.example"))).text


@pytest.mark.parametrize("name", ["a b", "a\r\nMAIL FROM:<>", "\u00fc.example", "a\0"])
async def test_a_name_of_ours_that_cannot_be_sent_is_ours(name: str) -> None:
    async with a_sink() as sink:
        none = await refused(Target("127.0.0.1", sink.port, name=name))
        assert none.verdict.ours and "none that can be sent" in none.text
        assert sink.replies[250] == 0


# -- the login -----------------------------------------------------------------------------------------------------------------


async def test_a_login_goes_in_clear_where_tls_was_renounced() -> None:
    async with a_sink(credentials=LOGIN) as sink:
        (await opened(Target("127.0.0.1", sink.port, "none", username="me", password=PASSWORD))).close()
        assert sink.replies[235] == 1


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("auth reply='535 5.7.8 go away'", "refuses the user name or the password (535 5.7.8 go away)"),
        ("auth reply='454 4.7.0 later'", "cannot check the login for now (454 4.7.0 later)"),
        ("auth reply='534 5.7.9 too weak'", "another way to log in"),
        ("auth reply='538 5.7.11 TLS first'", "TLS first"),
    ],
)
async def test_a_login_that_is_refused_is_ours_and_tried_once(rule: str, words: str) -> None:
    async with a_sink(rule, credentials=LOGIN) as sink:
        none = await refused(Target("127.0.0.1", sink.port, username="me", password=PASSWORD))
        assert none.stage == "login" and none.code == "EAUTH" and words in none.text and none.verdict.ours
        assert none.verdict.reply.text == f"Relay misconfigured: login refused: {none.reply[:3]}"
        assert sink.replies[int(none.reply[:3])] == 1 and sink.intake.connections == 1


@pytest.mark.parametrize("code", REPEATED)
async def test_a_reply_that_repeats_the_password_is_not_quoted(code: str) -> None:
    async with a_sink(f"auth reply='535 5.7.8 {code} is wrong'", credentials=LOGIN) as sink:
        none = await refused(Target("127.0.0.1", sink.port, username="me", password=PASSWORD))
        assert none.reply == "535" and code not in none.text


@pytest.mark.parametrize("mechanism", ["plain", "login", ""])
async def test_the_mechanism_is_the_one_that_is_asked_for_or_the_first_that_is_offered(mechanism: str) -> None:
    said: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for reply in (
            b"220 x",
            b"250-x\r\n250 AUTH LOGIN XOAUTH2 PLAIN",
            b"334 VXNlcm5hbWU6" if mechanism == "login" else b"235 ok",
            b"235 ok",
        ):
            writer.write(reply + b"\r\n")
            said.append(await reader.readuntil(b"\r\n"))

    async with a_server(answer) as port:
        target = Target("127.0.0.1", port, username="me", password=PASSWORD, mechanism=mechanism)  # type: ignore[arg-type]
        (await opened(target)).close()
    assert said[1].split()[:2] == [b"AUTH", (mechanism or "plain").upper().encode()]


@pytest.mark.parametrize(("offer", "mechanism", "words"), [
    ("AUTH XOAUTH2", "", "neither AUTH PLAIN nor LOGIN"), ("SIZE 1", "", "neither"), ("AUTH PLAIN", "login", "AUTH LOGIN is not"),
])  # fmt: skip
async def test_a_password_is_not_sent_to_whom_does_not_ask_for_it(offer: str, mechanism: str, words: str) -> None:
    async with a_sink(f"ehlo reply='250 sink.example\\n250 {offer}'") as sink:
        target = Target("127.0.0.1", sink.port, username="me", password=PASSWORD, mechanism=mechanism)  # type: ignore[arg-type]
        none = await refused(target)
        assert none.stage == "login" and none.code == "EAUTH" and words in none.text and none.verdict.ours
        assert sum(sink.replies.values()) == 2


async def test_credentials_with_a_nul_are_never_sent() -> None:
    async with a_sink(credentials=LOGIN) as sink:
        for username, password in (("me\0", PASSWORD), ("me", PASSWORD + "\0")):
            none = await refused(Target("127.0.0.1", sink.port, username=username, password=password))
            assert none.stage == "login" and none.verdict.ours
        assert sink.replies[535] == sink.replies[235] == 0
