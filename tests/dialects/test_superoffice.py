"""TestSmtpServer's request: every form it comes in, and the account that its URI names."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.accounts.setting import Setting
from relay.dialects.superoffice import (
    Asked,
    Malformed,
    Untestable,
    media_type,
    read_request,
    read_sender,
    read_target,
    with_stored_password,
)
from relay.upstream.route import Choice, Target

ASKED = Asked("smtps://u:p@mail.example", "a@b.example", True)
XML = "<{0}><SmtpUri>smtps://u:p@mail.example</SmtpUri><From>a@b.example</From><UseStoredPassword>true</UseStoredPassword></{0}>"


@pytest.mark.parametrize(
    "keys",
    [
        ("SmtpUri", "From", "UseStoredPassword"),
        ("smtpUri", "from", "useStoredPassword"),
        ("SMTPURI", "FROM", "USESTOREDPASSWORD"),
    ],
)
@pytest.mark.parametrize("kind", ["application/json", "text/json", "application/merge-patch+json", "application/json-patch+json", ""])
def test_json_is_read_whatever_its_type_is_called_and_its_keys_look_like(kind: str, keys: tuple[str, str, str]) -> None:
    body = json.dumps(dict(zip(keys, (ASKED.uri, ASKED.sender, True), strict=True))).encode()
    for begins in (b"", b"\xef\xbb\xbf"):
        assert read_request(begins + body, kind and f"{kind}; charset=utf-8") == ASKED


@pytest.mark.parametrize("root", ["TestSmtpServer", "request", "x"])
@pytest.mark.parametrize("kind", ["application/xml", "text/xml; charset=UTF-8"])
def test_xml_is_read_under_any_root(kind: str, root: str) -> None:
    text = XML.format(root)
    assert read_request(text.encode(), kind) == ASKED
    assert read_request(('<?xml version="1.0" encoding="utf-8"?>\n' + text).encode(), kind) == ASKED
    assert read_request(text.lower().encode(), kind) == ASKED


def test_xml_is_read_by_local_names() -> None:
    space = "http://www.superoffice.net/ws/crm/NetServer/Services88"
    text = (
        f'<a:Q xmlns:a="{space}" xmlns:i="urn:i"><a:SmtpUri>smtps://u:p&#64;mail.example</a:SmtpUri>'
        '<From xmlns=""> a@b.example\n</From><a:UseStoredPassword>1</a:UseStoredPassword>'
        "<a:More><a:From>no@b.example</a:From></a:More></a:Q>"
    )
    assert read_request(text.encode(), "application/xml") == ASKED


@pytest.mark.parametrize(
    "begins",
    [
        '<!DOCTYPE r [<!ENTITY a "aaaaaaaa"><!ENTITY b "&a;&a;&a;">]>',
        '<!DOCTYPE r SYSTEM "file:///etc/passwd">',
        "<!DOCTYPE r>",
    ],
)
def test_xml_with_a_document_type_is_refused(begins: str) -> None:
    with pytest.raises(Malformed, match="document type"):
        read_request((begins + "<r><SmtpUri>&b;</SmtpUri></r>").encode(), "text/xml")


def test_a_form_is_read() -> None:
    body = b"smtpuri=smtps%3A%2F%2Fu%3Ap%40mail.example&From=a%40b.example&UseStoredPassword=True&other=1"
    assert read_request(body, "application/x-www-form-urlencoded") == ASKED


def test_a_json_patch_is_applied_to_an_empty_request() -> None:
    body = [
        {"op": "add", "path": "/SmtpUri", "value": ASKED.uri},
        {"op": "replace", "path": "/from", "value": ASKED.sender},
        {"op": "replace", "path": "/UseStoredPassword", "value": True},
    ]
    assert read_request(json.dumps(body).encode(), "application/json-patch+json") == ASKED


@pytest.mark.parametrize(
    ("value", "flag"), [(None, False), (False, False), ("false", False), ("TRUE", True), (1, True), (0, False), ("", False), ("1", True)]
)
def test_a_flag_may_be_written_in_several_ways(value: object, flag: bool) -> None:
    assert read_request(json.dumps({"UseStoredPassword": value}).encode(), "application/json") == Asked("", "", flag)


def test_other_character_sets_are_read_where_they_are_named() -> None:
    body = {"SmtpUri": "smtp://ü@mail.example", "From": "a@b.example"}
    for charset in ("iso-8859-1", "utf-16", "UTF-8", '"utf-8"'):
        encoded = json.dumps(body, ensure_ascii=False).encode(charset.strip('"'))
        assert read_request(encoded, f"application/json;charset={charset}").uri == body["SmtpUri"]


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"", "application/json", 400),
        (b"  \r\n", "application/xml", 400),
        (b"{", "application/json", 400),
        (b"[1]", "application/json", 400),
        (b'[{"op":"remove","path":"/From"}]', "application/json", 400),
        (b"null", "application/json", 400),
        (b'"x"', "application/json", 400),
        (b'{"From":NaN}', "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b"\xff\xfe{", "application/json", 400),
        (b'{"SmtpUri":5}', "application/json", 400),
        (b'{"From":["a"]}', "application/json", 400),
        (b'{"UseStoredPassword":"maybe"}', "application/json", 400),
        (b'{"UseStoredPassword":2}', "application/json", 400),
        (b'{"UseStoredPassword":{}}', "application/json", 400),
        (b"<a><SmtpUri>x</a>", "application/xml", 400),
        (b"<a/><b/>", "application/xml", 400),
        (b"<a>&x;</a>", "application/xml", 400),
        (b"not xml", "text/xml", 400),
        (b"&".join(b"a=1" for _ in range(200)), "application/x-www-form-urlencoded", 400),
        (b"From=%ff", "application/x-www-form-urlencoded", 400),
        (b"{}", "text/plain", 415),
        (b"{}", "multipart/form-data; boundary=x", 415),
        (b"{}", "application/json; charset=klingon", 415),
    ],
)
def test_what_cannot_be_read_is_malformed(body: bytes, kind: str, status: int) -> None:
    with pytest.raises(Malformed) as caught:
        read_request(body, kind)
    assert caught.value.status == status
    assert str(caught.value).endswith(".")


@given(
    st.binary(max_size=300),
    st.sampled_from(["application/json", "application/xml", "text/xml; charset=utf-16", "application/x-www-form-urlencoded"]),
)
def test_nothing_but_malformed_comes_of_any_octets(body: bytes, kind: str) -> None:
    try:
        read_request(body, kind)
    except Malformed as malformed:
        assert malformed.status in (400, 415)


def test_a_request_in_an_error_shows_no_password() -> None:
    assert "p@" not in repr(ASKED)


# -- the URI -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("smtp://mail.example", ("mail.example", 25, "opportunistic", "", "")),
        ("smtps://mail.example", ("mail.example", 465, "tls", "", "")),
        ("SMTPS://Mail.Example/", ("Mail.Example", 465, "tls", "", "")),
        ("smtp://mail.example:", ("mail.example", 25, "opportunistic", "", "")),
        ("smtps://myuser:mypassword@smtp.myserver.com:465", ("smtp.myserver.com", 465, "tls", "myuser", "mypassword")),
        (
            "smtp://me%40b.example:p%40%3A%2F%25%20%C3%BC@mail.example:587",
            ("mail.example", 587, "opportunistic", "me@b.example", "p@:/% ü"),
        ),
        ("smtp://me:a:b@mail.example", ("mail.example", 25, "opportunistic", "me", "a:b")),
        ("smtp://me:p@ss@mail.example", ("mail.example", 25, "opportunistic", "me", "p@ss")),
        ("smtp://me@mail.example", ("mail.example", 25, "opportunistic", "me", "")),
        ("smtp://me:a+b@mail.example", ("mail.example", 25, "opportunistic", "me", "a+b")),
        ("smtp://mäil.example", ("mäil.example", 25, "opportunistic", "", "")),
        ("smtps://[2001:db8::25]", ("2001:db8::25", 465, "tls", "", "")),
        ("smtp://u:p@[2001:db8::25]:2525", ("2001:db8::25", 2525, "opportunistic", "u", "p")),
    ],
)
def test_a_uri_names_server_port_security_and_credentials(uri: str, expected: tuple[Any, ...]) -> None:
    target = read_target(uri)
    assert (target.host, target.port, target.security, target.username, target.password) == expected
    assert target.is_guarded and target.verify


@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        ("", "missing"),
        ("rerum", "smtp:// or smtps://"),
        ("http://secret@mail.example", "smtp:// or smtps://"),
        ("smtp:mail.example", "smtp:// or smtps://"),
        ("smtp://", "host name"),
        ("smtp://u:secret@", "host name"),
        ("smtp://u:sec/ret@mail.example", "percent-encoded"),
        ("smtp://u:12/secret@mail.example", "percent-encoded"),
        ("smtp://u:secret?x@mail.example", "percent-encoded"),
        ("smtp://u:secret#x@mail.example", "percent-encoded"),
        ("smtp://u:secret@mail.example/inbox", "percent-encoded"),
        ("smtp://u:sec ret@mail.example", "spaces"),
        ("smtp://u:secret@mail.example\r\nRCPT", "printed"),
        ("smtp://u:se%zzcret@mail.example", "%25"),
        ("smtp://u:secret%@mail.example", "%25"),
        ("smtp://u:secret%ff@mail.example", "UTF-8"),
        ("smtp://u:secret%0d%0aRCPT@mail.example", "control"),
        ("smtp://u:secret%00@mail.example", "control"),
        ("smtp://:secret@mail.example", "without a user"),
        ("smtp://mail.example:0", "port"),
        ("smtp://mail.example:65536", "port"),
        ("smtp://mail.example:secret", "port"),
        ("smtp://mail.example:٢٥", "port"),
        ("smtp://2001:db8::1", "port"),
        ("smtp://[2001:db8::1", "host name"),
        ("smtp://[2001:db8::1]x", "host name"),
        ("smtp://[fe80::1%25eth0]", "host name"),
        ("smtp://[127.0.0.1]", "host name"),
        ("smtp://-mail.example", "host name"),
        ("smtp://mail..example", "host name"),
        ("smtp://mail.example.", "host name"),
        ("smtp://mail_host.example", "host name"),
        ("smtp://mäil\u2215x.example", "host name"),
        ("smtp://" + "a" * 64 + ".example", "host name"),
    ],
)
def test_a_uri_that_cannot_be_used_is_told_in_a_sentence_without_its_password(uri: str, sentence: str) -> None:
    with pytest.raises(Untestable) as caught:
        read_target(uri)
    assert sentence in str(caught.value) and str(caught.value).endswith(".")
    assert "secret" not in str(caught.value)


@given(st.text(max_size=60))
def test_any_text_is_a_server_or_untestable(text: str) -> None:
    for uri in (text, f"smtp://{text}", f"smtps://{text}@mail.example", f"smtp://u:p@{text}"):
        try:
            target = read_target(uri)
        except Untestable as untestable:
            assert str(untestable).endswith(".")
        else:
            assert 0 < target.port < 65536 and target.host.isprintable()
            assert "\r" not in target.username + target.password and "\n" not in target.username + target.password


@pytest.mark.parametrize(
    ("text", "address"), [("a@b.example", "a@b.example"), ("Ann B <a@b.example>", "a@b.example"), ("ä@b.example", "ä@b.example")]
)
def test_a_sender_is_an_address_alone_or_behind_a_name(text: str, address: str) -> None:
    assert read_sender(text) == address


@pytest.mark.parametrize(
    "text", ["", "atque", "<a@b>c", "a@b.example>\r\nRCPT TO:<x@y>", "a b@c.example", "<>", "a\u200bb@c.example", "a@"]
)
def test_a_sender_that_is_no_address_is_untestable(text: str) -> None:
    with pytest.raises(Untestable, match="From is"):
        read_sender(text)


# -- what is stored ----------------------------------------------------------------------------------------------------------


def setting(*targets: Target) -> list[Setting]:
    return [Setting("b.example", "0" * 24, tuple(Choice(target) for target in targets))]


STORED = Target("Mail.Example", 587, "starttls", verify=False, username="me", password="stored", name="ehlo.example", is_guarded=True)


def test_the_stored_password_comes_with_what_is_stored_beside_it() -> None:
    found = with_stored_password(read_target("smtp://me:other@mail.example:587"), setting(STORED))
    assert found == STORED and found.password == "stored"
    elsewhere = with_stored_password(read_target("smtps://me@mail.example"), setting(STORED))
    assert (elsewhere.port, elsewhere.security, elsewhere.verify) == (465, "tls", False)


def test_a_uri_without_a_user_takes_the_only_one() -> None:
    other = Target("mail.example", 465, "tls", username="you", password="yours")
    assert with_stored_password(read_target("smtp://mail.example:587"), setting(STORED)).username == "me"
    with pytest.raises(Untestable, match="several users"):
        with_stored_password(read_target("smtp://mail.example:587"), setting(STORED, other))
    assert with_stored_password(read_target("smtp://you@mail.example"), setting(STORED, other)).password == "yours"


def test_of_two_passwords_that_of_the_same_port_is_meant() -> None:
    submission = Target("mail.example", 465, "tls", username="me", password="other")
    assert with_stored_password(read_target("smtps://me@mail.example"), setting(STORED, submission)).password == "other"
    assert with_stored_password(read_target("smtp://me@mail.example:587"), setting(submission, STORED)).password == "stored"


@pytest.mark.parametrize("uri", ["smtp://me@other.example", "smtp://ME@mail.example", "smtp://you:p@mail.example"])
def test_nothing_stored_is_said(uri: str) -> None:
    with pytest.raises(Untestable, match="No password is stored"):
        with_stored_password(read_target(uri), setting(STORED, Target("mail.example", 25, username="you")))
    with pytest.raises(Untestable, match="No password is stored"):
        with_stored_password(read_target("smtp://me@mail.example"), [])


def test_a_media_type_is_plain() -> None:
    assert media_type(" Text/XML ; charset=utf-8") == "text/xml"
