"""The arguments of MAIL and RCPT: one meaning each, whichever way they are read."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relay.mail.address import is_mailbox
from relay.mail.envelope import Recipient
from relay.mail.reply import Reply
from relay.session.grammar import Sender, parse_mail, parse_rcpt

SIMPLE = st.from_regex(rb"[A-Za-z0-9+_=\-]{1,70}@([A-Za-z0-9-]{1,64}\.){1,7}[A-Za-z]{1,25}", fullmatch=True)
ODD = st.text(st.sampled_from('ab.@<>"\\:;,=+ \t\r\n\0\x1c\u00fcSIZERET'), max_size=30).map(lambda text: text.encode("latin-1"))
WORDS = st.sampled_from(
    ["<a@b.c>", "<ü@b.c>", '<"ü SMTPUTF8 "@b.c>', "SMTPUTF8", "smtputf8", "SMTPUTF8=", "ORCPT=utf-8;ü", "ENVID=ü", "SIZE=²", "x"]
)
UTF8 = st.lists(WORDS, max_size=5).map(lambda words: " ".join(words).encode())


@given(SIMPLE)
@example(b"a@b-.com")
@example(b"a@" + b".".join([b"d" * 63] * 4) + b".com")
@example(b"l" * 64 + b"@" + b".".join([b"d" * 63] * 3) + b".com")
def test_the_short_way_accepts_nothing_that_the_strict_one_refuses(address: bytes) -> None:
    sender, recipient = parse_mail(b"FROM:<%b>" % address, 1000), parse_rcpt(b"TO:<%b>" % address)
    # A trailing space makes it go the long way.
    assert sender == parse_mail(b"FROM:<%b> " % address, 1000)
    assert recipient == parse_rcpt(b"TO:<%b> " % address)
    assert isinstance(sender, Sender) == is_mailbox(address.decode()) == isinstance(recipient, Recipient)


@given(ODD | UTF8 | st.binary(max_size=60), st.sampled_from([b"FROM:", b"from:", b"TO:", b"To:", b""]), st.booleans())
def test_whatever_is_said_is_read_or_refused_in_one_line(argument: bytes, keyword: bytes, smtputf8: bool) -> None:
    for read in (parse_rcpt(keyword + argument, smtputf8), parse_mail(keyword + argument, 1000)):
        match read:
            case Reply() as reply:
                assert reply.code in (501, 552, 553, 555)
                assert bytes(reply).count(b"\n") == 1 and bytes(reply)[:-2].decode("ascii").isprintable()
            case Recipient() as recipient:
                assert is_mailbox(recipient.address, smtputf8)
                assert smtputf8 or (recipient.address + recipient.orcpt).isascii()
                assert (recipient.notify + recipient.orcpt).isprintable() and " " not in recipient.notify + recipient.orcpt
            case Sender() as sender:
                assert not sender.address or is_mailbox(sender.address, sender.smtputf8)
                assert not sender.smtputf8 or b"SMTPUTF8" in argument.upper()
                assert (sender.envid + sender.ret + sender.body).isascii()
                assert " " not in sender.envid + sender.ret + sender.body


XTEXT = st.lists(st.sampled_from(["a", "+2B", "+3D", "/", "@", "<", ">", ";"]), min_size=1, max_size=20).map("".join)


@given(XTEXT)
def test_xtext_is_carried_as_it_was_sent(value: str) -> None:
    sender = parse_mail(f"FROM:<a@b.example> ENVID={value} RET=hdrs AUTH={value}".encode(), 1000)
    assert sender == Sender("a@b.example", ret="HDRS", envid=value)
    assert parse_rcpt(f"TO:<a@b.example> ORCPT=rfc822;{value}".encode()) == Recipient("a@b.example", orcpt=f"rfc822;{value}")


@pytest.mark.parametrize("word", [b"X" * 900, b"X" * 300 + b" " + b"X" * 300, b"X" * 900 + b"=1"])
def test_a_parameter_however_long_is_named_in_a_reply_of_bounded_length(word: bytes) -> None:
    for reply in (parse_mail(b"FROM:<a@b.example> " + word, 1000), parse_rcpt(b"TO:<a@b.example> " + word)):
        assert isinstance(reply, Reply) and reply.text.startswith("X" * 32 + ": ")
        assert len(bytes(reply)) < 100


@pytest.mark.parametrize("more", ["", " BODY=8BITMIME", " SIZE=10 RET=FULL ENVID=x"])
def test_smtputf8_goes_with_every_other_parameter_and_lets_every_address_have_utf8(more: str) -> None:
    for address in ("ü@b.example", "a@b.example", ""):
        sender = parse_mail(f"FROM:<{address}> SmtpUtf8{more}".encode(), 1000)
        assert isinstance(sender, Sender) and sender.address == address and sender.smtputf8
        sender = parse_mail(f"FROM:<{address}>{more}".encode(), 1000)
        assert isinstance(sender, Sender) == address.isascii()
    assert parse_rcpt("TO:<ü@b.example> NOTIFY=NEVER".encode(), True) == Recipient("ü@b.example", "NEVER")


@pytest.mark.parametrize(
    ("argument", "code", "status"),
    [("<ü@b.c>", 553, "5.6.7"), ("<ü@b.c> SIZE=1", 553, "5.6.7"), ("<ü b@b.c>", 553, "5.6.7"), ("<ü b@b.c> SMTPUTF8", 501, "5.1.7"),
     ('<"ü SMTPUTF8 x"@b.c>', 553, "5.6.7"), ("<a@b.c> SMTPUTF8=", 501, "5.5.4"), ("<a@b.c> SMTPUTF8=x", 501, "5.5.4"),
     ("<a@b.c> SMTPUTF8 SMTPUTF8", 501, "5.5.4"), ("<a@b.c> SMTPUTF8 X=ü", 501, "5.5.4"), ("<a@b.c> SMTPUTF8 ü", 501, "5.5.4"),
     ("<a@b.c> SMTPUTF8 SIZE=²", 501, "5.5.4"), ("<a@b.c> SMTPUTF8 ORCPT=utf-8;ü", 555, "5.5.4"), ("<a@b.c> REQUIRETLS", 555, "5.5.4"),
     ("<a@b.c> BODY=BINARYMIME", 555, "5.5.4"), ("<a@b.c> BODY=9BIT", 501, "5.5.4"), ("<a@b.c> BODY", 501, "5.5.4")],
)  # fmt: skip
def test_each_fault_of_mail_has_its_own_reply(argument: str, code: int, status: str) -> None:
    reply = parse_mail(f"FROM:{argument}".encode(), 1000)
    assert isinstance(reply, Reply) and (reply.code, reply.status) == (code, status)


@pytest.mark.parametrize(
    ("value", "needs_utf8"),
    [
        ("utf-8;a@b.c", False),
        ("UTF-8;\\x{FC}@b.c", False),
        ("utf-8;ü@b.c", True),
        ("utf-8;ü\\x{2B}x@b.c", True),
        ("Utf-8;" + "ü" * 247, True),
    ],
)
def test_orcpt_of_the_type_utf_8_may_have_utf8_where_the_address_may(value: str, needs_utf8: bool) -> None:
    argument = f"TO:<a@b.c> ORCPT={value}".encode()
    assert parse_rcpt(argument, True) == Recipient("a@b.c", orcpt=value)
    assert isinstance(parse_rcpt(argument), Reply) == needs_utf8


@pytest.mark.parametrize(
    "value", ["utf-8;", "utf-8;a+2Bb", "utf-8;\\x{D800}", "utf-8;a\\b", "utf-8;a\u202eb", "rfc822;ü", "utf-8;" + "ü" * 248]
)
def test_orcpt_that_is_neither_spelling_is_refused(value: str) -> None:
    reply = parse_rcpt(f"TO:<a@b.c> ORCPT={value}".encode(), True)
    assert isinstance(reply, Reply) and (reply.code, reply.status) == (501, "5.5.4")


@pytest.mark.parametrize("value", ["+2b", "+2", "+", "a+zz", "a=b", "\u00e4", "a+0D+0A", "+00", "+7F"])
def test_what_is_no_xtext_is_refused(value: str) -> None:
    for read in (parse_mail(f"FROM:<a@b.c> ENVID={value}".encode(), 9), parse_rcpt(f"TO:<a@b.c> ORCPT=x;{value}".encode())):
        assert isinstance(read, Reply) and read.code in (501, 553)


@pytest.mark.parametrize(
    ("value", "is_one"),
    [("NEVER", True), ("never", True), ("SUCCESS", True), ("DELAY,FAILURE,SUCCESS", True), ("", False), ("NEVER,NEVER", False),
     ("NEVER,DELAY", False), ("DELAY,", False), (",", False), ("DELAY, FAILURE", False), ("FAILURE,FAILURE", False), ("OTHER", False)],
)  # fmt: skip
def test_notify_is_never_alone_or_each_of_the_others_once(value: str, is_one: bool) -> None:
    read = parse_rcpt(f"TO:<a@b.c> NOTIFY={value}".encode())
    assert read == Recipient("a@b.c", value.upper()) if is_one else isinstance(read, Reply)
