"""The examples of the three vendors' documents, made valid JSON, byte for byte."""

from __future__ import annotations

import json
from typing import Any

import pytest

from relay.accounts.user import Entry, User
from relay.dialects import tes
from relay.dialects.tes import Addition, Edit, Fault

# Sarv and SendClean show the same bodies; their smtp_list is shown with its passwords under "password".
CREATED = """{
"status" : "success",
"message" : "SMTP User Created",
"smtp_user_name" : "smtp12345",
"smtp_password" : "asfsf4w343"
}"""
UPDATED = """{
"status": "success",
"message": "SMTP User Updated"
}"""
RESET = """{
"status" : "success",
"message" : "password reseted",
"smtp_user_name" : "smtp12345",
"smtp_password" : "2fg345gy6r7"
}"""
MISMATCH = """{
"status": "error",
"code": -1,
"name": "AuthenticationError",
"message": "Token MissMatch"
}"""
LIST = """{
"status" : "success",
"smtp_list" : [
{
"smtp_user_name":"smtps456546",
"password":"cgvddgrsd",
"status":"Enable",
"total_limit":600,
"hourly_limit":100
},
{
"smtp_user_name":"smtps456567",
"password":"fdsdfs",
"status":"Disable",
"total_limit":100,
"hourly_limit":30
}
]
}"""
POWEREMAIL_MISMATCH = """{
"status": "error",
"code": "-1",
"name": "AuthenticationError",
"message": "Token MissMatch"
}"""
POWEREMAIL_LIST = """{
"status": "success",
"smtp_list":[
{
"smtp_user_name": "smtps456546",
"smtp_password": "cgvddgrsd",
"status": "Enable",
"total_limit": "200",
"hourly_limit": "20"
},
{
"smtp_user_name": "smtps456567",
"smtp_password": "fdsdfs",
"status": "Disable",
"total_limit": "100",
"hourly_limit": "30"
}
]
}"""


def compact(text: str, **added: tuple[str, Any]) -> bytes:
    """The example without its blanks, and what its own tables add: the key `where` is followed by (key, value)."""
    found: dict[str, Any] = {}
    for key, value in json.loads(text).items():
        found[key] = value
        if key in added:
            extra, content = added[key]
            found[extra] = content
    return json.dumps(found, separators=(",", ":")).encode()


def entries(*rows: tuple[str, str, bool, int, int]) -> list[Entry]:
    return [Entry(User(name, "1", is_on, 1, hourly, total), is_on, password) for name, password, is_on, total, hourly in rows]


def test_the_three_successes_are_the_examples() -> None:
    assert tes.write_created("smtp12345", "asfsf4w343") == compact(CREATED)
    assert tes.write_updated() == compact(UPDATED)
    assert tes.write_reset("smtp12345", "2fg345gy6r7") == compact(RESET)


def test_the_error_is_the_example_with_the_type_of_its_table() -> None:
    kind = ("type", "AuthenticationError")
    assert tes.write_error("AuthenticationError", "Token MissMatch") == compact(MISMATCH, name=kind)
    assert tes.write_error("AuthenticationError", "Token MissMatch", "poweremail") == compact(POWEREMAIL_MISMATCH, name=kind)


def test_the_list_is_the_example_with_the_message_and_the_password_of_its_table() -> None:
    listed = entries(("smtps456546", "cgvddgrsd", True, 600, 100), ("smtps456567", "fdsdfs", False, 100, 30))
    example = json.loads(LIST)
    example["smtp_list"] = [{**row, "smtp_password": row["password"]} for row in example["smtp_list"]]
    keys = ("smtp_user_name", "password", "smtp_password", "status", "total_limit", "hourly_limit")
    example["smtp_list"] = [{key: row[key] for key in keys} for row in example["smtp_list"]]
    assert tes.LIST_BEGINS + tes.write_entries(listed) + tes.LIST_ENDS == compact(json.dumps(example), status=("message", "SMTP User List"))


def test_poweremails_list_is_the_example_with_the_message_of_its_table() -> None:
    listed = entries(("smtps456546", "cgvddgrsd", True, 200, 20), ("smtps456567", "fdsdfs", False, 100, 30))
    answer = tes.LIST_BEGINS + tes.write_entries(listed, "poweremail") + tes.LIST_ENDS
    assert answer == compact(POWEREMAIL_LIST, status=("message", "SMTP User List"))


def test_the_requests_of_the_examples_are_understood() -> None:
    shown = {"owner_id": "example id", "token": "example token"}
    read = tes.read_body(json.dumps({**shown, "total_limit": 100, "hourly_limit": 10}, indent=0).encode())
    assert tes.read_credentials(read) == ("example id", "example token")
    assert tes.read_addition(read) == Addition(hourly=10, total=100)
    edit = {"smtp_user_name": "smtp12345", "total_limit": 80, "hourly_limit": 15, "status": "Disable"}
    assert tes.read_edit({**shown, **edit}, "poweremail") == Edit("smtp12345", 15, 80, False)
    edit = {"smtp_user_name": "smtp12345", "total_limit": 700, "hourly_limit": None, "status": "Enable"}
    assert tes.read_edit({**shown, **edit}) == Edit("smtp12345", None, 700, True)
    assert tes.read_user_name({**shown, "smtp_user_name": "smtp12345"}) == "smtp12345"


def test_a_trailing_comma_as_poweremail_prints_it_is_not_json() -> None:
    with pytest.raises(Fault, match="neither valid JSON nor a form") as caught:
        tes.read_body(b'{\n"owner_id": "example id",\n"token": "example token",\n}')
    assert caught.value.name == "ValidationError"
