"""The header of a balancer: what is one, what it says, and that exactly it is read, however it comes in."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import struct

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from relay.session.proxy import MAX_HEADER, MAX_LINE, Balancers, Peer, ProxyRefused, missing, parse, read_header

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
V4 = ipaddress.IPv4Address("192.0.2.7"), ipaddress.IPv4Address("198.51.100.1")
V6 = ipaddress.IPv6Address("2001:db8::7"), ipaddress.IPv6Address("2001:db8::1")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Pair = tuple[Address, Address]


def line(pair: Pair, port: int = 40000) -> bytes:
    """A header of version 1."""
    return f"PROXY TCP{pair[0].version} {pair[0]} {pair[1]} {port} 587\r\n".encode()


def block(pair: Pair, port: int = 40000, extra: bytes = b"", command: int = 0x21, kind: int | None = None) -> bytes:
    """A header of version 2; `kind` is its octet of family and protocol."""
    body = pair[0].packed + pair[1].packed + struct.pack("!HH", port, 587) + extra
    kind = kind if kind is not None else 0x11 if pair[0].version == 4 else 0x21
    return SIGNATURE + struct.pack("!BBH", command, kind, len(body)) + body


PAIRS = st.one_of(
    st.tuples(st.ip_addresses(v=4), st.ip_addresses(v=4)),
    st.tuples(st.ip_addresses(v=6), st.ip_addresses(v=6)).filter(lambda pair: not getattr(pair[0], "ipv4_mapped", None)),
)
PORTS = st.integers(0, 65535)
HEADERS = st.one_of(
    st.tuples(PAIRS, PORTS).map(lambda given: (line(*given), (str(given[0][0]), given[1]))),
    st.tuples(PAIRS, PORTS, st.binary(max_size=400)).map(lambda given: (block(*given), (str(given[0][0]), given[1]))),
)


async def read(octets: bytes, sizes: list[int], tail: bytes = b"") -> tuple[Peer | None, bytes]:
    """What is read from a socket that gets octets in pieces, and what is left in it for those who come after."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        reading = asyncio.create_task(read_header(ours))
        rest = octets
        for size in sizes:
            theirs.send(rest[:size])
            rest = rest[size:]
            for _ in range(3):
                await asyncio.sleep(0)
        if rest + tail:
            theirs.sendall(rest + tail)
        theirs.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(10):
            peer = await reading
        left = b""
        while piece := ours.recv(65536):
            left += piece
        return peer, left


@settings(deadline=None)
@given(HEADERS, st.lists(st.integers(1, 40), max_size=12), st.binary(max_size=200))
@example((line(V4), (str(V4[0]), 40000)), [1] * 60, b"\r\n\x16\x03\x01")
@example((line(V4), (str(V4[0]), 40000)), [len(line(V4)) - 1], b"\nEHLO x\r\n")
@example((block(V6), (str(V6[0]), 40000)), [1] * 70, b"PROXY ")
def test_exactly_the_header_is_read_however_it_is_cut(header: tuple[bytes, Peer], sizes: list[int], tail: bytes) -> None:
    octets, peer = header
    sizes = [size for index, size in enumerate(sizes) if sum(sizes[: index + 1]) <= len(octets)]
    assert asyncio.run(read(octets, sizes, tail)) == (peer, tail)


@pytest.mark.parametrize("header", [line(V4), line(V6), block(V4), block(V6, extra=b"\x04\x00\x02xx"), b"PROXY UNKNOWN\r\n"])
async def test_a_header_may_be_cut_at_every_octet(header: bytes) -> None:
    expected = await parse(header)
    for cut in range(len(header) + 1):
        assert await read(header, [cut] if cut else [], b"EHLO client.example\r\n") == (expected, b"EHLO client.example\r\n")


@given(HEADERS)
def test_what_is_missing_is_never_more_than_there_is(header: tuple[bytes, Peer]) -> None:
    octets, have = header[0], 0
    while wanted := missing(octets[:have]):
        have += wanted
        assert have <= len(octets)
    assert have == len(octets)


