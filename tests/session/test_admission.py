"""How many may be here: connections in all and from one address."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.session.admission import Admission, plain_address
from tests.session.conftest import Opening

ADDRESSES = st.sampled_from(["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::ffff", "2001:db8:0:1::1"])
ORIGIN = {"2001:db8::ffff": "2001:db8::1"}
"""Two addresses of one customer."""


@given(st.lists(st.tuples(st.booleans(), ADDRESSES), max_size=60), st.integers(1, 8), st.integers(1, 4))
def test_never_more_than_allowed_and_never_fewer(steps: list[tuple[bool, str]], most: int, most_of_one: int) -> None:
    admission = Admission(most, most_of_one)
    here: list[str] = []
    for is_coming, address in steps:
        if not is_coming:
            if address in here:
                here.remove(address)
                admission.leave(address)
            continue
        alike = sum(ORIGIN.get(one, one) == ORIGIN.get(address, address) for one in here)
        assert admission.admit(address) is (len(here) < most and alike < most_of_one)
        if len(here) < most and alike < most_of_one:
            here.append(address)


@pytest.mark.parametrize(
    ("given", "plain"),
    [("192.0.2.1", "192.0.2.1"), ("::ffff:192.0.2.1", "192.0.2.1"), ("2001:db8::1", "2001:db8::1"), ("fe80::1%eth0", "fe80::1")],
)
def test_an_address_is_written_in_one_way(given: str, plain: str) -> None:
    assert plain_address(given) == plain


@pytest.mark.parametrize("door", ["plain", "implicit"])
async def test_one_address_does_not_take_every_place(open_worker: Opening, door: str) -> None:
    async with open_worker(rules={"max_connections": 10, "max_connections_per_address": 2}) as worker:
        first, second = await worker.connect(), await worker.connect()
        assert (await first.reply())[:4] == (await second.reply())[:4] == b"220 "
        if door == "plain":
            third = await worker.connect()
            assert await third.reply() == b"421 4.7.0 Too many connections, try again later\r\n"
            assert await third.is_closed()
        else:  # nothing can be said before TLS
            with pytest.raises(ConnectionError):
                await worker.connect(door)
        assert worker.events("turned_away")[0]["client"] == "127.0.0.1"
        await first.close()
        await worker.await_connections(1)
        assert (await (await worker.connect()).reply()).startswith(b"220 ")
        assert len(worker.events("turned_away")) == 1
