"""The description of the TES calls for the OpenAPI document."""

from __future__ import annotations

from typing import Any

from relay.dialects.tes import Call

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_LIMIT: Schema = {"type": "integer", "minimum": 1, "maximum": 10**12}
_LIMIT_OR_NULL: Schema = {**_LIMIT, "type": ["integer", "null"]}
_STATUS: Schema = {"type": "string", "enum": ["Enable", "Disable"]}
_KEEP = "null, empty or absent: unchanged"

_CREDENTIALS: Schema = {"owner_id": _TEXT, "token": _TEXT}
_REQUESTS: dict[Call, tuple[Schema, list[str]]] = {
    "addSmtp": ({"total_limit": _LIMIT, "hourly_limit": _LIMIT}, ["total_limit", "hourly_limit"]),
    "editSmtp": (
        {
            "smtp_user_name": _TEXT,
            "total_limit": {**_LIMIT_OR_NULL, "description": _KEEP},
            "hourly_limit": {**_LIMIT_OR_NULL, "description": _KEEP},
            "status": {"type": ["string", "null"], "enum": ["Enable", "Disable", "", None], "description": _KEEP},
        },
        ["smtp_user_name"],
    ),
    "resetSmtpPassword": ({"smtp_user_name": _TEXT}, ["smtp_user_name"]),
    "listSmtp": ({}, []),
}

_SUCCESS: Schema = {"status": {"type": "string", "enum": ["success"]}, "message": _TEXT}
_SECRET: Schema = {"smtp_user_name": _TEXT, "smtp_password": _TEXT}
_ENTRY: Schema = {
    "smtp_user_name": _TEXT,
    "password": _TEXT,
    "smtp_password": _TEXT,
    "status": _STATUS,
    "total_limit": _LIMIT_OR_NULL,
    "hourly_limit": _LIMIT_OR_NULL,
}
_RESPONSES: dict[Call, Schema] = {
    "addSmtp": {**_SUCCESS, **_SECRET},
    "editSmtp": _SUCCESS,
    "resetSmtpPassword": {**_SUCCESS, **_SECRET},
    "listSmtp": {**_SUCCESS, "smtp_list": {"type": "array", "items": {"type": "object", "properties": _ENTRY}}},
}
_ERROR: Schema = {
    "type": "object",
    "properties": {
        "status": {"type": "string", "enum": ["error"]},
        "code": {"type": "integer", "enum": [-1]},
        "name": {"type": "string", "enum": ["ValidationError", "GeneralError", "AuthenticationError"]},
        "type": {"type": "string", "description": "the same as name"},
        "message": _TEXT,
    },
}
_ERRORS = {
    "400": "ValidationError: the parameters are invalid or missing",
    "401": "AuthenticationError: owner_id and token do not match",
    "413": "ValidationError: the body is too large",
    "429": "AuthenticationError: too many failed attempts; see Retry-After",
    "500": "GeneralError: an unexpected error",
    "503": "GeneralError: temporarily unavailable; see Retry-After",
}


def describe(call: Call) -> Schema:
    """The request body and the answers of one call."""
    fields, compulsory = _REQUESTS[call]
    request = {"type": "object", "properties": {**_CREDENTIALS, **fields}, "required": ["owner_id", "token", *compulsory]}
    media = {"schema": request}
    answer = {"type": "object", "properties": _RESPONSES[call]}
    responses: Schema = {"200": {"description": "Done", "content": {"application/json": {"schema": answer}}}}
    for status, text in _ERRORS.items():
        responses[status] = {"description": text, "content": {"application/json": {"schema": _ERROR}}}
    return {
        "requestBody": {"required": True, "content": {"application/json": media, "application/x-www-form-urlencoded": media}},
        "responses": responses,
    }
