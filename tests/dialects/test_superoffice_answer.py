"""TestSmtpServer's answers: which form, which properties, and what is in them."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.dialects.superoffice_answer import JSON, TYPES, negotiate, read_selection, write_description, write_error, write_result

ALL = read_selection("")


@pytest.mark.parametrize(
    ("accept", "content_type", "expected"),
    [
        ("", "", "application/json"),
        ("", "application/json; charset=utf-8", "application/json"),
        ("", "text/xml; charset=utf-8", "text/xml"),
        ("", "application/xml", "application/xml"),
        ("", "application/x-www-form-urlencoded", "application/json"),
        ("application/json; charset=utf-8", "text/xml", "application/json"),
        ("text/json", "text/xml", "text/json"),
        ("application/merge-patch+json", "", "application/merge-patch+json"),
        ("application/json-patch+json", "", "application/json-patch+json"),
        ("TEXT/XML", "application/json", "text/xml"),
        ("*/*", "text/xml", "text/xml"),
        ("*/*", "application/json", "application/json"),
        ("application/*", "text/xml", "application/json"),
        ("text/*", "", "text/json"),
        ("application/json;q=0.5, text/xml", "", "text/xml"),
        ("application/json;q=0.5, text/xml;q=0.9, */*;q=0.1", "", "text/xml"),
        ("text/html, application/xhtml+xml, application/xml;q=0.9, */*;q=0.8", "", "application/xml"),
        ("application/json;q=0, */*", "", "text/json"),
        ("text/html", "text/xml", "application/json"),
        ("text/xml;q=never", "", "application/json"),
        (",;q, ", "", "application/json"),
    ],
)
def test_the_form_is_negotiated(accept: str, content_type: str, expected: str) -> None:
    assert negotiate(accept, content_type) == expected


@given(st.text(max_size=80), st.text(max_size=40))
def test_there_is_always_a_form(accept: str, content_type: str) -> None:
    assert negotiate(accept, content_type) in TYPES


def test_a_result_is_written_as_documented() -> None:
    assert write_result(False, "expedita", ALL, JSON) == (
        b'{"Success":false,"ErrorMessage":"expedita","TableRight":null,"FieldProperties":{}}'
    )
    assert write_result(True, "", ALL, JSON) == b'{"Success":true,"ErrorMessage":"","TableRight":null,"FieldProperties":{}}'


def test_a_result_is_written_as_xml() -> None:
    nil = b'<TableRight i:nil="true" xmlns:i="http://www.w3.org/2001/XMLSchema-instance" />'
    assert write_result(False, 'no <such> & "host"', ALL, "text/xml") == (
        b'<SmtpTestResult><Success>false</Success><ErrorMessage>no &lt;such&gt; &amp; "host"</ErrorMessage>'
        + nil
        + b"<FieldProperties /></SmtpTestResult>"
    )
    assert b"<Success>true</Success><ErrorMessage />" in write_result(True, "", ALL, "application/xml")


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        ("Success", [False, None, None, None]),
        ("success, ERRORMESSAGE", [False, "no", None, None]),
        ("fieldProperties/fieldName", [None, None, None, {}]),
        ("TableRight/Mask", [None, None, None, None]),
        ("name,department,category/id", [None, None, None, None]),
        (" , ", [False, "no", None, {}]),
    ],
)
def test_what_is_not_selected_is_null(select: str, expected: list[object]) -> None:
    found = json.loads(write_result(False, "no", read_selection(select), JSON))
    assert list(found) == ["Success", "ErrorMessage", "TableRight", "FieldProperties"]
    assert list(found.values()) == expected
    tree = ElementTree.fromstring(write_result(False, "no", read_selection(select), "text/xml"))
    nil = "{http://www.w3.org/2001/XMLSchema-instance}nil"
    assert [child.get(nil) == "true" for child in tree] == [value is None for value in expected]


def test_an_error_has_the_shape_of_theirs() -> None:
    assert write_error("The request is invalid.", "Why.", JSON) == b'{"Message":"The request is invalid.","MessageDetail":"Why."}'
    assert write_error("Gone", "", "text/xml") == b"<Error><Message>Gone</Message></Error>"
    assert json.loads(write_description(JSON))["Method"] == "POST"
    assert ElementTree.fromstring(write_description("text/xml")).findtext("Name") == "TestSmtpServer"


@given(st.text(st.characters()))
def test_whatever_a_smarthost_says_is_well_formed(text: str) -> None:
    assert json.loads(write_result(False, text, ALL, JSON))["ErrorMessage"] == text
    ElementTree.fromstring(write_result(False, text, ALL, "application/xml"))
