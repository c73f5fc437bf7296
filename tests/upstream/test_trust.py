"""TLS contexts are made once for all who trust alike, are bounded, and keep the sessions of each smarthost apart."""

from __future__ import annotations

import asyncio
import gc
import ssl
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trustme
import uvloop

from relay.mail.verdict import Deferred, Delivered
from relay.upstream.dispatch import Dispatch
from relay.upstream.guard import Guard
from relay.upstream.opening import Opening
from relay.upstream.pool import Pool
from relay.upstream.route import Choice, Route, Target
from relay.upstream.terms import Terms
from relay.upstream.trust import MOST, MOST_PLACES, Contexts
from tests.surroundings import until
from tests.upstream.conftest import MESSAGE, ONE, OpeningFleet, envelope, verdict_of
from tests.upstream.opening import a_sink

LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


async def is_resumed(target: Target, contexts: Contexts) -> bool:
    """Whether one more session takes up the TLS session of another."""
    context = await contexts.of(target)
    assert context is not None
    client = await Opening(target, context, "relay.example", Guard()).open()
    connection: ssl.SSLObject = client.get_transport_info("ssl_object")
    client.close()
    return bool(connection.session_reused)


def pems(authority: trustme.CA, count: int) -> list[str]:
    """One authority in so many spellings."""
    pem = authority.cert_pem.bytes().decode()
    return [f"{number}\n{pem}" for number in range(count)]


async def test_a_smarthost_that_may_not_be_dialled_costs_no_context() -> None:
    dispatch = Dispatch("relay.example", Guard())
    for number in range(20):
        names = [f"n{number}x{each}.example" for each in range(20)]
        hosts = ["127.0.0.1", "localhost", "10.0.0.1", "0x7f.1"] * 5
        targets = [Target(host, 587, "opportunistic", is_guarded=True, name=name) for host, name in zip(hosts, names, strict=True)]
        attempt = await dispatch.forward(Route(str(number), tuple(map(Choice, targets))), "u", envelope(), MESSAGE, Terms(20.0))
        verdict = attempt.verdicts[ONE]
        assert isinstance(verdict, Deferred) and verdict.ours and verdict.unreached
        assert verdict.reply.text == "Relay misconfigured: its host or port is not allowed"
    assert len(dispatch._contexts) == 0
    dispatch.close()


async def test_those_who_trust_alike_share_a_context_and_no_others(ca_file: Path, authority: trustme.CA) -> None:
    contexts = Contexts()
    base = Target("a.example", 25, "starttls", ca_file=ca_file)
    for same in (base, replace(base, host="b.example"), replace(base, port=465, security="tls"), replace(base, username="x", password="y")):
        assert await contexts.of(same) is await contexts.of(same) is not None
        assert len(contexts) == 1
    identity = authority.issue_cert("us.example").private_key_and_cert_chain_pem.bytes().decode()
    others = (
        replace(base, ca_file=None),
        replace(base, verify=False),
        replace(base, ca=pems(authority, 1)[0]),
        replace(base, identity=identity),
    )
    for count, other in enumerate(others, 2):
        assert await contexts.of(other) is not None and len(contexts) == count
    assert await contexts.of(replace(base, security="none")) is None


