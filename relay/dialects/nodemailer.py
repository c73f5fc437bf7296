"""nodemailer's words: the `options` of its SMTP transport (version 1.4, with its pool), and the smarthost that they mean.

Promises: what is read is what nodemailer would do with it, except that what it would do in silence and to nobody's good is refused
with a sentence: a word where a yes or no belongs, a way to log in that the relay does not have. Every cap and time-out ends within
bounds that the relay can live with. What is written is read back as the same smarthost. No fault repeats a value that may be secret.

Ignored: debug, logger, localAddress, proxy, tls.minVersion and the like; TLS is 1.2 or later whatever they say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from relay.upstream.route import Security, Target

Fields = Mapping[str, Any]

MAX_CONNECTIONS, MAX_MESSAGES = 5, 100
"""The pool's own defaults."""
CONNECTIONS, MESSAGES = (1, 1000), (1, 100_000)
RATES = (0.01, 1_000_000.0)
"""Messages a second."""
TIMES = (1.0, 300.0)
"""Seconds; nodemailer counts milliseconds."""
MAX_NAME = 253
SERVER = r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*|[0-9A-Fa-f]{0,4}(:[0-9A-Fa-f]{0,4}){2,7}(\.[0-9]{1,3}){0,3}"
"""What a certificate can be for: a host's name, or an address without brackets."""
NAME = r"[A-Za-z0-9_.-]{1,253}|\[[A-Za-z0-9:.]{1,64}\]"
"""What the relay can call itself in EHLO."""

_WHOLE = re.compile(r"[0-9]{1,9}", re.ASCII)
_SERVER, _NAME = re.compile(SERVER, re.ASCII), re.compile(NAME, re.ASCII)
_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----[^-]*-----END [A-Z ]*PRIVATE KEY-----(?:\r?\n)?")
_NO_MARK = re.compile(r"[^a-z0-9.-]")

_TLS, _STARTTLS, _LATER = (465, True), (587, False), (2525, False)
SERVICES: Mapping[str, tuple[str, tuple[int, bool]]] = {
    "brevo": ("smtp-relay.brevo.com", _STARTTLS),
    "fastmail": ("smtp.fastmail.com", _TLS),
    "gmail": ("smtp.gmail.com", _TLS),
    "googlemail": ("smtp.gmail.com", _TLS),
    "hotmail": ("smtp-mail.outlook.com", _STARTTLS),
    "icloud": ("smtp.mail.me.com", _STARTTLS),
    "mailgun": ("smtp.mailgun.org", _TLS),
    "mailjet": ("in-v3.mailjet.com", _STARTTLS),
    "mandrill": ("smtp.mandrillapp.com", _STARTTLS),
    "outlook": ("smtp-mail.outlook.com", _STARTTLS),
    "outlook365": ("smtp.office365.com", _STARTTLS),
    "postmark": ("smtp.postmarkapp.com", _LATER),
    "postmarkapp": ("smtp.postmarkapp.com", _LATER),
    "sendgrid": ("smtp.sendgrid.net", _STARTTLS),
    "ses": ("email-smtp.us-east-1.amazonaws.com", _TLS),
    "ses-eu-west-1": ("email-smtp.eu-west-1.amazonaws.com", _TLS),
    "ses-us-east-1": ("email-smtp.us-east-1.amazonaws.com", _TLS),
    "ses-us-west-2": ("email-smtp.us-west-2.amazonaws.com", _TLS),
    "sparkpost": ("smtp.sparkpostmail.com", _STARTTLS),
    "yahoo": ("smtp.mail.yahoo.com", _TLS),
    "yandex": ("smtp.yandex.ru", _TLS),
    "zoho": ("smtp.zoho.com", _TLS),
}
"""Services that have a name of their own: their host, their port, and whether TLS begins with the first octet."""


class Unusable(Exception):
    """No smarthost can be made of these options; the text is for who wrote them, the code is nodemailer's."""

    def __init__(self, text: str, code: str = "ECONNECTION") -> None:
        super().__init__(text)
        self.code = code


# -- reading -----------------------------------------------------------------------------------------------------------------


