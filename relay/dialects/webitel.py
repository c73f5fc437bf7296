"""The Webitel dialect: e-mail settings per domain, signing in and out, as its engine 3 answers them.

Promises: what the engine answers is answered word for word, keys in their order, `Info` with its capital. There is no schema: what a
client wrote is shown to it again as it wrote it, whether mail can go there or not; only `_id` and `domain` are the relay's, and
tokens that came along in the body are not kept.

Bodies are read as Express reads them: JSON where the content type says so, else nothing at all. Numbers are JavaScript's: 1.0 is 1,
what is too large for one is null. Pure: no I/O; who may do what is left to the callers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from email.utils import parseaddr
from typing import Any, NoReturn

from relay.accounts.setting import Setting, fold
from relay.dialects.nodemailer import Unusable, is_given, read_options, write_options
from relay.mail.address import is_mailbox
from relay.upstream.route import Choice

MAX_SENDER = 1000
"""Characters of a `from`; what is longer is no address."""
MAX_DEPTH = 100
"""How deep a document may be nested: as deep as the engine's own database takes them."""
BAD_PARAMETERS = "Bad parameters."
DOMAIN_REQUIRED = "Bad request (domain required)."
NO_RECIPIENT = "No address that test messages may go to is configured."
TOKENS = ("access_token", "x_key")
"""Fields of a body that say who asks, not what."""
ROLE, ROLE_NAME = 2, "root"
"""Of who is bound to no domain: it names one in each call."""

Fields = Mapping[str, Any]
_CHARSETS = ("utf-8", "utf8", "utf-16", "utf-16le", "utf-16be", "utf-32")


class Fault(Exception):
    """A request that cannot be served; the text is for its sender."""

    def __init__(self, status: int, info: str, code: str = "") -> None:
        super().__init__(info)
        self.status = status
        self.code = code


# -- reading -----------------------------------------------------------------------------------------------------------------


def read_body(content_type: str, encoding: str, body: bytes) -> Fields:
    """Read a request's body by its Content-Type and Content-Encoding; whatever is not JSON is nothing. Raises Fault."""
    media, _, parameters = content_type.partition(";")
    if media.strip().lower() != "application/json" or not body:
        return {}
    if encoding.strip().lower() not in ("", "identity"):
        raise Fault(415, "unsupported content encoding")
    charset = _charset(parameters)
    try:
        text = body.decode(charset).removeprefix("\ufeff").strip(" \t\r\n")
        if text and text[0] not in "{[":
            raise Fault(400, "Unexpected token in JSON at position 0")
        found = json.loads(text or "{}", parse_float=_read_number, parse_int=_read_whole, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise Fault(400, f"Unexpected token in JSON at position {error.pos}") from None
    except (ValueError, RecursionError):
        raise Fault(400, "The request body cannot be read") from None
    if _depth(found) > MAX_DEPTH:
        raise Fault(400, "The request body is nested too deeply")
    return _legible(found) if isinstance(found, dict) else {}


def read_credentials(fields: Fields, query: Fields, headers: Fields) -> tuple[str, str]:
    """The token and the key of a request, "" for what is missing: the body's before the query's before the headers'."""

    def first(name: str, header: str) -> str:
        found = (fields.get(name), query.get(name), headers.get(header))
        return next((text for text in found if isinstance(text, str) and text), "")

    return first("access_token", "x-access-token"), first("x_key", "x-key")


def read_login(fields: Fields) -> tuple[str, str]:
    """Who signs in, by which password; "" for what is missing."""
    username, password = fields.get("username"), fields.get("password")
    if isinstance(username, int) and not isinstance(username, bool):
        username = str(username)
    return username if isinstance(username, str) else "", password if isinstance(password, str) else ""


def read_setting(fields: Fields, domain: str) -> dict[str, Any]:
    """The document that a client wants to be kept for a domain; raises Fault."""
    if not (domain and is_given(fields.get("provider")) and is_given(fields.get("options"))):
        raise Fault(400, BAD_PARAMETERS)
    return {key: value for key, value in fields.items() if key not in ("_id", "domain", *TOKENS)}


def read_choices(document: Fields) -> tuple[Choice, ...]:
    """The smarthost that a document names; raises Fault where it names none that mail could go to."""
    if document.get("provider") != "smtp":
        raise Fault(500, "Bad provider name.")
    try:
        return (Choice(read_options(document.get("options"))),)
    except Unusable as error:
        raise Fault(500, str(error), error.code) from None


def usable_choices(document: Fields) -> tuple[Choice, ...]:
    """The same, nothing where it names none: the document is kept all the same, and its mail waits."""
    try:
        return read_choices(document)
    except Fault:
        return ()


def document_of(setting: Setting) -> Fields:
    """What was written for a setting, or what says the same where it was made in other words."""
    if setting.document is not None:
        return setting.document
    options = write_options(min(setting.choices, key=lambda choice: choice.priority).target) if setting.choices else {}
    return {"provider": "smtp", "options": options}


def sender_of(document: Fields, domain: str) -> str:
    """Whom a test message comes from: the document's `from`, else its login, else the domain's postmaster."""
    options = document.get("options")
    auth = options.get("auth") if isinstance(options, dict) else None
    login = auth.get("user") if isinstance(auth, dict) else None
    for text in (document.get("from"), login):
        if isinstance(text, str) and is_mailbox(mailbox := _address_in(text), is_utf8=True):
            return mailbox
    return f"postmaster@{fold(domain)}"


def _address_in(text: str) -> str:
    """The address in a text, which may stand behind a name; "" where none can be read."""
    try:
        return parseaddr(text)[1] if len(text) <= MAX_SENDER else ""
    except (RecursionError, IndexError):  # it goes into comments and routes by calling itself
        return ""


def recipient_of(configured: str) -> str:
    """Whom a test message goes to; raises Fault.

    Whom the operator configured, whatever `to` says: a test costs nothing, and nobody has proved that a domain is his, so it would be a
    way to write to anybody past every limit.
    """
    if not configured:
        raise Fault(500, NO_RECIPIENT, "EENVELOPE")
    return configured


def _charset(parameters: str) -> str:
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            charset = value.strip().strip('"').lower()
            if charset not in _CHARSETS:
                raise Fault(415, "unsupported charset")
            return charset
    return "utf-8"


def _read_number(text: str) -> float | int | None:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        return None
    return int(value) if value.is_integer() and abs(value) < 1e21 else value


def _read_whole(text: str) -> int | None:
    # What is far too long is not made a number at all: Python would refuse to.
    if len(text) < 309:
        return int(text)
    return int(text) if len(text) <= 310 and math.isfinite(float(text)) else None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)  # NaN and Infinity are not JSON


