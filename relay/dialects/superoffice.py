"""The SuperOffice dialect: TestSmtpServer, a call of the agent CustomerService.

Promises: the request is read as SuperOffice's clients send it, whatever form and case its keys have; the answer has the document's
four properties in their order, in the form that was asked for. A request nobody could read raises Malformed (a status of its own); an
account that cannot be tested raises Untestable, which is an answer like any other: not successful, with a sentence for the admin.
No text repeats anything of a URI: what stands in the wrong place of one may be a password.

Pure: no I/O; who may ask and what becomes of the test is left to the callers.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn
from urllib.parse import parse_qsl, unquote_to_bytes
from xml.parsers import expat

from relay.accounts.setting import Setting
from relay.mail.address import is_mailbox
from relay.upstream.route import Target

JSON_TYPES = ("application/json", "text/json", "application/json-patch+json", "application/merge-patch+json")
XML_TYPES = ("application/xml", "text/xml")
FORM_TYPE = "application/x-www-form-urlencoded"
DEFAULT_PORTS = {"smtp": 25, "smtps": 465}
INVALID = "The request is invalid."
MAX_FIELDS = 100

_CHARSETS = {"": "utf-8", "utf-8": "utf-8", "utf8": "utf-8", "us-ascii": "ascii", "iso-8859-1": "iso-8859-1", "utf-16": "utf-16"}
_KEYS = {"smtpuri": "SmtpUri", "from": "From", "usestoredpassword": "UseStoredPassword"}
_TRUTH = {"true": True, "1": True, "false": False, "0": False, "": False}
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_NAMED = re.compile(r"[^<>]*<([^<>]+)>")
_ENCODED = "characters like / ? # @ : % in a user name or password must be percent-encoded"

Fields = Mapping[str, Any]


class Malformed(Exception):
    """A request that cannot be read; the text is for its sender."""

    def __init__(self, detail: str, status: int = 400) -> None:
        super().__init__(detail)
        self.status = status


class Untestable(Exception):
    """An account that cannot be tested as it was given; the text is a sentence for an admin."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for."""

    uri: str
    sender: str
    uses_stored: bool

    def __repr__(self) -> str:
        return "Asked(...)"  # a URI has a password in it


# -- reading a request -------------------------------------------------------------------------------------------------------


def media_type(content_type: str) -> str:
    """The type in a Content-Type field, without parameters, in lower case."""
    return content_type.partition(";")[0].strip().lower()


def read_request(body: bytes, content_type: str) -> Asked:
    """Read a request by its Content-Type; raises Malformed."""
    kind, charset = media_type(content_type), _charset(content_type)
    if not body.strip():
        raise Malformed("The request has no body.")
    if kind in XML_TYPES:
        fields: Fields = _read_xml(body, charset)
    elif kind == FORM_TYPE:
        fields = _read_form(_decode(body, charset))
    elif kind in JSON_TYPES or not kind:
        fields = _read_json(_decode(body, charset))
    else:
        raise Malformed("The request entity's media type is not supported for this resource.", 415)
    # As in their own reader, the last of two keys that differ in case alone is the one that counts.
    found = {_KEYS[key.lower()]: value for key, value in fields.items() if key.lower() in _KEYS}
    return Asked(
        _read_text(found.get("SmtpUri"), "SmtpUri"), _read_text(found.get("From"), "From"), _read_flag(found.get("UseStoredPassword"))
    )


def _charset(content_type: str) -> str:
    for parameter in content_type.split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            charset = value.strip().strip('"').lower()
            if charset not in _CHARSETS:
                raise Malformed("The request entity's character set is not supported.", 415)
            return charset
    return ""


def _decode(body: bytes, charset: str) -> str:
    try:
        return body.decode(_CHARSETS[charset]).removeprefix("\ufeff")
    except ValueError:
        raise Malformed("The request body is not text in its character set.") from None


def _read_json(text: str) -> Fields:
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise Malformed("The request body is not valid JSON.") from None
    if isinstance(value, list):
        value = _apply_patch(value)
    if not isinstance(value, dict):
        raise Malformed("The request body is not a JSON object.")
    return value


def _apply_patch(operations: list[Any]) -> dict[str, Any]:
    """What a JSON patch (RFC 6902) makes of an empty request."""
    fields = {}
    for operation in operations:
        match operation:
            case {"op": "add" | "replace", "path": str(path), "value": value} if path.startswith("/"):
                fields[path[1:]] = value
            case _:
                raise Malformed("Only the operations add and replace of a JSON patch can be used here.")
    return fields


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)  # NaN and Infinity are not JSON


def _read_form(text: str) -> Fields:
    try:
        return dict(parse_qsl(text.strip(), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS))
    except ValueError:
        raise Malformed("The request body is not a form.") from None


def _read_xml(body: bytes, charset: str) -> Fields:
    """The children of the root by their local names. A document type is refused, and with it every entity that could be defined."""
    reader = expat.ParserCreate(charset or None, namespace_separator=" ")
    fields: dict[str, list[str]] = {}
    path: list[str] = []

    def start(name: str, _: dict[str, str]) -> None:
        path.append(name.rpartition(" ")[2])
        if len(path) == 2:
            fields[path[1]] = []

    def text(data: str) -> None:
        if len(path) == 2:
            fields[path[1]].append(data)

    def refuse(*_: object) -> NoReturn:
        raise Malformed("The request body has a document type, which is not accepted.")

    reader.buffer_text = True
    reader.StartElementHandler, reader.CharacterDataHandler = start, text
    reader.EndElementHandler = lambda _: path.pop()
    reader.StartDoctypeDeclHandler = refuse
    try:
        reader.Parse(body, True)
    except (expat.ExpatError, ValueError, LookupError):
        raise Malformed("The request body is not valid XML.") from None
    return {key: "".join(parts).strip() for key, parts in fields.items()}


