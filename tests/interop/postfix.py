"""A real Postfix on loopback, in a folder of its own: as a smarthost that keeps mail for example.net in maildirs, and as a client."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.interop.client import HELO, Mail, Way
from tests.interop.sasl import running_sasl
from tests.interop.upstream import DOMAIN, HOSTNAME, PASSWORD, USER, Upstream, issue
from tests.peer import need
from tests.running import User, free_port
from tests.surroundings import missing

_SASL = ("usr/lib/*/sasl2/libplain.so", "usr/lib*/sasl2/libplain.so")
_QUEUES = ("maildrop", "incoming", "active", "deferred", "hold", "corrupt")


@dataclass(frozen=True, slots=True)
class Postfix:
    """A running smarthost."""

    port: int
    maildir: Path
    log: Path
    queue: Path

    def deliveries(self) -> list[bytes]:
        """The messages that it has delivered (lines end in LF)."""
        return [file.read_bytes() for file in self.maildir.glob("**/new/*")]

    def taken(self) -> int:
        """How many messages it ever took in, whatever became of them."""
        return len(re.findall(r"postfix/cleanup\[\d+\]: \w+: message-id=", self.log.read_text()))

    def told(self) -> str:
        """Its log."""
        return self.log.read_text()

    def served(self, log: str) -> set[str]:
        """The recipients that it has delivered to, as a part of its log says."""
        return set(re.findall(r"postfix/virtual\[\d+\]: \w+: to=<(.*)>, (?:orig_to|relay)=", log))

    def waiting(self) -> list[Path]:
        """The files of its queue."""
        return [file for name in _QUEUES for file in (self.queue / name).rglob("*") if file.is_file()]

    def await_message(self, mark: bytes, timeout: float = 20) -> bytes:
        """The message that contains `mark`, as delivered (lines end in LF)."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            for content in self.deliveries():
                if mark in content:
                    return content
            time.sleep(0.05)
        raise AssertionError(f"not delivered: {mark!r}\n{self.log.read_text()[-2000:]}")


@contextlib.contextmanager
def running_postfix(home: Path, port: int = 0) -> Iterator[Postfix]:
    """Start a smarthost in `home`; `port` 0 takes a free one."""
    mail = home / "mail"
    port = port or free_port()
    settings = {**_keeping(mail), "smtpd_tls_security_level": "none", "smtpd_relay_restrictions": "permit_mynetworks,reject"}
    with _running(home, settings, f"127.0.0.1:{port} inet n - n - - smtpd"):
        yield Postfix(port, mail, home / "mail.log", home / "queue")


@contextlib.contextmanager
def running_postfix_upstream(home: Path) -> Iterator[Upstream]:
    """Start a smarthost in `home` that takes mail after TLS and AUTH only."""
    starttls, implicit = free_port(), free_port()
    mail, pair = home / "mail", issue(home.with_name("certificate"))
    with running_sasl(USER, PASSWORD) as port:
        settings = {
            **_keeping(mail), "smtpd_tls_security_level": "encrypt", "smtpd_tls_cert_file": pair.certificate,
            "smtpd_tls_key_file": pair.key, "smtpd_tls_auth_only": "yes", "smtpd_sasl_auth_enable": "yes", "smtpd_sasl_type": "dovecot",
            "smtpd_sasl_path": f"inet:127.0.0.1:{port}", "smtpd_client_restrictions": "permit_sasl_authenticated,reject",
            "smtpd_relay_restrictions": "reject_unauth_destination",
        }  # fmt: skip
        listeners = f"127.0.0.1:{starttls} inet n - n - - smtpd\n127.0.0.1:{implicit} inet n - n - - smtpd\n  -o smtpd_tls_wrappermode=yes"
        with _running(home, settings, listeners):
            running = Postfix(starttls, mail, home / "mail.log", home / "queue")
            yield Upstream({"starttls": starttls, "tls": implicit}, pair.authority, running.deliveries, running.told)


def _keeping(mail: Path) -> dict[str, object]:
    """The settings of one that keeps what it takes, in a maildir."""
    return {
        "myhostname": HOSTNAME, "mynetworks": "127.0.0.0/8", "virtual_mailbox_domains": DOMAIN, "virtual_mailbox_base": mail,
        "virtual_mailbox_maps": "static:box/", "virtual_uid_maps": "static:65534", "virtual_gid_maps": "static:65534",
        "virtual_minimum_uid": "1", "virtual_mailbox_limit": "0", "smtpd_recipient_restrictions": "",
        "smtpd_client_connection_count_limit": "0", "smtpd_client_connection_rate_limit": "0", "smtputf8_enable": "yes",
        # Nothing leaves this machine; and it is as easy to fool as any Postfix ever was.
        "default_transport": "error:not from here", "smtpd_forbid_bare_newline": "no",
    }  # fmt: skip