def _depth(value: dict[str, Any] | list[Any]) -> int:
    depth, level = 0, [value]
    while level and depth <= MAX_DEPTH:
        depth += 1
        within = [inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer)]
        level = [inner for inner in within if isinstance(inner, dict | list)]
    return depth


def _legible(fields: dict[str, Any]) -> dict[str, Any]:
    """The same with U+FFFD for each half of a surrogate pair, which is no character and cannot be sent."""
    text = json.dumps(fields, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        fields = json.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    return fields


# -- answering ---------------------------------------------------------------------------------------------------------------


def write_setting(setting: Setting) -> bytes:
    """Answer with a setting."""
    return _write({"_id": setting.id, **document_of(setting), "domain": setting.domain})


def write_removed(count: int) -> bytes:
    """Answer DELETE."""
    return _write({"status": "OK", "Info": f"Removed {count} record."})


def write_tested(sender: str, recipient: str, reply: str, message_id: str) -> bytes:
    """Answer a test that went well, as nodemailer tells of a message that was sent: its id without the angle brackets."""
    envelope = {"from": sender, "to": [recipient]}
    info = {"accepted": [recipient], "rejected": [], "response": reply, "envelope": envelope, "messageId": message_id.strip("<>")}
    return _write({"status": "OK", "info": info})


def write_signed_in(key: str, username: str, expires: int, token: str) -> bytes:
    """Answer /login; `expires` is in milliseconds since 1970."""
    return _write(
        {
            "key": key, "username": username, "domain": "", "expires": expires, "token": token,
            "role": ROLE, "roleName": ROLE_NAME, "acl": {}, "cdr": {}, "verto": {},
        }
    )  # fmt: skip


def write_signed_out() -> bytes:
    """Answer /logout."""
    return _write({"status": "OK", "info": "Successful logout."})


def write_nobody() -> bytes:
    """Answer /login without a name, which alone has another shape."""
    return _write({"status": 401, "message": "Invalid credentials"})


def write_error(info: str, code: str = "") -> bytes:
    """Answer an error."""
    return _write({"status": "error", "info": info, **({"code": code} if code else {})})


def _write(value: Fields) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
