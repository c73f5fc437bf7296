"""A real OpenSMTPD on loopback, as a smarthost that keeps mail for example.net.

It knows its places by heart (/var/spool/smtpd, /usr/libexec/opensmtpd, its users): it runs in a mount namespace of its own, where folders
of the test lie over them. Outside of that nothing is changed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.interop.upstream import DOMAIN, HOSTNAME, PASSWORD, USER, Upstream, issue
from tests.peer import need
from tests.running import free_port
from tests.surroundings import missing

_USERS = {"opensmtpd": 64991, "opensmtpq": 64992}

# What is mounted there goes with the namespace. /var/lib holds the empty folder that it locks itself into.
_STAGE = """
set -e
for place in /usr/libexec /var/spool /var/lib /run; do mount -t tmpfs -o mode=755 none $place; done
mkdir -p /usr/libexec/opensmtpd /var/lib/opensmtpd/empty
mkdir -m 711 /var/spool/smtpd
mount --bind "$1/usr/libexec/opensmtpd" /usr/libexec/opensmtpd
for file in passwd group; do mount --bind "$2/$file" /etc/$file; done
echo mx.example.net > /run/mailname
exec env LD_LIBRARY_PATH="$1/libraries" "$1/usr/sbin/smtpd" -d -v -f "$2/smtpd.conf"
"""


def _find() -> Path:
    folder = Path(os.environ.get("OPENSMTPD_PEER", ""))
    if not (folder / "usr/sbin/smtpd").is_file():
        missing("OPENSMTPD_PEER names no folder that has OpenSMTPD (.ci/opensmtpd makes one)")
    if os.geteuid() != 0:
        missing("OpenSMTPD wants to be started by root")
    return folder


def _hash(password: str) -> str:
    """As crypt(3) has it."""
    said = subprocess.run([need("openssl"), "passwd", "-6", "-stdin"], input=password, capture_output=True, text=True, check=True)
    return said.stdout.strip()


def _furnish(home: Path, starttls: int, implicit: int) -> Path:
    """Write its configuration; who issued its certificate is returned."""
    home.mkdir()
    home.parent.chmod(0o755)
    mail = home / "mail"
    mail.mkdir()
    shutil.chown(mail, "nobody")
    pair = issue(home)
    for name, rest in {"passwd": ":/var/lib/opensmtpd/empty:/bin/false", "group": ""}.items():
        lines = (f"{user}:x:{number}:{f'{number}:' if rest else ''}{rest}\n" for user, number in _USERS.items())
        (home / name).write_text(Path("/etc", name).read_text() + "".join(lines))
    listen = f"pki {HOSTNAME} auth <users> hostname {HOSTNAME}"
    (home / "smtpd.conf").write_text(
        f'pki {HOSTNAME} cert "{pair.certificate}"\npki {HOSTNAME} key "{pair.key}"\n'
        f'table users {{ "{USER}" = "{_hash(PASSWORD)}" }}\ntable everybody {{ "@" = "nobody" }}\n'
        f"listen on 127.0.0.1 port {starttls} tls-require {listen}\nlisten on 127.0.0.1 port {implicit} smtps {listen}\n"
        f'action "keep" maildir "{mail}/box" virtual <everybody>\nmatch auth from any for domain "{DOMAIN}" action "keep"\n'
    )
    return pair.authority


@contextlib.contextmanager
def running_opensmtpd(home: Path) -> Iterator[Upstream]:
    """Start one in `home`."""
    program, unshare = _find(), need("unshare")
    starttls, implicit = free_port(), free_port()
    authority = _furnish(home, starttls, implicit)
    log = home / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [unshare, "--mount", "--propagation", "private", "sh", "-c", _STAGE, "sh", program, home],
            stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
        )  # fmt: skip
    try:
        _await_port(implicit, process, log)
        yield Upstream(
            {"starttls": starttls, "tls": implicit}, authority,
            lambda: [file.read_bytes() for file in (home / "mail").glob("**/new/*")], log.read_text,
        )  # fmt: skip
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)


def _await_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 15
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    said = log.read_text()
    if "mount" in said and "denied" in said:
        missing(f"OpenSMTPD runs where it may mount folders over others, which is not allowed here: {said.strip()}")
    raise AssertionError(f"OpenSMTPD did not start:\n{said}")
