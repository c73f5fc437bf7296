"""The description of the SuperOffice call for the OpenAPI document."""

from __future__ import annotations

from typing import Any

from relay.dialects.superoffice import FORM_TYPE, JSON_TYPES, XML_TYPES

Schema = dict[str, Any]

_TEXT: Schema = {"type": ["string", "null"]}
_REQUEST: Schema = {
    "type": "object",
    "properties": {
        "SmtpUri": {**_TEXT, "description": "smtp:// or smtps://user:password@host:port, user and password percent-encoded"},
        "From": {**_TEXT, "description": "The address the test is sent from"},
        "UseStoredPassword": {"type": ["boolean", "null"], "description": "Use the password of the owner's stored account"},
    },
    "required": ["SmtpUri", "From"],
}
_RESULT: Schema = {
    "type": "object",
    "properties": {
        "Success": {"type": ["boolean", "null"]},
        "ErrorMessage": _TEXT,
        "TableRight": {"type": ["object", "null"]},
        "FieldProperties": {"type": ["object", "null"]},
    },
    "required": ["Success", "ErrorMessage", "TableRight", "FieldProperties"],
}
_ERROR: Schema = {
    "type": "object",
    "properties": {"Message": {"type": "string"}, "MessageDetail": {"type": "string"}},
    "required": ["Message"],
}
_FORMS = (*JSON_TYPES, *XML_TYPES)
_ERRORS = {
    "400": "The request cannot be read",
    "403": "The owner is disabled",
    "408": "The request did not arrive in time",
    "413": "The request is too large",
    "415": "The request's media type or character set is not known",
    "429": "Too many failed attempts, or too many tests under way; see Retry-After",
    "500": "An unexpected error",
    "503": "Temporarily unavailable; see Retry-After",
}


def _content(schema: Schema) -> Schema:
    return {form: {"schema": schema} for form in _FORMS}


_SELECT = {
    "name": "$select",
    "in": "query",
    "required": False,
    "schema": {"type": "string"},
    "description": "Properties to include, separated by commas; the others are null",
}
TESTED: Schema = {
    "parameters": [_SELECT],
    "security": [{"Owner": []}],
    "requestBody": {"required": True, "content": {**_content(_REQUEST), FORM_TYPE: {"schema": _REQUEST}}},
    "responses": {
        "200": {"description": "The test was run, or could not be: see Success", "content": _content(_RESULT)},
        "401": {"description": "Wrong credentials, or none", "content": {"text/html": {"schema": {"type": "string"}}}},
        **{status: {"description": text, "content": _content(_ERROR)} for status, text in _ERRORS.items()},
    },
}
DESCRIBED: Schema = {
    "responses": {"200": {"description": "What the call is; nothing is run", "content": _content({"type": "object"})}},
}
