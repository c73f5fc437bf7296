"""The tickets: the same keys in every process of a node, others in every period and for every certificate."""

from __future__ import annotations

import pickle
import ssl
from pathlib import Path

import pytest
import trustme

from relay.session.certificate import Certificate
from relay.session.ticket import PERIOD, Tickets
from tests.certificate import trusting, write_pair

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


def client(authority: trustme.CA, version: ssl.TLSVersion) -> ssl.SSLContext:
    """A client that speaks one version."""
    context = trusting(authority)
    context.minimum_version = context.maximum_version = version
    return context


def shake(server: Certificate, client: ssl.SSLContext, session: ssl.SSLSession | None = None) -> tuple[ssl.SSLSession, bool]:
    """The session of a handshake in memory, and whether it went on with the one that was given."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    there = server.context().wrap_bio(up, down, server_side=True)
    here = client.wrap_bio(down, up, server_hostname="localhost", session=session)
    for side in (here, there) * 3:
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    there.write(b"x")
    assert here.read(1) == b"x"
    assert here.session is not None and here.session_reused is not None
    return here.session, here.session_reused


def copied(tickets: Tickets) -> Tickets:
    """The same as another process gets them."""
    found: Tickets = pickle.loads(pickle.dumps(tickets))
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_a_session_of_one_worker_is_resumed_by_another(version: ssl.TLSVersion, authority: trustme.CA, tmp_path: Path) -> None:
    pair, tickets, caller = write_pair(authority, tmp_path), Tickets.fresh(), client(authority, version)
    one, other = Certificate(*pair, copied(tickets)), Certificate(*pair, copied(tickets))
    session, was_resumed = shake(one, caller)
    assert not was_resumed
    assert shake(other, caller, session)[1]
    assert shake(one, caller, session)[1]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_session_of_another_node_of_another_certificate_or_without_keys_is_not(
    version: ssl.TLSVersion, authority: trustme.CA, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    pair, others = write_pair(authority, tmp_path), write_pair(authority, tmp_path / "other")
    tickets, caller = Tickets.fresh(), client(authority, version)
    session, _ = shake(Certificate(*pair, tickets), caller)
    for server in (Certificate(*pair, Tickets.fresh()), Certificate(*others, tickets), Certificate(*pair)):
        assert not shake(server, caller, session)[1]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_certificate_read_again_goes_on_with_its_sessions(version: ssl.TLSVersion, authority: trustme.CA, tmp_path: Path) -> None:
    server, caller = Certificate(*write_pair(authority, tmp_path), Tickets.fresh()), client(authority, version)
    session, _ = shake(server, caller)
    server.reload()
    assert shake(server, caller, session)[1]
    write_pair(authority, tmp_path)
    server.reload()
    assert not shake(server, caller, session)[1]


def test_who_was_told_in_an_earlier_period_comes_to_the_same_secret_as_who_is_told_now() -> None:
    """And no way leads back from it."""
    old = Tickets.fresh()
    old.period -= 3
    other = copied(old)
    first = old.secret
    assert old.move_on() and not old.move_on()
    other.move_on()
    assert old == other == copied(other)
    assert old.secret != first


def test_the_keys_of_the_next_period_take_the_place_of_those_before(authority: trustme.CA, tmp_path: Path) -> None:
    tickets, caller = Tickets.fresh(), client(authority, ssl.TLSVersion.TLSv1_3)
    server = Certificate(*write_pair(authority, tmp_path), tickets)
    session, _ = shake(server, caller)
    server.turn_keys()
    assert shake(server, caller, session)[1]
    tickets.period -= 1  # as if the clock had gone on
    server.turn_keys()
    assert not shake(server, caller, session)[1]
    assert PERIOD >= 2 * 3600
