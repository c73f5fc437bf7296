"""Why no session could be had: for the sender of a message, in a verdict, and for whoever set the smarthost up, in words to act on. Pure.

Promises: neither has a secret in it, nor an address that a name led to; a verdict has no name of a host either. The relay's own faults
(TLS, login, configuration) are told apart from a smarthost that is not there.
"""

from __future__ import annotations

import base64
import socket
import ssl
from dataclasses import replace
from typing import Literal

import aiosmtplib

from relay.mail.reply import Reply, from_upstream, sanitise
from relay.mail.verdict import Deferred
from relay.upstream.guard import Forbidden
from relay.upstream.route import Target

Stage = Literal["dns", "guard", "connect", "greeting", "tls", "login", "sender", "recipient", "content", "time", "done"]
"""How far a session, or a trial of one, came; "time" is where the time for all of it ran out."""

_CODES: dict[Stage, str] = {"dns": "EDNS", "tls": "ETLS", "login": "EAUTH"}
"""Nodemailer's words for kinds of failure (lib/errors.js), by stage; ECONNECTION is the rest, ETIMEDOUT wherever it was the time."""

_WAITED_FOR: dict[Stage, str] = {
    "dns": "its name was not resolved in time", "connect": "it did not answer in time: check host and port, and firewalls on the way",
    "greeting": "it was connected, and did not greet in time",
    "tls": "the TLS handshake did not end in time", "login": "it did not answer the login in time",
    "sender": "it did not answer the sender's address in time", "recipient": "it did not answer the recipient's address in time",
    "content": "it did not answer the message in time",
}  # fmt: skip

_SAY_SO = ": if it expects TLS from the first byte, as on port 465, say so"

_REASONS = {
    9: "its certificate is not valid yet", 10: "its certificate has expired", 23: "its certificate was revoked",
    18: "its certificate is self-signed, by an unknown authority", 19: "its certificate is by an unknown authority",
    2: "its certificate is by an unknown authority", 20: "its certificate is by an unknown authority",
    21: "its certificate is by an unknown authority", 62: "its certificate is for another name", 64: "its certificate is for another name",
}  # fmt: skip
"""Of X.509 verification, by OpenSSL's number (x509_vfy.h)."""


class NoSession(Exception):
    """No session could be had; the verdict says why."""

    def __init__(self, verdict: Deferred, stage: Stage = "connect", text: str = "", code: str = "", reply: str = "") -> None:
        super().__init__(str(verdict.reply))
        self.verdict = replace(verdict, unreached=True)
        self.stage: Stage = stage
        """How far it came."""
        self.text = text or verdict.reply.text
        """For whoever set the smarthost up; names the host as they did."""
        self.code = code
        """Nodemailer's: EDNS, ECONNECTION, ETLS, EAUTH, ETIMEDOUT; "" where nobody tried."""
        self.reply = reply
        """What the smarthost said, "" for nothing."""


def of_error(error: BaseException, stage: Stage, target: Target) -> NoSession:
    """What an exception says that ended the opening of a session at a stage."""
    if isinstance(error, Forbidden):
        return NoSession(_ours("3.5", "its host or port is not allowed"), "guard", str(error), "ECONNECTION")
    # asyncio says of a handshake that took too long that it was aborted.
    if isinstance(error, TimeoutError) or isinstance(error.__cause__, ConnectionAbortedError):
        return late(stage, target, type(error).__name__)
    if (broken := _tls_error(error)) is not None:
        return _of_tls(broken, target)
    if isinstance(error, aiosmtplib.SMTPResponseException):
        return _of_reply(error, stage, target)
    if isinstance(error, ValueError):
        text = "its name, or ours for it, is none that can be sent"
        return NoSession(_ours("3.5", "a name that cannot be sent"), stage, f"{at(target)}: {text}", "ECONNECTION")
    return NoSession(_unreached(type(error).__name__), stage, f"{at(target)}: {_of_connection(error, stage, target)}", _code(stage))


def late(stage: Stage, target: Target, name: str = "TimeoutError") -> NoSession:
    """What is said where the time ran out at a stage."""
    hint = _SAY_SO if stage == "greeting" and target.security != "tls" else ""
    return NoSession(_unreached(name), stage, f"{at(target)}: {_WAITED_FOR[stage]}{hint}", "ETIMEDOUT")


def unoffered_tls(target: Target) -> NoSession:
    """STARTTLS is asked for, and not offered."""
    text = "it does not offer STARTTLS: use a port where it does, as 587, or TLS from the first byte on port 465"
    return NoSession(_ours("7.5", "STARTTLS is required and not offered"), "tls", f"{at(target)}: {text}", "ETLS")


def login_in_clear(target: Target) -> NoSession:
    """A login, and no TLS to carry it."""
    text = "the login would travel in clear, as it offers no TLS: use a port or a smarthost that offers it"
    return NoSession(_ours("7.5", "the login would travel in clear; no TLS is offered"), "login", f"{at(target)}: {text}", "EAUTH")


