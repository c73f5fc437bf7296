"""Mailboxes, read strictly: what is accepted means one mailbox to every reader."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relay.mail.address import canonical, is_mailbox, is_user_name, parse_path

ATOM = st.text("abcXYZ019!#$%&'*+-/=?^_`{|}~", min_size=1, max_size=12)
DOT_STRING = st.lists(ATOM, min_size=1, max_size=4).map(".".join)
QUOTED = st.lists(
    st.sampled_from([chr(c) for c in range(32, 127) if chr(c) not in '"\\']) | st.sampled_from(['\\"', "\\\\", "\\a", "\\ "]), max_size=12
).map(lambda parts: '"' + "".join(parts) + '"')
LABEL = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9-]{0,10}[A-Za-z0-9])?", fullmatch=True)
DOMAIN = st.lists(LABEL, min_size=1, max_size=5).map(".".join)
LITERAL = st.ip_addresses(v=4).map(lambda ip: f"[{ip}]") | st.ip_addresses(v=6).map(lambda ip: f"[IPv6:{ip}]")
MAILBOX = st.builds("{}@{}".format, DOT_STRING | QUOTED, DOMAIN | LITERAL).filter(lambda text: len(text.rpartition("@")[0]) <= 64)


@given(MAILBOX)
def test_every_mailbox_of_the_grammar_is_read_as_itself(mailbox: str) -> None:
    assert is_mailbox(mailbox)
    assert parse_path(f"<{mailbox}>") == (mailbox, "")
    assert parse_path(f"<@hop.example,@[192.0.2.1]:{mailbox}>") is None
    assert parse_path(f"<@hop.example,@b.example:{mailbox}> A=1 B") == (mailbox, "A=1 B")


@given(st.text(st.characters(max_codepoint=255), max_size=80) | st.text('ab.@<>"\\,;:()[] \t\r\n\0', max_size=20))
@example("a@b.c\n")
@example("<a@b.c>\n")
@example('"\n"@b.c')
def test_whatever_is_accepted_can_stand_in_a_command_and_in_a_header(text: str) -> None:
    found = parse_path(text)
    if found is None:
        return
    mailbox, _ = found
    assert mailbox.isprintable() and mailbox.isascii() and len(mailbox) <= 254
    # Outside a quoted string nothing could end the path, begin a comment or another address, or be folded.
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', "", mailbox)
    assert not set(bare) & set('<>()," ;\\')
    assert bare.count("@") == (1 if mailbox else 0)
    # Read again, it is the same.
    assert parse_path(f"<{mailbox}>") == (mailbox, "")


@pytest.mark.parametrize(
    "path",
    ["", "a@b.c", "<a@b.c", "a@b.c>", "<<a@b.c>>", "<a@b.c>>", "<a(x)@b.c>", "<a b@c.d>", "<a,b@c.d>", "<a;b@c.d>", "<a:b@c.d>",
     "<a[1]@x.y>", "<a\rb@c.d>", "<a\nb@c.d>", "<a@b.c>\0", "<a@b.c>\r", "<a@b.c>x", "<@x.y:>", "<@x.y>", "<@x.y,a@b.c>", "< a@b.c>",
     "<a@b.c >", "<a @b.c>", "<a@b .c>", "<a@@b.c>", "<a@b@c.d>", "<a>", "<@>", "<a@>", "<@b.c>", "<.a@b.c>", "<a.@b.c>", "<a..b@c.d>",
     "<a@b..c>", "<a@.b>", "<a@b.>", "<a@-b.c>", "<a@b-.c>", "<a@b_c.d>", "<a@[1.2.3]>", "<a@[1.2.3.4.5]>", "<a@[01.2.3.4]>",
     "<a@[::1]>", "<a@[IPv6:::1%eth0]>", "<a@[x:y]>", "<a@[1.2.3.4>", '<"a@b.c>', '<a"@b.c>', '<"a"b@c.d>', '<"a\\"@b.c>',
     '<"a\tb"@c.d>', "<\u00fc@b.c>", "<a@\u00fc.c>", "<>x"],
)  # fmt: skip
def test_what_is_no_path_is_refused(path: str) -> None:
    assert parse_path(path) is None


def test_the_null_path_is_empty() -> None:
    assert parse_path("<>") == ("", "")
    assert parse_path("<> SIZE=1") == ("", "SIZE=1")


@pytest.mark.parametrize(("local", "domain", "is_one"), [(64, 63, True), (65, 63, False), (1, 64, False)])
def test_local_parts_and_labels_have_their_longest(local: int, domain: int, is_one: bool) -> None:
    assert is_mailbox("l" * local + "@" + "d" * domain + ".com") is is_one


def test_a_path_has_at_most_256_octets() -> None:
    domain = ".".join(["d" * 63] * 3)
    longest = "l" * (254 - len(domain) - 1) + "@" + domain
    assert is_mailbox(longest) and parse_path(f"<{longest}>") == (longest, "")
    assert not is_mailbox("l" + longest)


@given(MAILBOX, DOMAIN)
def test_the_domains_case_does_not_count_and_the_local_parts_does(mailbox: str, _: str) -> None:
    local, _, domain = mailbox.rpartition("@")
    assert canonical(f"{local}@{domain.upper()}") == canonical(f"{local}@{domain.lower()}")
    if local != local.swapcase():
        assert canonical(f"{local.swapcase()}@{domain}") != canonical(mailbox)


@given(st.text(max_size=140))
def test_a_user_name_cannot_leave_its_hash_tag(text: str) -> None:
    if is_user_name(text):
        assert text.isascii() and not set(text) & set("{} \r\n\t:") and 1 <= len(text) <= 128
