"""A real Exim on loopback, in a folder of its own and without rights: as a smarthost that keeps mail for example.net, and as a client."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.interop.client import HELO, Mail, Way
from tests.interop.upstream import DOMAIN, HOSTNAME, PASSWORD, USER, Upstream, issue
from tests.running import User, free_port
from tests.surroundings import missing


def _find() -> Path:
    """Debian's package excludes Postfix's, so it may lie unpacked in a folder that EXIM_PEER names, as .ci/exim leaves it."""
    folder = os.environ.get("EXIM_PEER", "")
    names = (Path(folder, "exim"), Path(folder, "usr/sbin/exim4")) if folder else ()
    places = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"))
    found = [path for path in names if path.is_file()]
    found += [Path(path) for name in ("exim4", "exim") if (path := shutil.which(name, path=places))]
    if not found:
        missing("Exim is not installed, and EXIM_PEER names no folder that has it (.ci/exim makes one)")
    return found[0]


@dataclass(frozen=True, slots=True)
class _Instance:
    """A configuration with its spool and logs, and the user it runs as."""

    program: Path
    home: Path
    user: str

    @property
    def log(self) -> Path:
        """The main log."""
        return self.home / "log" / "main"

    def command(self, *words: str | Path) -> list[str | Path]:
        """How the program is called."""
        return [self.program, "-C", self.home / "exim.conf", *words]

    def start(self, *words: str | Path, **options: Any) -> subprocess.Popen[bytes]:
        """Call it, as its user."""
        if os.getuid() == 0:
            options |= {"user": self.user, "group": pwd.getpwnam(self.user).pw_gid, "extra_groups": []}
        return subprocess.Popen(self.command(*words), cwd=self.home, **options)

    def run(self, *words: str | Path, given: bytes = b"") -> bytes:
        """Call it and wait for what it says."""
        process = self.start(*words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        said, _ = process.communicate(given, timeout=60)
        return said

    def said(self) -> str:
        """Its log."""
        return self.log.read_text() if self.log.exists() else ""

    def waiting(self) -> list[Path]:
        """The messages in its queue."""
        return [*(self.home / "spool" / "input").rglob("*-H")]


def _furnish(home: Path, settings: str) -> _Instance:
    """Lay out an instance in `home`."""
    program = _find()
    user = pwd.getpwnam("nobody") if os.getuid() == 0 else pwd.getpwuid(os.getuid())
    home.mkdir()
    home.parent.chmod(0o755)
    for folder in (home, *(home / name for name in ("spool", "log", "mail"))):
        folder.mkdir(exist_ok=True)
        os.chown(folder, user.pw_uid, user.pw_gid)
    usual = (
        f"exim_path = {program}\nspool_directory = {home / 'spool'}\nlog_file_path = {home / 'log'}/%s\nexim_user = {user.pw_name}\n"
        f"exim_group = {user.pw_gid}\nnever_users =\ndeliver_drop_privilege = true\nkeep_environment =\nhost_lookup =\nrfc1413_hosts =\n"
        "message_size_limit = 50M\nsmtp_accept_max = 0\nsmtputf8_advertise_hosts = *\ndsn_advertise_hosts = *\nacl_smtp_data = accept\n"
        "acl_not_smtp = accept\nbounce_return_message = false\n"
    )
    (home / "exim.conf").write_text(usual + settings)
    return _Instance(program, home, user.pw_name)


# -- as a smarthost ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Exim:
    """A running smarthost."""

    port: int
    instance: _Instance

    @property
    def log(self) -> Path:
        """What it says of its messages."""
        return self.instance.log

    def deliveries(self) -> list[bytes]:
        """The messages that it has delivered (lines end in LF)."""
        return [file.read_bytes() for file in (self.instance.home / "mail").glob("**/new/*")]

    def taken(self) -> int:
        """How many messages it ever took in, whatever became of them."""
        return self.instance.said().count(" <= ")

    def told(self) -> str:
        """Its log."""
        return self.instance.said()

    def served(self, log: str) -> set[str]:
        """The recipients that it has delivered to, as a part of its log says."""
        return set(re.findall(r" [-=]> .*<(.*)> R=", log))

    def waiting(self) -> list[Path]:
        """The files of its queue."""
        return self.instance.waiting()


@contextlib.contextmanager
def running_exim(home: Path, port: int = 0) -> Iterator[Exim]:
    """Start a smarthost in `home`; `port` 0 takes a free one."""
    port = port or free_port()
    with _running(home, port, f"daemon_smtp_ports = {port}\ntls_advertise_hosts =\n") as instance:
        yield Exim(port, instance)


@contextlib.contextmanager
def running_exim_upstream(home: Path) -> Iterator[Upstream]:
    """Start a smarthost in `home` that takes mail after TLS and AUTH only."""
    starttls, implicit = free_port(), free_port()
    pair = issue(home.with_name("certificate"))
    if os.getuid() == 0:
        shutil.chown(pair.key, "nobody")
    settings = (
        f"daemon_smtp_ports = {starttls} : {implicit}\ntls_on_connect_ports = {implicit}\ntls_advertise_hosts = *\n"
        f"tls_certificate = {pair.certificate}\ntls_privatekey = {pair.key}\n"
        "auth_advertise_hosts = ${if eq{$tls_in_cipher}{}{}{*}}\n"
    )
    check = f"${{if and{{{{eq{{$auth%d}}{{{USER}}}}}{{eq{{$auth%d}}{{{PASSWORD}}}}}}}}}"
    authenticators = (
        f"plain:\n  driver = plaintext\n  public_name = PLAIN\n  server_prompts = :\n  server_condition = {check % (2, 3)}\n"
        "login:\n  driver = plaintext\n  public_name = LOGIN\n  server_prompts = Username:: : Password::\n"
        f"  server_condition = {check % (1, 2)}\n"
    )
    with _running(home, implicit, settings, "  deny !authenticated = *\n", authenticators) as instance:
        running = Exim(starttls, instance)
        yield Upstream({"starttls": starttls, "tls": implicit}, pair.authority, running.deliveries, running.told)


@contextlib.contextmanager
def _running(home: Path, port: int, settings: str, conditions: str = "", authenticators: str = "") -> Iterator[_Instance]:
    """Start a smarthost in `home` that listens on a port."""
    instance = _furnish(
        home,
        f"primary_hostname = {HOSTNAME}\nlocal_interfaces = 127.0.0.1\n{settings}"
        "acl_smtp_rcpt = rcpt\nsmtp_accept_max_per_connection = 0\nsmtp_accept_queue_per_connection = 0\npid_file_path =\n"
        "chunking_advertise_hosts = *\nrecipients_max = 0\n"
        f"begin acl\nrcpt:\n{conditions}  accept domains = {DOMAIN}\n  deny\n"
        "begin routers\nall:\n  driver = accept\n  transport = box\n"
        f"begin transports\nbox:\n  driver = appendfile\n  directory = {home}/mail/box\n  maildir_format\n  create_directory\n"
        f"begin authenticators\n{authenticators}",
    )
    daemon = instance.start("-bdf", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _await_port(port, daemon, instance)
        yield instance
    finally:
        daemon.terminate()
        daemon.wait()


def _await_port(port: int, daemon: subprocess.Popen[bytes], instance: _Instance) -> None:
    end = time.monotonic() + 10
    while time.monotonic() < end and daemon.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise AssertionError(f"Exim did not start:\n{instance.said()}\n{instance.run('-bV').decode()}")


# -- as a client ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EximClient:
    """A client whose smarthost is the relay; it has no daemon, and sends while it is called."""

    instance: _Instance

    def send(self, mail: Mail, *, body: str = " BODY=8BITMIME", mail_options: str = "", rcpt_options: str = "") -> str:
        """Give it a message by SMTP over a pipe, and wait until it has sent it or put it off; its id."""
        wire = b"." + mail.content if mail.content.startswith(b".") else mail.content
        options = body + (" SMTPUTF8" if mail.is_international else "") + mail_options
        said = self.instance.run("-odf", "-bs", given=b"".join((
            f"EHLO {HELO}\r\nMAIL FROM:<{mail.sender}>{options}\r\n".encode(),
            *(f"RCPT TO:<{recipient}>{rcpt_options}\r\n".encode() for recipient in mail.recipients),
            b"DATA\r\n", wire.replace(b"\r\n.", b"\r\n.."), b".\r\nQUIT\r\n",
        ))).decode()  # fmt: skip
        [id] = [line.split("id=")[1] for line in said.splitlines() if line.startswith("250 OK id=")] or [""]
        assert id, said
        return id

    def lines(self, id: str) -> list[str]:
        """What its log has on a message, from the second word on."""
        found = (line.split(" ", 3) for line in self.instance.said().splitlines())
        return [words[3] for words in found if len(words) == 4 and words[2] == id]

    def deferrals(self, id: str) -> list[str]:
        """Why it put a message off, for each recipient."""
        return [line for line in self.lines(id) if line.startswith("== ")]

    def retry(self) -> None:
        """Try everything again at once."""
        self.instance.run("-qff")


def exim_client(home: Path, way: Way, user: User, chunking: bool = True) -> EximClient:
    """Lay out a client in `home` that sends that way, as that user, over verified TLS."""
    options = {
        "driver": "smtp", "port": way.port, "allow_localhost": "true", "protocol": "smtps" if way.is_implicit else "smtp",
        "hosts_require_tls": "*", "hosts_require_auth": "*", "tls_verify_certificates": home / "authority.crt", "tls_verify_hosts": "*",
        "tls_verify_cert_hostnames": "*", "hosts_try_chunking": "*" if chunking else "", "hosts_try_fastopen": "", "helo_data": HELO,
    }  # fmt: skip
    transport = "".join(f"  {key} = {value}\n" for key, value in options.items())
    secret = f"^{user.name}^{user.password}" if way.mechanism == "PLAIN" else f": {user.name} : {user.password}"
    instance = _furnish(
        home,
        # What it puts before the message is left out, so that the octets can be compared with those it was given.
        f"primary_hostname = {HELO}\nreceived_header_text =\nacl_smtp_rcpt = accept\nlog_selector = +smtp_confirmation\n"
        "begin routers\nrelay:\n  driver = manualroute\n  route_list = * localhost byname\n  self = send\n  transport = relay\n"
        f"begin transports\nrelay:\n{transport}begin retry\n* * F,1h,1h\n"
        f"begin authenticators\nonly:\n  driver = plaintext\n  public_name = {way.mechanism}\n  client_send = {secret}\n",
    )
    shutil.copyfile(way.authority, home / "authority.crt")  # from where only the tests' own user may read it
    return EximClient(instance)
