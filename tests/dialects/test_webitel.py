"""The Webitel dialect as values: the examples of its document, and the reading of what clients send."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.accounts.setting import Setting
from relay.dialects import webitel
from relay.dialects.webitel import Fault
from relay.upstream.route import Choice, Target

JSON_TYPE = "application/json"
WRITTEN: dict[str, Any] = {
    "provider": "smtp",
    "description": "My Setting",
    "from": "my@webitel.com",
    "options": {
        "host": "m.webitel.com", "port": 465, "secure": True, "debug": False, "tls": {"rejectUnauthorized": False},
        "auth": {"user": "my@webitel.com", "pass": "itte574dsts485"},
    },
}  # fmt: skip
ID = "574d241a821e7655f78a40f4"


def setting(document: dict[str, Any] | None, *choices: Choice) -> Setting:
    return Setting("my.webitel.com", ID, choices, document)


def read(body: bytes | str, content_type: str = JSON_TYPE, encoding: str = "") -> webitel.Fields:
    return webitel.read_body(content_type, encoding, body.encode() if isinstance(body, str) else body)


def refusal(body: bytes | str, content_type: str = JSON_TYPE, encoding: str = "") -> tuple[int, str]:
    with pytest.raises(Fault) as caught:
        read(body, content_type, encoding)
    assert caught.value.__cause__ is None
    return caught.value.status, str(caught.value)


def test_a_setting_is_shown_as_it_was_written_between_its_id_and_its_domain() -> None:
    expected = (
        b'{"_id":"574d241a821e7655f78a40f4","provider":"smtp","description":"My Setting","from":"my@webitel.com","options":'
        b'{"host":"m.webitel.com","port":465,"secure":true,"debug":false,"tls":{"rejectUnauthorized":false},'
        b'"auth":{"user":"my@webitel.com","pass":"itte574dsts485"}},"domain":"my.webitel.com"}'
    )
    assert webitel.write_setting(setting(webitel.read_setting(read(json.dumps(WRITTEN)), "my.webitel.com"))) == expected


def test_the_other_answers_are_word_for_word() -> None:
    assert webitel.write_removed(1) == b'{"status":"OK","Info":"Removed 1 record."}'
    assert webitel.write_error("Not found!") == b'{"status":"error","info":"Not found!"}'
    assert webitel.write_error("no", "EAUTH") == b'{"status":"error","info":"no","code":"EAUTH"}'
    assert webitel.write_nobody() == b'{"status":401,"message":"Invalid credentials"}'
    assert webitel.write_signed_out() == b'{"status":"OK","info":"Successful logout."}'
    signed_in = webitel.write_signed_in("a-key", "12345678", 1442002179358, "a.b.c")
    assert signed_in == (
        b'{"key":"a-key","username":"12345678","domain":"","expires":1442002179358,"token":"a.b.c",'
        b'"role":2,"roleName":"root","acl":{},"cdr":{},"verto":{}}'
    )


@pytest.mark.parametrize("missing", ["provider", "options"])
@pytest.mark.parametrize("value", [None, "", 0, False, 0.0])
def test_what_javascript_takes_for_nothing_is_missing(missing: str, value: object) -> None:
    for fields in ({**WRITTEN, missing: value}, {key: it for key, it in WRITTEN.items() if key != missing}):
        with pytest.raises(Fault, match=r"Bad parameters\.") as caught:
            webitel.read_setting(fields, "my.webitel.com")
        assert caught.value.status == 400
    with pytest.raises(Fault, match=r"Bad parameters\."):
        webitel.read_setting(WRITTEN, "")


@pytest.mark.parametrize("options", [{}, [], "x", 1, True])
def test_what_javascript_takes_for_something_is_kept(options: object) -> None:
    assert webitel.read_setting({"provider": "carrier pigeon", "options": options}, "d")["options"] == options


def test_a_document_has_neither_an_id_nor_a_domain_nor_tokens_of_its_own() -> None:
    fields = {"domain": "other", "_id": "1", "access_token": "t", "x_key": "k", "extra": {"domain": 1}, **WRITTEN}
    assert webitel.read_setting(fields, "my.webitel.com") == {"extra": {"domain": 1}, **WRITTEN}
    shown = json.loads(webitel.write_setting(setting({"extra": 1, **WRITTEN})))
    assert list(shown) == ["_id", "extra", "provider", "description", "from", "options", "domain"]


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonp", "text/json"])
def test_a_body_of_another_content_type_is_nothing(content_type: str) -> None:
    assert read(json.dumps(WRITTEN), content_type) == {}


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON; charset=UTF-8", 'application/json;charset="utf-8"'])
def test_json_is_read_by_its_content_type(content_type: str) -> None:
    assert read("\ufeff " + json.dumps(WRITTEN), content_type) == WRITTEN


def test_nothing_blanks_and_an_array_are_an_empty_object() -> None:
    assert read("") == read(" \r\n") == read("[1,2]") == {}


def test_other_charsets_of_unicode_are_read_and_those_beyond_are_not() -> None:
    assert read('{"a":"ä"}'.encode("utf-16"), "application/json; charset=utf-16") == {"a": "ä"}
    assert refusal(b"{}", "application/json; charset=latin1") == (415, "unsupported charset")
    assert refusal(b"{}", JSON_TYPE, "gzip") == (415, "unsupported content encoding")
    assert read(b'{"a":1}', JSON_TYPE, "identity") == {"a": 1}


@pytest.mark.parametrize(
    "body", [b'{"pass":"hush",}', b"hush", b'"hush"', b"\xff{}", b'{"a":NaN}', b"[" * 9000, b'{"a":0' + b"9" * 500 + b"}"]
)
def test_what_is_no_json_is_a_bad_request_that_repeats_nothing(body: bytes) -> None:
    status, text = refusal(body)
    assert status == 400 and "hush" not in text


def test_a_document_is_as_deep_as_the_engines_database_takes_it() -> None:
    depth = webitel.MAX_DEPTH
    assert read('{"a":' * depth + "1" + "}" * depth)
    assert refusal('{"a":' * (depth + 1) + "1" + "}" * (depth + 1)) == (400, "The request body is nested too deeply")


def test_numbers_are_javascripts() -> None:
    fields = read('{"a":1.0,"b":1e400,"c":1.5,"d":-2e2,"e":1e22}')
    assert webitel.write_setting(setting(dict(fields))).startswith(
        b'{"_id":"574d241a821e7655f78a40f4","a":1,"b":null,"c":1.5,"d":-200,"e":1e+22'
    )


@pytest.mark.parametrize("number", ["9" * 309, "-" + "9" * 309, "9" * 400, "1" + "0" * 309, "18" + "0" * 307, "9" * 5000])
def test_a_whole_number_that_is_too_large_for_javascript_is_null_like_any_other(number: str) -> None:
    assert read(f'{{"a":{number},"b":[{number}]}}') == {"a": None, "b": [None]}


@pytest.mark.parametrize("number", ["0", "-1", "12345678901234567890", "9" * 308, "17" + "0" * 307])
def test_a_whole_number_that_javascript_has_is_kept(number: str) -> None:
    assert read(f'{{"a":{number}}}') == {"a": int(number)}


def test_text_is_sent_as_utf_8_and_half_a_pair_is_replaced() -> None:
    assert b'"a":"\xc3\xa4"' in webitel.write_setting(setting(dict(read('{"a":"\\u00e4"}'))))
    assert read('{"a":"\\ud800","b":"\\ud83d\\ude00"}') == {"a": "\ufffd", "b": "\U0001f600"}


def test_the_bodys_token_comes_before_the_querys_and_that_before_the_headers() -> None:
    body, query, headers = (
        {"access_token": "b", "x_key": "bk"},
        {"access_token": "q", "x_key": "qk"},
        {"x-access-token": "h", "x-key": "hk"},
    )
    assert webitel.read_credentials(body, query, headers) == ("b", "bk")
    assert webitel.read_credentials({"access_token": ""}, query, headers) == ("q", "qk")
    assert webitel.read_credentials({}, {"x_key": "qk"}, headers) == ("h", "qk")
    assert webitel.read_credentials({"access_token": 5}, {}, {}) == ("", "")


def test_who_signs_in_may_be_a_number() -> None:
    assert webitel.read_login({"username": 12345678, "password": "t"}) == ("12345678", "t")
    assert webitel.read_login({"username": True, "password": ["t"]}) == ("", "")
    assert webitel.read_login({}) == ("", "")


def test_a_document_names_a_smarthost_or_says_why_not() -> None:
    assert [str(choice.target) for choice in webitel.read_choices(WRITTEN)] == ["m.webitel.com:465"]
    with pytest.raises(Fault, match=r"^Bad provider name\.$") as caught:
        webitel.read_choices({**WRITTEN, "provider": "sendmail"})
    assert caught.value.status == 500
    with pytest.raises(Fault, match="both user and pass") as caught:
        webitel.read_choices({**WRITTEN, "options": {"auth": {"user": "u"}}})
    assert (caught.value.status, caught.value.code) == (500, "EAUTH")
    assert webitel.usable_choices({"provider": "sendmail", "options": {}}) == webitel.usable_choices({}) == ()


def test_a_setting_that_was_made_in_other_words_is_shown_as_a_document() -> None:
    first, second = Choice(Target("one.example", 587, "starttls", is_guarded=True)), Choice(Target("two.example", 25), priority=-1)
    shown = webitel.document_of(setting(None, first, second))
    assert (shown["provider"], shown["options"]["host"]) == ("smtp", "two.example")
    assert webitel.document_of(setting(None)) == {"provider": "smtp", "options": {}}


@pytest.mark.parametrize(
    ("document", "sender"),
    [
        (WRITTEN, "my@webitel.com"),
        ({"from": "Sales <sales@webitel.com>"}, "sales@webitel.com"),
        ({"from": "nobody", "options": {"auth": {"user": "u@webitel.com"}}}, "u@webitel.com"),
        ({"from": "a@b.example\r\nRCPT TO:<x@y.example>"}, "a@b.example"),
        ({"from": "a b", "options": {"auth": {"user": "apikey"}}}, "postmaster@my.webitel.com"),
        ({"from": 5, "options": []}, "postmaster@my.webitel.com"),
        ({"from": "(" * 900}, "postmaster@my.webitel.com"),
        ({"from": "(" * 5_000, "options": {"auth": {"user": "<@a:" * 200}}}, "postmaster@my.webitel.com"),
        ({"from": "<@a:" * 15_000, "options": {"auth": {"user": "u@webitel.com"}}}, "u@webitel.com"),
        ({"from": "x" * 985 + " <ann@webitel.com>"}, "postmaster@my.webitel.com"),
    ],
)
def test_a_test_message_comes_from_whom_the_document_names(document: dict[str, Any], sender: str) -> None:
    assert webitel.sender_of(document, "my.webitel.com") == sender


@given(st.text(st.sampled_from('()<>@:,;"\\\\[]. ab\r\n'), max_size=60).map(lambda text: text * 20))
def test_whatever_a_document_says_there_is_somebody_a_test_message_comes_from(text: str) -> None:
    assert "@" in webitel.sender_of({"from": text, "options": {"auth": {"user": text}}}, "my.webitel.com")


def test_a_test_message_goes_where_the_operator_says() -> None:
    assert webitel.recipient_of("sink@test.example") == "sink@test.example"
    with pytest.raises(Fault, match="No address") as caught:
        webitel.recipient_of("")
    assert (caught.value.status, caught.value.code) == (500, "EENVELOPE")


@given(
    st.binary() | st.text().map(str.encode) | st.recursive(st.none() | st.floats() | st.text(), st.lists).map(json.dumps).map(str.encode)
)
def test_any_body_is_read_or_refused(body: bytes) -> None:
    try:
        fields = read(body)
        webitel.read_login(fields)
        document = webitel.read_setting(fields, "my.webitel.com")
        assert json.loads(webitel.write_setting(setting(document)))["domain"] == "my.webitel.com"
    except Fault as fault:
        assert fault.status in (400, 415)
