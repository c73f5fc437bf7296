"""The guard: an owner reaches mail servers of the world outside, and nothing of the operator's."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.upstream.guard import HOST, MAX_ADDRESSES, PORT, Forbidden, Guard, Lookup, Resolver
from relay.upstream.route import Target
from tests.upstream.forbidden import LEADING_INSIDE, OPEN, SPELLINGS

OUTSIDE = "8.8.4.4"


def resolver(*answers: str) -> tuple[Lookup, list[str]]:
    """A lookup that gives these for every name, and what it was asked."""
    asked: list[str] = []

    async def look_up(host: str, port: int) -> list[str]:
        asked.append(host)
        return list(answers)

    return look_up, asked


def owners(host: str, port: int = 587) -> Target:
    return Target(host, port, is_guarded=True)


@pytest.mark.parametrize("host", SPELLINGS)
async def test_a_host_of_the_operators_is_refused_in_every_spelling_whatever_the_resolver_makes_of_it(host: str) -> None:
    look_up, asked = resolver(OUTSIDE)
    guard = Guard(lookup=look_up)
    with pytest.raises(Forbidden) as refused:
        await guard.addresses(owners(host))
    assert str(refused.value) == HOST and asked == []
    with pytest.raises(Forbidden):
        guard.check(owners(host))


@pytest.mark.parametrize("host", OPEN)
async def test_a_host_outside_is_let_through_and_asked_for_in_ascii(host: str) -> None:
    look_up, asked = resolver(OUTSIDE)
    found = await Guard(lookup=look_up).addresses(owners(host))
    assert found == ([OUTSIDE] if asked else [host]) and all(name.isascii() for name in asked)


@pytest.mark.parametrize("address", LEADING_INSIDE)
@pytest.mark.parametrize("is_first", [True, False])
async def test_a_name_that_leads_inside_is_refused_even_if_it_leads_outside_too(address: str, is_first: bool) -> None:
    look_up, _ = resolver(*((address, OUTSIDE) if is_first else (OUTSIDE, address)))
    with pytest.raises(socket.gaierror) as refused:
        await Guard(lookup=look_up).addresses(owners("mail.example.com"))
    with pytest.raises(socket.gaierror) as missing:
        await Guard(lookup=resolver()[0]).addresses(owners("mail.example.com"))
    assert refused.value.args == missing.value.args  # the operator's own names are nobody's business


async def test_a_zone_that_does_not_answer_holds_up_no_other() -> None:
    gate = threading.Event()

    def resolve(host: str, port: int) -> list[str]:
        if host.endswith("hangs.example"):
            gate.wait(20)
        return [OUTSIDE]

    resolver = Resolver(resolve)
    hanging = [asyncio.create_task(resolver.look_up(f"n{number}.hangs.example", 25)) for number in range(200)]
    try:
        await asyncio.sleep(0.1)
        assert threading.active_count() < 20
        async with asyncio.timeout(5):
            assert await resolver.look_up("mail.example.com", 25) == [OUTSIDE]
    finally:
        gate.set()
        assert await asyncio.gather(*hanging) == [[OUTSIDE]] * 200


async def test_a_name_is_asked_for_once_at_a_time_and_a_fault_of_the_resolver_is_everybodys_who_asked() -> None:
    asked: list[str] = []
    gate = threading.Event()

    def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        gate.wait(20)
        raise socket.gaierror(socket.EAI_AGAIN, "not now")

    resolver = Resolver(resolve)
    asking = [asyncio.create_task(resolver.look_up("mail.example.com", 25)) for _ in range(10)]
    await asyncio.sleep(0.05)
    asking[0].cancel()
    gate.set()
    faults = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(faults[0], asyncio.CancelledError) and all(isinstance(fault, socket.gaierror) for fault in faults[1:])
    assert asked == ["mail.example.com"]


async def test_what_is_looked_up_is_looked_up_once_and_each_address_given_once() -> None:
    look_up, asked = resolver("8.8.8.8", "2606:4700::1", "8.8.8.8")
    assert await Guard(lookup=look_up).addresses(owners("mail.example.com")) == ["8.8.8.8", "2606:4700::1"]
    assert asked == ["mail.example.com"]


async def test_no_more_than_a_few_addresses_of_a_host_are_dialled_but_all_are_looked_at() -> None:
    many = [f"8.8.8.{number}" for number in range(200)]
    assert await Guard(lookup=resolver(*many)[0]).addresses(owners("mail.example.com")) == many[:MAX_ADDRESSES]
    with pytest.raises(socket.gaierror):
        await Guard(lookup=resolver(*many, "10.0.0.1")[0]).addresses(owners("mail.example.com"))


@pytest.mark.parametrize("port", [0, 22, 80, 443, 6379, 8025, 65535, -1])
async def test_ports_of_other_services_are_refused_before_the_host_is_looked_at(port: int) -> None:
    look_up, asked = resolver(OUTSIDE)
    for host in ("mail.example.com", "127.0.0.1"):
        with pytest.raises(Forbidden) as refused:
            await Guard(lookup=look_up).addresses(owners(host, port))
        assert str(refused.value) == PORT and asked == []


@pytest.mark.parametrize("port", [25, 465, 587, 2525])
async def test_ports_of_mail_are_open(port: int) -> None:
    assert await Guard(lookup=resolver(OUTSIDE)[0]).addresses(owners("mail.example.com", port)) == [OUTSIDE]


async def test_the_operator_opens_a_network_and_a_port_and_nothing_beside_them() -> None:
    look_up, _ = resolver("10.1.2.3")
    guard = Guard(["10.1.0.0/16", "fd00:1::/32"], [1025], look_up)
    assert await guard.addresses(owners("mail.internal.example", 1025)) == ["10.1.2.3"]
    assert await guard.addresses(owners("10.1.255.1")) == ["10.1.255.1"]
    assert await guard.addresses(owners("::ffff:10.1.2.3")) == ["::ffff:10.1.2.3"]
    assert await guard.addresses(owners("fd00:1::25")) == ["fd00:1::25"]
    for target in (owners("10.2.0.1"), owners("fd00:2::1"), owners("127.0.0.1", 1025), owners("10.1.2.3", 1026), owners("167838211")):
        with pytest.raises(Forbidden):
            await guard.addresses(target)


async def test_what_the_operator_names_himself_is_not_looked_at() -> None:
    look_up, asked = resolver("10.0.0.1", "127.0.0.1")
    guard = Guard(lookup=look_up)
    assert await guard.addresses(Target("127.0.0.1", 6379)) == ["127.0.0.1"]
    assert await guard.addresses(Target("mail", 1)) == ["10.0.0.1", "127.0.0.1"]
    assert asked == ["mail"]


@pytest.mark.parametrize("host", ["mail\0", "a" * 64 + ".example", "mail..example"])
async def test_a_name_no_resolver_takes_is_no_such_host(host: str) -> None:
    with pytest.raises(socket.gaierror):
        await Guard().addresses(Target(host, 25))


async def test_a_name_without_an_address_is_no_such_host() -> None:
    with pytest.raises(socket.gaierror):
        await Guard(lookup=resolver()[0]).addresses(owners("mail.example.com"))


async def test_the_resolver_of_the_system_is_asked_unless_another_is_given() -> None:
    assert "127.0.0.1" in await Guard().addresses(Target("localhost", 25))


@pytest.mark.parametrize("network", ["10.0.0.1/8", "here", "10.0.0.0/33"])
def test_what_is_no_network_cannot_be_opened(network: str) -> None:
    with pytest.raises(ValueError, match=r"host bits|appear"):
        Guard([network])


TELLTALE = st.text(st.sampled_from("0123456789abcdefxX.:-%[]/@ \0\n\uff11\uff0e\u3002\u0661\u2460"), max_size=24)


@given(TELLTALE | st.text(max_size=24))
def test_no_name_that_is_let_through_is_read_as_a_number_by_the_systems_resolver(host: str) -> None:
    try:
        Guard().check(owners(host))
    except Forbidden:
        return
    with suppress(ValueError):
        found = IPv6Address(host) if ":" in host else IPv4Address(host)
        assert str(found)
        return
    for family in (socket.AF_INET, socket.AF_INET6):
        with pytest.raises((socket.gaierror, UnicodeError)):
            socket.getaddrinfo(host, 25, family, flags=socket.AI_NUMERICHOST)


@given(st.integers(0, 2**32 - 1).map(IPv4Address))
def test_an_address_that_is_forbidden_is_forbidden_in_all_ways_to_embed_it(address: IPv4Address) -> None:
    number = int(address)
    # What Python's own list lacks, or knows no word for.
    inside = not address.is_global or address.is_multicast or number >> 8 in (0xC00000, 0xC05863) or str(address) == "168.63.129.16"
    is_open = _is_open(str(address))
    assert is_open != inside
    for prefix in (0xFFFF << 32, 0x64FF9B << 96):
        assert _is_open(str(IPv6Address(prefix | number))) == is_open
    compatible, translated, local = number, 0xFFFF << 48 | number, 0x64FF9B0001 << 80 | number
    six_to_four, teredo = 0x2002 << 112 | number << 80, 0x20010000 << 96 | number ^ 0xFFFFFFFF
    for embedded in (compatible, translated, local, six_to_four, teredo):
        assert not _is_open(str(IPv6Address(embedded)))


@given(st.integers(0, 2**128 - 1).map(IPv6Address))
def test_an_address_that_is_let_through_is_one_of_the_world_outside(address: IPv6Address) -> None:
    assert not _is_open(str(address)) or address.is_global or address in IPv6Network("64:ff9b::/96")


def _is_open(host: str) -> bool:
    try:
        Guard().check(owners(host))
    except Forbidden:
        return False
    return True