@settings(deadline=None)
@given(st.binary(max_size=700), st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE, SIGNATURE + b"\x21\x11"]))
def test_no_octets_do_anything_else_than_be_refused_or_read(octets: bytes, start: bytes) -> None:
    try:
        asyncio.run(read(start + octets, []))
    except ProxyRefused as refused:
        assert str(refused) and "\n" not in str(refused)


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY UNKNOWN\r\n",
        b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n",
        SIGNATURE + b"\x20\x00\x00\x00",
        SIGNATURE + b"\x20\xff\x00\x03abc",
        SIGNATURE + b"\x21\x00\x00\x05\x04\x00\x02xx",
        block(V4, command=0x20),
    ],
)
async def test_a_balancer_that_speaks_for_itself_is_itself(header: bytes) -> None:
    assert await read(header, [], b"x") == (None, b"x")


async def test_an_ipv4_client_of_an_ipv6_balancer_is_an_ipv4_client() -> None:
    pair = ipaddress.IPv6Address("::ffff:192.0.2.7"), ipaddress.IPv6Address("::ffff:198.51.100.1")
    assert await parse(block(pair)) == await parse(line(pair)) == ("192.0.2.7", 40000)


REFUSED = {
    "a client that greets first": b"EHLO client.example\r\n",
    "a handshake": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40),
    "other words": b"PROXIES TCP4 192.0.2.7 198.51.100.1 1 2\r\n",
    "a family unheard of": b"PROXY TCP5 192.0.2.7 198.51.100.1 1 2\r\n",
    "a protocol unheard of": b"PROXY TCPX4 192.0.2.7 198.51.100.1 1 2\r\n",
    "the wrong family": b"PROXY TCP6 192.0.2.7 198.51.100.1 1 2\r\n",
    "a name": b"PROXY TCP4 client.example 198.51.100.1 1 2\r\n",
    "too few words": b"PROXY TCP4 192.0.2.7 198.51.100.1 1\r\n",
    "too many words": b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2 3\r\n",
    "a port that is none": b"PROXY TCP4 192.0.2.7 198.51.100.1 65536 2\r\n",
    "a port with an underscore": b"PROXY TCP4 192.0.2.7 198.51.100.1 1_0 2\r\n",
    "a line of LF": b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2\n",
    "two spaces": b"PROXY TCP4  192.0.2.7 198.51.100.1 1 2\r\n",
    "a line without end": b"PROXY TCP4 " + b"1" * 200,
    "a line too long": b"PROXY UNKNOWN " + b"1" * (MAX_LINE - 15) + b"\r\n",
    "a version unheard of": SIGNATURE + b"\x31\x11\x00\x0c" + bytes(12),
    "a command unheard of": SIGNATURE + b"\x22\x11\x00\x0c" + bytes(12),
    "datagrams": block(V4, kind=0x12),
    "a socket of the balancer's host": SIGNATURE + b"\x21\x31\x00\xd8" + bytes(216),
    "addresses cut short": SIGNATURE + b"\x21\x11\x00\x04" + bytes(4),
    "more than may be sent": SIGNATURE + b"\x21\x11" + struct.pack("!H", MAX_HEADER - 15) + bytes(MAX_HEADER),
    "a line that ends early": b"PROXY TCP4 192.0.",
    "a block that ends early": block(V4)[:-1],
    "nothing": b"",
}


@pytest.mark.parametrize("what", REFUSED)
async def test_anything_else_is_refused(what: str) -> None:
    with pytest.raises(ProxyRefused):
        await read(REFUSED[what], [])


async def test_what_cannot_become_a_header_is_refused_without_waiting_for_more() -> None:
    for octets in (b"E", b"\r\nX", b"PROXX", b"PROXY TCP4\n"):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            theirs.send(octets + bytes(15 - len(octets) if octets[:1] != b"P" else 0))
            async with asyncio.timeout(1):
                with pytest.raises(ProxyRefused):
                    await read_header(ours)


def test_balancers_are_found_by_address_and_by_network() -> None:
    balancers = Balancers(["10.0.0.5", "10.1.0.0/16", "2001:db8::/32", "fe80::/10"])
    for address in ("10.0.0.5", "10.1.2.3", "::ffff:10.1.2.3", "2001:db8::9", "fe80::1%eth0"):
        assert address in balancers
    for address in ("10.0.0.6", "::ffff:10.2.0.1", "::a01:203", "2001:db9::1"):
        assert address not in balancers
    assert not Balancers([])
    assert "10.0.0.1" in Balancers(["::ffff:10.0.0.1"]) and "10.0.0.9" in Balancers(["::ffff:10.0.0.0/120"])
