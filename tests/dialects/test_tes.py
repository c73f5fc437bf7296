"""The TES dialect as values: the parser takes what clients send, and nothing else."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.accounts.user import MAX_LIMIT, Entry, User
from relay.dialects import tes
from relay.dialects.tes import Addition, Edit, Fault

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
FIELDS = ("owner_id", "token", "total_limit", "hourly_limit", "smtp_user_name", "status")


@given(st.binary() | st.text().map(str.encode) | st.dictionaries(st.sampled_from(FIELDS), JSON).map(json.dumps).map(str.encode))
def test_any_body_is_read_or_refused_with_a_named_fault(body: bytes) -> None:
    try:
        fields = tes.read_body(body)
        owner_id, token = tes.read_credentials(fields)
        assert isinstance(owner_id, str) and isinstance(token, str)
        addition = tes.read_addition(fields)
        assert 1 <= addition.hourly <= MAX_LIMIT and 1 <= addition.total <= MAX_LIMIT
        tes.read_edit(fields)
    except Fault as fault:
        assert fault.name == "ValidationError"


@given(st.integers(1, MAX_LIMIT), st.integers(1, MAX_LIMIT), st.booleans())
def test_a_number_means_the_same_in_json_in_a_form_and_as_a_string(hourly: int, total: int, is_quoted: bool) -> None:
    written: dict[str, Any] = {"hourly_limit": str(hourly) if is_quoted else hourly, "total_limit": str(total) if is_quoted else total}
    for body in (json.dumps(written), "  " + json.dumps(written), "\ufeff" + json.dumps(written), urlencode(written)):
        assert tes.read_addition(tes.read_body(body.encode())) == Addition(hourly, total)


@given(st.dictionaries(st.sampled_from(["total_limit", "hourly_limit", "status"]), st.sampled_from([None, ""])))
def test_null_empty_and_absent_leave_as_it_is(fields: dict[str, Any]) -> None:
    assert tes.read_edit({**fields, "smtp_user_name": "smtp12345"}) == Edit("smtp12345", None, None, None)


@pytest.mark.parametrize("status", ["enable", "DISABLE", "Enabled", "1", 1, True, 0, [], {}])
def test_a_status_is_one_of_two_words_exactly(status: Any) -> None:
    with pytest.raises(Fault, match="'Enable' or 'Disable'"):
        tes.read_edit({"smtp_user_name": "smtp12345", "status": status})


def test_an_owner_id_may_come_as_a_number_and_a_secret_never_stands_in_a_fault() -> None:
    assert tes.read_credentials({"owner_id": 12345678, "token": "t"}) == ("12345678", "t")
    assert tes.read_credentials({"owner_id": True, "token": ["t"]}) == ("", "")
    with pytest.raises(Fault) as caught:
        tes.read_body(b'{"token": "hush",}')
    assert "hush" not in str(caught.value) and caught.value.__cause__ is None


def test_the_profile_poweremail_needs_a_total_limit_in_an_edit() -> None:
    with pytest.raises(Fault, match="total_limit is required"):
        tes.read_edit({"smtp_user_name": "smtp12345", "hourly_limit": 15}, "poweremail")
    assert tes.read_edit({"smtp_user_name": "smtp12345", "total_limit": 80}, "poweremail") == Edit("smtp12345", None, 80, None)


def test_entries_are_written_as_each_document_shows_them() -> None:
    entries = [
        Entry(User("smtps456546", "1", True, 1, 20, 200), True, "cgvddgrsd"),
        Entry(User("smtps456567", "1", False, 1, None, None), False, None),
    ]
    assert json.loads(b"[" + tes.write_entries(entries, "poweremail") + b"]") == [
        {"smtp_user_name": "smtps456546", "smtp_password": "cgvddgrsd", "status": "Enable", "total_limit": "200", "hourly_limit": "20"},
        {"smtp_user_name": "smtps456567", "smtp_password": tes.MASK, "status": "Disable", "total_limit": None, "hourly_limit": None},
    ]
    first = json.loads(b"[" + tes.write_entries(entries) + b"]")[0]
    assert list(first) == ["smtp_user_name", "password", "smtp_password", "status", "total_limit", "hourly_limit"]
    assert (first["total_limit"], first["hourly_limit"]) == (200, 20)
    assert first["password"] == first["smtp_password"] == "cgvddgrsd"