def read_options(options: object) -> Target:
    """The smarthost that options mean, to be guarded; raises Unusable."""
    given = _complete({"url": options} if isinstance(options, str) else options)
    tls = _object(given, "tls")
    username, password = _login(_object(given, "auth"))
    host = _text(given, "host") or "localhost"
    if len(host) > MAX_NAME or not host.isprintable() or " " in host:
        raise Unusable("options.host is no host name")
    server_name = _text(tls, "servername", "tls.")
    if server_name and (len(server_name) > MAX_NAME or not _SERVER.fullmatch(server_name)):
        raise Unusable("options.tls.servername is no host name")
    name = _text(given, "name")
    if name and not _NAME.fullmatch(name):
        raise Unusable("options.name is no name for EHLO")
    security = _security(given)
    return Target(
        host=host, port=_port(given, security), security=security, verify=tls.get("rejectUnauthorized") is not False, ca=_pem(tls, "ca"),
        identity=_identity(tls), server_name=server_name, username=username, password=password, mechanism=_mechanism(given), name=name,
        timeout=_seconds(given, "socketTimeout"), connect_timeout=_seconds(given, "connectionTimeout"),
        greeting_timeout=_seconds(given, "greetingTimeout"),
        max_connections=int(_number(given, "maxConnections", MAX_CONNECTIONS, CONNECTIONS)),
        max_messages=int(_number(given, "maxMessages", MAX_MESSAGES, MESSAGES)), max_rate=_rate(given), is_guarded=True,
    )  # fmt: skip


def _complete(options: object) -> Fields:
    """Options with what their `service` and then their `url` add; what they say themselves wins."""
    if not isinstance(options, dict):
        raise Unusable("options is no object")
    service = _text(options, "service")
    known = SERVICES.get(_NO_MARK.sub("", service.lower()))
    given: dict[str, Any] = {}
    if known is not None:
        host, (port, is_secure) = known
        given = {"host": host, "port": port, "secure": is_secure}
    elif service and not (options.get("host") or options.get("url")):
        raise Unusable("options.service is not among those that are known by name: give host and port")
    if is_given(options.get("url")):
        given = {**_read_url(options["url"]), **given}
    return {**given, **options}


def _read_url(url: object) -> dict[str, Any]:
    """What `smtps://user:password@host:port/?option=value` stands for; an option of TLS is written tls.option."""
    try:
        if not isinstance(url, str):
            raise ValueError
        parts = urlsplit(url)
        scheme, host, port, user, password = parts.scheme, parts.hostname, parts.port, parts.username, parts.password
        asked = parse_qsl(parts.query, max_num_fields=50)
    except ValueError:
        raise Unusable("options.url cannot be read") from None
    if scheme not in ("smtp", "smtps") or not host:
        raise Unusable("options.url is neither smtp://host:port nor smtps://host:port")
    found: dict[str, Any] = {"host": host, "secure": scheme == "smtps"}
    if port is not None:
        found["port"] = port
    if user is not None:
        found["auth"] = {"user": unquote(user), "pass": unquote(password or "")}
    for key, value in asked:
        place = found.setdefault("tls", {}) if key.startswith("tls.") else found
        if not isinstance(place, dict):
            raise Unusable("options.url has tls for an option: write tls.name=value for each option of TLS")
        place.setdefault(key.removeprefix("tls."), {"true": True, "false": False}.get(value, value))
    return found


def _security(given: Fields) -> Security:
    if given.get("port") in (465, "465") if given.get("secure") is None else _flag(given, "secure"):
        return "tls"
    if _flag(given, "ignoreTLS"):
        return "none"
    return "starttls" if _flag(given, "requireTLS") else "opportunistic"


def _port(given: Fields, security: Security) -> int:
    port = _number(given, "port", 465 if security == "tls" else 25, (-1, 1 << 30))
    if not 1 <= port <= 65535 or port != int(port):
        raise Unusable("options.port is no port")
    return int(port)


def _login(auth: Fields) -> tuple[str, str]:
    kind = str(auth.get("type") or "login").lower()
    if kind != "login" or any(is_given(auth.get(key)) for key in ("xoauth2", "oauth2", "accessToken", "refreshToken")):
        raise Unusable("options.auth asks for another login than by user and pass, which the relay does not have", "EAUTH")
    user, password = (_text(auth, key, "auth.", is_number=True) for key in ("user", "pass"))
    if bool(user) != bool(password):
        raise Unusable("options.auth needs both user and pass", "EAUTH")
    if "\0" in user + password:
        raise Unusable("options.auth has a NUL in it", "EAUTH")
    return user, password


def _mechanism(given: Fields) -> Literal["", "plain", "login"]:
    match _text(given, "authMethod").lower():
        case "":
            return ""
        case "plain":
            return "plain"
        case "login":
            return "login"
    raise Unusable("options.authMethod is neither PLAIN nor LOGIN, and the relay has no other", "EAUTH")


