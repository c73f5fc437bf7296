"""The TES dialect: the `/settings` calls that Sarv, SendClean and PowerEmail document alike.

Promises: what their documents show is answered word for word, keys in their order, always as valid JSON. Where the three differ, one
body serves all their clients: limits are numbers, an error's kind stands under `name` and `type`, a password under `password` and
`smtp_password`. An owner with the profile `poweremail` is answered as that document alone has it: code "-1", limits as strings,
`smtp_password` only, `total_limit` compulsory in an edit.

Requests are read as their clients really send them, whatever the content type says: JSON or a form, numbers also as strings of
digits; null, empty and absent mean the same. Pure: no I/O; who may do what is left to the callers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NoReturn
from urllib.parse import parse_qsl

from relay.accounts.user import Entry, is_limit

POWEREMAIL = "poweremail"
MASK = "********"
"""Stands for a password that cannot be shown again."""
MAX_FIELDS = 100

Call = Literal["addSmtp", "editSmtp", "resetSmtpPassword", "listSmtp"]
CALLS: Mapping[str, Call] = {
    "addSmtp": "addSmtp",
    "addSmtpUser": "addSmtp",
    "editSmtp": "editSmtp",
    "editSmtpUser": "editSmtp",
    "resetSmtpPassword": "resetSmtpPassword",
    "listSmtp": "listSmtp",
}
"""The calls by the names their clients use: the documents' own and the method names of the vendors' SDKs."""

ErrorName = Literal["ValidationError", "GeneralError", "AuthenticationError"]
STATUSES: Mapping[ErrorName, int] = {"ValidationError": 400, "GeneralError": 500, "AuthenticationError": 401}

MISMATCH = "Token MissMatch"
UNKNOWN_USER = "smtp_user_name is not valid"

Fields = Mapping[str, Any]
_DIGITS = re.compile(r"[0-9]{1,20}", re.ASCII)


class Fault(Exception):
    """A request that cannot be served; the text is for its sender."""

    def __init__(self, name: ErrorName, message: str) -> None:
        super().__init__(message)
        self.name: ErrorName = name


@dataclass(frozen=True, slots=True)
class Addition:
    """What addSmtp asks for."""

    hourly: int
    total: int


@dataclass(frozen=True, slots=True)
class Edit:
    """What editSmtp asks for; None leaves as it is."""

    name: str
    hourly: int | None
    total: int | None
    is_enabled: bool | None


# -- reading -----------------------------------------------------------------------------------------------------------------


def read_body(body: bytes) -> Fields:
    """Read a request's body, JSON if it begins like it, else a form; raises Fault."""
    try:
        text = body.decode("utf-8-sig").strip()
        if text.startswith(("{", "[")):
            fields = json.loads(text, parse_constant=_refuse_constant)
        else:
            fields = dict(parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS))
    except (ValueError, RecursionError):
        raise Fault("ValidationError", "The request body is neither valid JSON nor a form") from None
    if not isinstance(fields, dict):
        raise Fault("ValidationError", "The request body is not a JSON object")
    return fields


def read_credentials(fields: Fields) -> tuple[str, str]:
    """The owner id and token of a request, "" for what is missing; an owner id may come as a number."""
    return _read_text(fields.get("owner_id")), _read_text(fields.get("token"))


def read_addition(fields: Fields) -> Addition:
    """Read what addSmtp asks for; raises Fault."""
    total = _read_limit(fields, "total_limit", is_compulsory=True)
    hourly = _read_limit(fields, "hourly_limit", is_compulsory=True)
    assert total is not None and hourly is not None
    return Addition(hourly, total)


def read_edit(fields: Fields, profile: str = "") -> Edit:
    """Read what editSmtp asks for; raises Fault."""
    name = read_user_name(fields)
    total = _read_limit(fields, "total_limit", is_compulsory=profile == POWEREMAIL)
    hourly = _read_limit(fields, "hourly_limit", is_compulsory=False)
    return Edit(name, hourly, total, _read_status(fields))


def read_user_name(fields: Fields) -> str:
    """Read which user a request is about; raises Fault. Whether there is such a user is not known here."""
    name = fields.get("smtp_user_name")
    if name is None or name == "":
        raise Fault("ValidationError", "smtp_user_name is required")
    if not isinstance(name, str):
        raise Fault("ValidationError", UNKNOWN_USER)
    return name


def _read_limit(fields: Fields, key: str, *, is_compulsory: bool) -> int | None:
    value = fields.get(key)
    if value is None or value == "":
        if is_compulsory:
            raise Fault("ValidationError", f"{key} is required")
        return None
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not is_limit(value):
        raise Fault("ValidationError", f"{key} must be a positive digit")
    return value


def _read_status(fields: Fields) -> bool | None:
    match fields.get("status"):
        case None | "":
            return None
        case "Enable":
            return True
        case "Disable":
            return False
    raise Fault("ValidationError", "status must be either 'Enable' or 'Disable'")


def _read_text(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) else ""


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)  # NaN and Infinity are not JSON


# -- answering ---------------------------------------------------------------------------------------------------------------


def write_created(name: str, password: str) -> bytes:
    """Answer addSmtp."""
    return _write({"status": "success", "message": "SMTP User Created", "smtp_user_name": name, "smtp_password": password})


def write_updated() -> bytes:
    """Answer editSmtp."""
    return _write({"status": "success", "message": "SMTP User Updated"})


def write_reset(name: str, password: str) -> bytes:
    """Answer resetSmtpPassword."""
    return _write({"status": "success", "message": "password reseted", "smtp_user_name": name, "smtp_password": password})


LIST_BEGINS = b'{"status":"success","message":"SMTP User List","smtp_list":['
LIST_ENDS = b"]}"


def write_entries(entries: Iterable[Entry], profile: str = "") -> bytes:
    """Write users between LIST_BEGINS and LIST_ENDS; pages are to be joined by commas."""
    return b",".join(_write(_entry(entry, profile)) for entry in entries)


def _entry(entry: Entry, profile: str) -> dict[str, Any]:
    password = MASK if entry.password is None else entry.password
    status = "Enable" if entry.is_switched_on else "Disable"
    if profile == POWEREMAIL:
        return {
            "smtp_user_name": entry.user.name,
            "smtp_password": password,
            "status": status,
            "total_limit": _digits(entry.user.total),
            "hourly_limit": _digits(entry.user.hourly),
        }
    return {
        "smtp_user_name": entry.user.name,
        "password": password,
        "smtp_password": password,
        "status": status,
        "total_limit": entry.user.total,
        "hourly_limit": entry.user.hourly,
    }


def write_error(name: ErrorName, message: str, profile: str = "") -> bytes:
    """Answer an error. The documents show its kind as `name` and list it as `type`: clients read the one or the other."""
    code: int | str = "-1" if profile == POWEREMAIL else -1
    return _write({"status": "error", "code": code, "name": name, "type": name, "message": message})


def _digits(limit: int | None) -> str | None:
    return None if limit is None else str(limit)


def _write(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