async def test_those_who_ask_at_once_have_one(ca_file: Path) -> None:
    contexts = Contexts()
    target = Target("a.example", 25, "starttls", ca_file=ca_file)
    assert len(set(await asyncio.gather(*(contexts.of(target) for _ in range(20))))) == len(contexts) == 1


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_a_session_is_taken_up_with_the_smarthost_it_was_had_from_and_no_other(
    authority: trustme.CA, ca_file: Path, security: str, version: ssl.TLSVersion, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    certificate = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # both smarthosts have it: each would take up the other's
    authority.issue_cert("127.0.0.1", "other.example").configure_cert(certificate)
    certificate.maximum_version = version
    kind = "implicit" if security == "tls" else "starttls"

    async def run() -> None:
        async with a_sink(tls=kind, certificate=certificate) as one, a_sink(tls=kind, certificate=certificate) as two:
            first = Target("127.0.0.1", one.port, security, ca_file=ca_file)  # type: ignore[arg-type]
            others = (
                replace(first, port=two.port),
                replace(first, server_name="other.example"),
                replace(first, username="", name="x.example"),
            )
            contexts = Contexts()
            assert [await is_resumed(first, contexts) for _ in range(3)] == [False, True, True]
            for other in others:
                assert [await is_resumed(other, contexts) for _ in range(2)] == [False, True]
            assert len(contexts) == 1 and await is_resumed(first, contexts)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(run())


async def test_a_shared_context_checks_the_certificate_of_each(authority: trustme.CA, ca_file: Path) -> None:
    certificate = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(certificate)
    async with a_sink(tls="implicit", certificate=certificate) as sink:
        contexts = Contexts()
        right = Target("127.0.0.1", sink.port, "tls", ca_file=ca_file)
        said = {}
        for target in (
            right,
            replace(right, server_name="other.example"),
            replace(right, ca_file=None),
            replace(right, ca_file=None, verify=False),
        ):
            pool = Pool(target, "relay.example", contexts=contexts)
            said[target] = await verdict_of(pool)
            pool.close()
        assert [type(verdict) for verdict in said.values()] == [Delivered, Deferred, Deferred, Delivered]
        assert [verdict.reply.status for verdict in said.values()][1:3] == ["4.7.5", "4.7.5"] and len(contexts) == 3


async def test_of_what_owners_bring_along_so_much_is_kept_and_it_displaces_nobody_elses(authority: trustme.CA, ca_file: Path) -> None:
    contexts = Contexts()
    common = Target("a.example", 25, "starttls", ca_file=ca_file)
    kept = await contexts.of(common)
    seen: list[weakref.ref[ssl.SSLContext]] = []
    for number, pem in enumerate(pems(authority, MOST + 8)):
        own = await contexts.of(Target(f"n{number}.example", 25, "tls", verify=False, ca=pem, is_guarded=True))
        assert own is not None
        seen.append(weakref.ref(own))
    del own
    gc.collect()
    assert len(contexts) == MOST + 1 and await contexts.of(common) is kept
    assert [one() is None for one in seen] == [True] * 8 + [False] * MOST


async def test_sessions_are_kept_of_so_many_smarthosts(ca_file: Path) -> None:
    contexts = Contexts()
    for number in range(MOST_PLACES + 5):
        await contexts.of(Target(f"n{number}.example", 25, "starttls", ca_file=ca_file))
    assert len(contexts._places) == MOST_PLACES and len(contexts) == 1


async def test_what_cannot_be_read_is_not_remembered(ca_file: Path, tmp_path: Path) -> None:
    contexts = Contexts()
    target = Target("127.0.0.1", 25, "tls", ca_file=tmp_path / "authorities.pem", down_seconds=0.0)
    pool = Pool(target, "relay.example", contexts=contexts)
    for _ in range(2):
        verdict = await verdict_of(pool)
        assert isinstance(verdict, Deferred) and verdict.ours and verdict.reply.status == "4.7.5"
    assert len(contexts) == 0
    (tmp_path / "authorities.pem").write_bytes(ca_file.read_bytes())
    assert await contexts.of(target) is not None


async def test_contexts_that_no_smarthost_uses_any_more_are_dropped(
    open_fleet: OpeningFleet, certificate: ssl.SSLContext, ca_file: Path
) -> None:
    fields = {"security": "tls", "ca_file": ca_file, "max_idle": 0.1}
    async with open_fleet(2, fields=fields, rest=0.1, manners={"tls": "implicit", "certificate": certificate}) as fleet:
        assert all(isinstance(verdict, Delivered) for verdict in await asyncio.gather(*(fleet.verdict() for _ in range(6))))
        contexts = fleet.dispatch._contexts
        assert len(contexts) == 1 and len(contexts._places) == 2
        await until(lambda: len(contexts) == 0)
        assert not contexts._places
        assert isinstance(await fleet.verdict(), Delivered) and len(contexts) == 1
