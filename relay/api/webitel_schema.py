"""The description of the Webitel calls for the OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

Call = Literal["show", "replace", "update", "remove", "test", "test_to", "login", "logout"]
Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_IGNORED = "ignored: a test message goes to the relay's own test address (api.test_recipient)"
_WORDS: Schema = {"type": "object"}

_SETTING: Schema = {
    "type": "object",
    "properties": {
        "provider": {"description": "smtp, for mail to go there"},
        "options": {
            "description": "nodemailer's: host, port, secure, ignoreTLS, requireTLS, tls, auth, name, and caps and time-outs; "
            "only ignoreTLS lets a login travel in clear"
        },
        "description": {},
        "from": {"description": "whom a test message comes from"},
    },
    "description": "Kept and shown as it is, whatever else stands in it; _id and domain are the server's.",
}
_ERROR: Schema = {
    "type": "object",
    "properties": {
        "status": {"type": "string", "enum": ["error"]},
        "info": _TEXT,
        "code": {"type": "string", "description": "of a test that failed, nodemailer's: EDNS, ECONNECTION, ETLS, EAUTH, ..."},
    },
    "required": ["status", "info"],
}
_NOBODY: Schema = {
    "type": "object",
    "properties": {"status": {"type": "integer", "enum": [401]}, "message": _TEXT},
    "required": ["status", "message"],
}
_STORED: Schema = {
    **_SETTING,
    "properties": {"_id": {"type": "string", "pattern": "^[0-9a-f]{24}$"}, **_SETTING["properties"], "domain": _TEXT},
    "required": ["_id", "domain"],
}
_TESTED: Schema = {
    "type": "object",
    "properties": {"status": {"type": "string", "enum": ["OK"]}, "info": _WORDS},
    "required": ["status", "info"],
}
_REMOVED: Schema = {
    "type": "object",
    "properties": {"status": {"type": "string", "enum": ["OK"]}, "Info": _TEXT},
    "required": ["status", "Info"],
}
_SIGNED_IN: Schema = {
    "type": "object",
    "properties": {
        "key": {"type": "string", "format": "uuid"},
        "username": _TEXT,
        "domain": _TEXT,
        "expires": {"type": "integer", "description": "milliseconds since 1970"},
        "token": _TEXT,
        "role": {"type": "integer"},
        "roleName": _TEXT,
        "acl": _WORDS,
        "cdr": _WORDS,
        "verto": _WORDS,
    },
    "required": ["key", "username", "expires", "token"],
}
_SIGNED_OUT: Schema = {
    "type": "object",
    "properties": {"status": {"type": "string", "enum": ["OK"]}, "info": _TEXT},
    "required": ["status", "info"],
}

_REQUESTS: Mapping[Call, Schema] = {
    "replace": {**_SETTING, "required": ["provider", "options"]},
    "update": {**_SETTING, "required": ["provider", "options"]},
    "test": {"type": "object", "properties": {"to": {**_TEXT, "description": _IGNORED}}},
    "login": {
        "type": "object",
        "properties": {"username": {**_TEXT, "description": "the owner_id"}, "password": {**_TEXT, "description": "the owner's token"}},
        "required": ["username", "password"],
    },
}
_RESPONSES: Mapping[Call, Schema] = {
    "show": _STORED,
    "replace": _STORED,
    "update": _STORED,
    "remove": _REMOVED,
    "test": _TESTED,
    "test_to": _TESTED,
    "login": _SIGNED_IN,
    "logout": _SIGNED_OUT,
}
_BAD = "the domain is missing or none, or the parameters are bad"
_MISSING = "there is no setting for the domain"
_BUSY = "too many tests are under way; see Retry-After"
_FAILED = "the message could not be sent: info says why, code is nodemailer's"
_ERRORS: Mapping[Call, Mapping[str, str]] = {
    "show": {"400": _BAD, "404": _MISSING},
    "replace": {"400": _BAD},
    "update": {"400": _BAD, "404": f"{_MISSING}, or it is so already"},
    "remove": {"400": _BAD},
    "test": {"400": _BAD, "404": _MISSING, "429": _BUSY, "500": _FAILED},
    "test_to": {"400": _BAD, "404": _MISSING, "429": _BUSY, "500": _FAILED},
    "login": {"400": "the body is no JSON", "429": "too many failed attempts; see Retry-After"},
    "logout": {"400": "the body is no JSON"},
}
_ALWAYS = {
    "401": "the token is nobody's, or the password is wrong",
    "408": "the body did not arrive in time",
    "413": "the body is too large",
    "415": "the body's charset or encoding is not known",
    "500": "an unexpected error",
    "503": "temporarily unavailable; see Retry-After",
}


def describe(call: Call) -> Schema:
    """The parameters, the request body and the answers of one call."""
    responses: Schema = {"200": {"description": "Done", "content": _json(_RESPONSES[call])}}
    for status, text in sorted({**_ALWAYS, **_ERRORS[call]}.items()):
        is_login = call == "login" and status == "401"
        responses[status] = {"description": text, "content": _json({"anyOf": [_ERROR, _NOBODY]} if is_login else _ERROR)}
    described: Schema = {"responses": responses}
    if call in _REQUESTS:
        described["requestBody"] = {"required": call != "test", "content": _json(_REQUESTS[call])}
    parameters = []
    if call not in ("login", "logout"):
        parameters.append(_parameter("domain", "query", "the sender's domain; a token that is bound to one needs none"))
    if call == "test_to":
        parameters.append(_parameter("to", "path", _IGNORED))
    return {**described, "parameters": parameters} if parameters else described


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}


def _parameter(name: str, place: str, text: str) -> Schema:
    return {"name": name, "in": place, "required": place == "path", "schema": _TEXT, "description": text}