def unoffered_login(target: Target, is_secure: bool) -> NoSession:
    """No mechanism in common."""
    wanted = f"AUTH {target.mechanism.upper()} is not" if target.mechanism else "neither AUTH PLAIN nor LOGIN is"
    hint = "" if is_secure else "; it may ask for TLS first"
    return NoSession(_ours("3.5", f"{wanted} offered"), "login", f"{at(target)}: it takes no login here: {wanted} offered{hint}", "EAUTH")


def unsendable_login(target: Target) -> NoSession:
    """A user name or a password with a NUL."""
    text = "the user name or the password has a character that no login can carry"
    return NoSession(_ours("3.5", "credentials that cannot be sent"), "login", f"{at(target)}: {text}", "EAUTH")


def heard(code: int, text: str, target: Target) -> str:
    """A smarthost's reply for people: in one printable line, and only its code where it repeats what was to be kept from others."""
    reply = from_upstream(code, text)
    whole = str(reply) if text.startswith(reply.status) else f"{reply.code} {reply.text}"  # its own words, no status it did not give
    user, password = target.username.encode("utf-8", "replace"), target.password.encode("utf-8", "replace")
    secrets = [password, base64.b64encode(password), base64.b64encode(b"\0" + user + b"\0" + password)]
    return str(code) if password and any(secret.decode("utf-8", "replace") in text for secret in secrets) else whole


def _of_reply(error: aiosmtplib.SMTPResponseException, stage: Stage, target: Target) -> NoSession:
    if error.code < 200:  # aiosmtplib's own number: no reply at all
        text = "what answers there is no mail server"
        return NoSession(_unreached(type(error).__name__), stage, f"{at(target)}: {text}", _code(stage))
    reply = heard(error.code, error.message, target)
    if isinstance(error, aiosmtplib.SMTPAuthenticationError):
        verdict = _ours("3.5", f"login refused: {error.code}")
        text = "it refuses the user name or the password"
        if error.code < 500:
            text = "it cannot check the login for now"
        elif error.code in (504, 534, 538):  # RFC 4954 section 6
            text = "it wants another way to log in, or TLS first"
    else:
        verdict = _unreached(type(error).__name__)
        text = "it cannot do TLS for now" if stage == "tls" else "it turns us away"
    return NoSession(verdict, stage, f"{at(target)}: {text} ({reply})", _code(stage), reply)


def _of_tls(error: ssl.SSLError, target: Target) -> NoSession:
    verdict = _ours("7.5", f"TLS failed: {error.reason or 'broken off'}")
    reason = error.reason or ""
    if isinstance(error, ssl.SSLCertVerificationError):
        text = _REASONS.get(error.verify_code, f"its certificate is not accepted: {error.verify_message}")
        if error.verify_code in (62, 64):
            text += f" than {sanitise(target.server_name or target.host)}"
    elif reason in ("WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "HTTP_REQUEST") and target.security == "tls":
        text = "it does not speak TLS from the first byte there: use port 465, or STARTTLS as on port 587"
    elif "CERTIFICATE_REQUIRED" in reason or "BAD_CERTIFICATE" in reason or "UNKNOWN_CA" in reason:
        text = "it asks for a certificate of ours, and does not accept what it got"
    elif reason in ("UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION"):
        text = "it does not speak TLS 1.2 or later"
    else:
        text = f"the TLS handshake failed ({reason or 'broken off'})"
    return NoSession(verdict, "tls", f"{at(target)}: {text}", "ETLS")


def _of_connection(error: BaseException, stage: Stage, target: Target) -> str:
    """What went wrong where it was neither a reply nor TLS."""
    if isinstance(error, socket.gaierror):
        missing = error.errno in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))
        if missing and target.is_guarded:
            return "there is no host of that name that the relay may connect to: check its spelling"
        return "there is no host of that name: check its spelling" if missing else "its name could not be resolved for now"
    if stage == "connect":
        return "it refuses the connection: check the port" if isinstance(error, ConnectionRefusedError) else "there is no way to it"
    if stage == "tls":
        return "it broke off the TLS handshake"
    if stage == "greeting" and target.security != "tls":
        return f"it closed the connection without a greeting{_SAY_SO}"
    return "it closed the connection"


def _tls_error(error: BaseException | None) -> ssl.SSLError | None:
    """The failure of TLS behind an exception: aiosmtplib wraps those of a handshake in its own."""
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return error
        error = error.__cause__
    return None


def _code(stage: Stage) -> str:
    return _CODES.get(stage, "ECONNECTION")


def at(target: Target) -> str:
    """A smarthost as it was named, in one line."""
    return sanitise(str(target), 300)


def _unreached(name: str) -> Deferred:
    return Deferred(Reply(451, "4.1", f"Upstream not reachable ({name})"))


def _ours(detail: str, text: str) -> Deferred:
    return Deferred(Reply(451, detail, f"Relay misconfigured: {text}"), ours=True)