@contextlib.contextmanager
def _running(home: Path, settings: Mapping[str, object], listener: str) -> Iterator[Path]:
    """Start an instance in `home`, with its own configuration, queue and log; the folder of the configuration."""
    for program in ("postfix", "postconf"):
        need(program)
    if os.getuid() != 0:
        need("root privileges to start Postfix")
    home.mkdir()
    home.chmod(0o755)
    home.parent.chmod(0o755)
    conf, queue, data, mail = (home / name for name in ("conf", "queue", "data", "mail"))
    shutil.copytree("/etc/postfix", conf)
    for folder in (queue, data, mail):
        folder.mkdir()
    shutil.chown(data, "postfix")
    shutil.chown(mail, 65534)
    _configure(conf, {
        "queue_directory": queue, "data_directory": data, "inet_interfaces": "127.0.0.1", "inet_protocols": "ipv4", "mydestination": "",
        "maillog_file": home / "mail.log", "maillog_file_prefixes": "/", "multi_instance_enable": "no", "message_size_limit": "52428800",
        **settings,
    })  # fmt: skip
    master = conf / "master.cf"
    services = re.sub(r"(?m)^\S+\s+inet\s.*smtpd$", listener, master.read_text(), count=1)
    # Nobody has furnished a jail in a new folder.
    master.write_text(re.sub(r"(?m)^((?:[^\s#]+[ \t]+){4})y(?=\s)", r"\1n", services))
    subprocess.run(["postfix", "-c", conf, "start"], check=True, capture_output=True)
    try:
        yield conf
    finally:
        subprocess.run(["postfix", "-c", conf, "stop"], capture_output=True, check=False)


def _configure(conf: Path, settings: Mapping[str, object]) -> None:
    subprocess.run(["postconf", "-c", conf, "-e", *(f"{key}={value}" for key, value in settings.items())], check=True)


@dataclass(frozen=True, slots=True)
class PostfixClient:
    """A running client, whose smarthost is the relay."""

    conf: Path
    log: Path

    def use(self, way: Way, user: User) -> None:
        """Send what comes from now on that way, as that user."""
        hop, passwords = f"[localhost]:{way.port}", self.conf / "passwords"
        passwords.write_text(f"{hop} {user.name}:{user.password}\n")
        passwords.chmod(0o600)
        _configure(self.conf, {
            "relayhost": hop, "smtp_sasl_password_maps": f"texthash:{passwords}", "smtp_sasl_mechanism_filter": way.mechanism.lower(),
            "smtp_tls_wrappermode": "yes" if way.is_implicit else "no", "smtp_tls_CAfile": way.authority,
        })  # fmt: skip
        self._do("postfix", "reload")

    def send(self, mail: Mail, *options: str) -> None:
        """Put a message into its queue, with these options of sendmail."""
        sendmail = need("sendmail")
        words: list[str | Path] = [sendmail, "-C", self.conf, "-i", "-f", mail.sender, *options, "--", *mail.recipients]
        subprocess.run(words, input=mail.content.replace(b"\r\n", b"\n"), check=True)

    def queue(self) -> list[dict[str, Any]]:
        """What is in its queue, as postqueue -j tells it."""
        return [json.loads(line) for line in self._do("postqueue", "-j").splitlines()]

    def flush(self) -> None:
        """Try everything again at once."""
        self._do("postqueue", "-f")

    def reasons(self) -> list[str]:
        """Why what was tried and is still in the queue is there, for each recipient."""
        waiting = [entry for entry in self.queue() if entry["queue_name"] == "deferred"]
        return [one["delay_reason"] for entry in waiting for one in entry["recipients"]]

    def _do(self, program: str, *words: str) -> str:
        done = subprocess.run([need(program), "-c", self.conf, *words], check=True, capture_output=True, text=True)
        return done.stdout


@contextlib.contextmanager
def running_postfix_client(home: Path, **settings: object) -> Iterator[PostfixClient]:
    """Start a client in `home` that asks for TLS with a verified certificate, and for AUTH."""
    if not any(folder for place in _SASL for folder in Path("/").glob(place)):
        missing("Cyrus SASL's PLAIN and LOGIN are not installed (Debian: libsasl2-modules)")
    own = home / "own_fields"
    usual = {
        "myhostname": HELO, "myorigin": HELO, "smtp_host_lookup": "native", "smtp_tls_security_level": "secure",
        "smtp_tls_secure_cert_match": "nexthop", "smtp_sasl_auth_enable": "yes", "smtp_sasl_security_options": "noanonymous",
        "smtputf8_enable": "yes", "header_checks": f"regexp:{own}", "bounce_queue_lifetime": "0",
    }  # fmt: skip
    with _running(home, {**usual, **settings}, "# takes nothing by SMTP"):
        # What it puts before the message is left out, so that the octets can be compared with those it was given.
        own.write_text(f"/^Received: by {re.escape(HELO)} / IGNORE\n")
        yield PostfixClient(home / "conf", home / "mail.log")