def _read_text(value: object, key: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Malformed(f"{key} must be a string.")
    return value.strip()


def _read_flag(value: object) -> bool:
    if value is None or isinstance(value, bool):
        return bool(value)
    known = _TRUTH.get(str(value).strip().lower()) if isinstance(value, str | int) else None
    if known is None:
        raise Malformed("UseStoredPassword must be a boolean.")
    return known


# -- reading an account ------------------------------------------------------------------------------------------------------


def read_sender(text: str) -> str:
    """The address in From, which may stand behind a name; raises Untestable."""
    if not text:
        raise Untestable("From is missing: give the address that the test is sent from.")
    found = _NAMED.fullmatch(text)
    address = found[1].strip() if found else text
    if not is_mailbox(address, is_utf8=True):
        raise Untestable("From is not an e-mail address.")
    return address


def read_target(uri: str) -> Target:
    """The account in a URI: scheme://user:password@host:port (RFC 3986 section 3.2); raises Untestable."""
    if not uri:
        raise Untestable("SmtpUri is missing: give the server as smtp://user:password@host:port or smtps://user:password@host:port.")
    if not uri.isprintable() or " " in uri:
        raise Untestable("SmtpUri contains spaces or characters that cannot be printed; they must be percent-encoded.")
    scheme, separator, rest = uri.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in DEFAULT_PORTS:
        raise Untestable("SmtpUri must begin with smtp:// or smtps://.")
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    if rest not in (authority, authority + "/"):
        raise Untestable(f"SmtpUri must end after the host and the port; {_ENCODED}.")
    userinfo, _, place = authority.rpartition("@")
    host, port = _read_place(place)
    username, password = _read_userinfo(userinfo)
    return Target(
        host, port or DEFAULT_PORTS[scheme], "tls" if scheme == "smtps" else "opportunistic",
        username=username, password=password, is_guarded=True,
    )  # fmt: skip


def _read_place(place: str) -> tuple[str, int]:
    """A host and its port, 0 where none is given."""
    if place.startswith("["):
        host, bracket, rest = place[1:].partition("]")
        is_good = bool(bracket) and ":" in host and rest[:1] in ("", ":")
        port = rest[1:]
    else:
        host, _, port = place.partition(":")
        is_good = True
    if not is_good or not _is_host(host):
        raise Untestable(f"SmtpUri has no valid host name or address; {_ENCODED}.")
    if port and not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65536):
        raise Untestable(f"The port of SmtpUri is not a number from 1 to 65535; {_ENCODED}.")
    return host, int(port or 0)


def _is_host(text: str) -> bool:
    """Whether a text has the form of a host's name or address; whether anybody may go there is not known here."""
    if ":" not in text:
        return is_mailbox(f"x@{text}", is_utf8=True)
    try:
        return ipaddress.IPv6Address(text).scope_id is None
    except ValueError:
        return False


def _read_userinfo(userinfo: str) -> tuple[str, str]:
    name, colon, secret = userinfo.partition(":")
    username, password = _unescape(name), _unescape(secret)
    if colon and secret and not username:
        raise Untestable("SmtpUri has a password without a user name.")
    return username, password


def _unescape(text: str) -> str:
    """Undo percent-encoding, which is UTF-8's."""
    if _BAD_ESCAPE.search(text):
        raise Untestable("SmtpUri has a % in its user name or password that is not followed by two hexadecimal digits; write it as %25.")
    try:
        plain = unquote_to_bytes(text).decode()
    except ValueError:
        raise Untestable("The user name or password of SmtpUri is not percent-encoded UTF-8.") from None
    if any(letter < " " or letter == "\x7f" for letter in plain):
        raise Untestable("The user name or password of SmtpUri contains control characters.")
    return plain


def with_stored_password(target: Target, settings: Iterable[Setting]) -> Target:
    """The same server as it stands in an owner's settings, with the password from there; raises Untestable.

    The test is of what mail would meet: how the certificate is checked, how to log in and the like are taken from the settings too.
    TLS is asked for as the URI says, unless both say that it begins with STARTTLS or not at all.
    """
    host, user = target.host.lower(), target.username
    stored = [choice.target for setting in settings for choice in setting.choices]
    found = [one for one in stored if one.password and one.host.lower() == host and user in ("", one.username)]
    if not found:
        raise Untestable("No password is stored for this server and user name; store the account first, or give its password in SmtpUri.")
    if len({one.username for one in found}) > 1:
        raise Untestable("Passwords of several users are stored for this server; give the user name in SmtpUri.")
    best = min(found, key=lambda one: (one.port != target.port, (one.security == "tls") != (target.security == "tls")))
    is_alike = (best.security == "tls") == (target.security == "tls")
    return replace(best, port=target.port, security=best.security if is_alike else target.security, is_guarded=True)
