"""What the SuperOffice dialect answers: JSON or XML as the client would have it, and only the properties it selects.

Promises: properties in PascalCase and in the document's order; a property that was not selected is there and null; an answer is
well-formed whatever a smarthost has said.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from xml.sax.saxutils import escape

from relay.dialects.superoffice import FORM_TYPE, JSON_TYPES, XML_TYPES, media_type

JSON = JSON_TYPES[0]
TYPES = (*JSON_TYPES[:2], *XML_TYPES, *JSON_TYPES[2:])
REALM = 'Basic realm="SuperOffice Username or Ticket"'
UNAUTHORISED = (
    "<!DOCTYPE html>\n<html><head><title>401 Unauthorized</title></head><body><h1>401 Unauthorized</h1>"
    "<p>Send an Authorization header: <code>Basic</code> with owner id and token, or <code>SOTicket</code> or <code>Bearer</code> "
    "with an access token.</p></body></html>\n"
)

_NIL = ' i:nil="true" xmlns:i="http://www.w3.org/2001/XMLSchema-instance"'
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_QUALITY = re.compile(r"(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")

DESCRIPTION = {
    "Name": "TestSmtpServer",
    "Description": "Tests an SMTP account by sending a message to the configured test address. Use POST to run it.",
    "Method": "POST",
    "Parameters": "SmtpUri (String), From (String), UseStoredPassword (Boolean)",
    "Result": "SmtpTestResult: Success (bool), ErrorMessage (string), TableRight (TableRight), FieldProperties (object)",
}


def negotiate(accept: str, content_type: str) -> str:
    """The media type of the answer: by Accept (RFC 9110 section 12.5.1), by the request's own where anything will do, else JSON."""
    asked = media_type(content_type)
    usual = asked if asked in TYPES and asked != FORM_TYPE else JSON
    ranges = [_read_range(item) for item in accept.split(",") if item.strip()]
    refused = {kind for kind, quality in ranges if not quality}
    for kind, quality in sorted(ranges, key=lambda item: -item[1]):
        if not quality:
            continue
        for candidate in (usual, *TYPES):
            if candidate not in refused and kind in (candidate, "*/*", f"{candidate.partition('/')[0]}/*"):
                return candidate
    return usual if not ranges else JSON


def _read_range(item: str) -> tuple[str, float]:
    kind, *parameters = (part.strip() for part in item.split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "q":
            return kind.lower(), float(value) if _QUALITY.fullmatch(value.strip()) else 0.0
    return kind.lower(), 1.0


def read_selection(text: str) -> frozenset[str]:
    """The properties that `$select` names, in lower case; of a nested one its first part. Empty: all."""
    return frozenset(name for item in text.split(",") if (name := item.strip().partition("/")[0].strip().lower()))


def write_result(is_success: bool, message: str, selection: frozenset[str], media: str) -> bytes:
    """Answer with an SmtpTestResult."""
    fields = {"Success": is_success, "ErrorMessage": message, "TableRight": None, "FieldProperties": {}}
    if selection:
        fields = {name: value if name.lower() in selection else None for name, value in fields.items()}
    return _write("SmtpTestResult", fields, media)


def write_error(message: str, detail: str, media: str) -> bytes:
    """Answer an error of the request."""
    return _write("Error", {"Message": message, "MessageDetail": detail} if detail else {"Message": message}, media)


def write_description(media: str) -> bytes:
    """Answer who only looks."""
    return _write("AgentMethod", DESCRIPTION, media)


def _write(name: str, fields: Mapping[str, Any], media: str) -> bytes:
    if media in XML_TYPES:
        return f"<{name}>{''.join(_element(key, value) for key, value in fields.items())}</{name}>".encode()
    return json.dumps(fields, separators=(",", ":")).encode()


def _element(name: str, value: object) -> str:
    if value is None:
        return f"<{name}{_NIL} />"
    text = str(value).lower() if isinstance(value, bool) else value if isinstance(value, str) else ""
    text = escape(_NOT_XML.sub("\ufffd", text))
    return f"<{name}>{text}</{name}>" if text else f"<{name} />"