def _identity(tls: Fields) -> str:
    if any(is_given(tls.get(key)) for key in ("pfx", "passphrase")):
        raise Unusable("options.tls has a pfx or a passphrase: give cert and key as PEM, without a passphrase", "ETLS")
    key, certificate = _pem(tls, "key"), _pem(tls, "cert")
    if bool(key) != bool(certificate):
        raise Unusable("options.tls needs both cert and key", "ETLS")
    return key + certificate


def _pem(tls: Fields, key: str) -> str:
    """PEM text that is one string or a list of them; every part ends with its line."""
    value = tls.get(key)
    parts: list[Any] = value if isinstance(value, list) else [value] if is_given(value) else []
    if not all(isinstance(part, str) and "-----BEGIN " in part and part.isascii() for part in parts):
        raise Unusable(f"options.tls.{key} is no PEM text", "ETLS")
    return "".join(map(end_line, parts))


def end_line(part: str) -> str:
    """PEM text that ends with its line, so that another may follow."""
    return part + "\n" if part and not part.endswith("\n") else part


def split_identity(pem: str) -> tuple[str, str]:
    """The certificates, and the key, of a PEM text that has both in whatever order."""
    return end_line(_KEY.sub("", pem)), end_line("".join(_KEY.findall(pem)))


def _rate(given: Fields) -> float:
    limit = _number(given, "rateLimit", 0.0, (0.0, 1e9))
    delta = _number(given, "rateDelta", 1000.0, (1.0, 1e9))
    return _within(limit / (delta / 1000.0), RATES) if limit else 0.0


def _seconds(given: Fields, key: str) -> float:
    return _within(round(_number(given, key, 15_000.0, (0.0, 1e12))) / 1000.0, TIMES)


# -- values as JavaScript has them -------------------------------------------------------------------------------------------


def is_given(value: object) -> bool:
    """Whether JavaScript takes a value of JSON for true: null, false, 0 and "" are not, {} and [] are."""
    return not (value is None or value is False or value == "" or (isinstance(value, int | float) and value == 0))


def _object(given: Fields, key: str) -> Fields:
    value = given.get(key)
    if not is_given(value):
        return {}
    if not isinstance(value, dict):
        raise Unusable(f"options.{key} is no object")
    return value


def _text(given: Fields, key: str, place: str = "", *, is_number: bool = False) -> str:
    value = given.get(key)
    if not is_given(value):
        return ""
    if is_number and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise Unusable(f"options.{place}{key} is no text")
    return value


def _flag(given: Fields, key: str) -> bool:
    # JavaScript takes the string "false" for true, which nobody means who writes it.
    match given.get(key):
        case None | False | 0 | "":
            return False
        case True | 1:
            return True
    raise Unusable(f"options.{key} is neither true nor false")


def _number(given: Fields, key: str, default: float, bounds: tuple[float, float]) -> float:
    value = given.get(key)
    if not is_given(value):
        return default
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Unusable(f"options.{key} is no number")
    return _within(value, bounds)


def _within(value: float, bounds: tuple[float, float]) -> float:
    return min(max(value, bounds[0]), bounds[1])


# -- writing -----------------------------------------------------------------------------------------------------------------


def write_options(target: Target) -> dict[str, Any]:
    """The options that mean a smarthost, its secrets included; what is as it is anyway is left out."""
    options: dict[str, Any] = {"host": target.host, "port": target.port, "secure": target.security == "tls"}
    if target.security == "none":
        options["ignoreTLS"] = True
    if target.security == "starttls":
        options["requireTLS"] = True
    options["tls"] = _write_tls(target)
    if target.username:
        options["auth"] = {"user": target.username, "pass": target.password}
    if target.mechanism:
        options["authMethod"] = target.mechanism.upper()
    if target.name:
        options["name"] = target.name
    waits = {
        "connectionTimeout": target.connect_timeout,
        "greetingTimeout": target.greeting_timeout,
        "socketTimeout": target.timeout,
    }
    options |= {key: round(seconds * 1000) for key, seconds in waits.items() if seconds != 15.0}
    if target.max_connections != MAX_CONNECTIONS:
        options["maxConnections"] = target.max_connections
    if target.max_messages != MAX_MESSAGES:
        options["maxMessages"] = target.max_messages
    if target.max_rate:
        options["rateLimit"] = target.max_rate
    return options


def _write_tls(target: Target) -> dict[str, Any]:
    tls: dict[str, Any] = {"rejectUnauthorized": target.verify}
    if target.server_name:
        tls["servername"] = target.server_name
    if target.ca:
        tls["ca"] = target.ca
    if target.identity:
        tls["cert"], tls["key"] = split_identity(target.identity)
    return tls
