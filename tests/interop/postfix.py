"""A real Postfix on loopback: takes mail for example.net and keeps it in maildirs."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.peer import need
from tests.running import free_port


@dataclass(frozen=True, slots=True)
class Postfix:
    """A running instance."""

    port: int
    maildir: Path
    log: Path

    def await_message(self, mark: bytes, timeout: float = 20) -> bytes:
        """The message that contains `mark`, as delivered (lines end in LF)."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            for file in self.maildir.glob("**/new/*"):
                content = file.read_bytes()
                if mark in content:
                    return content
            time.sleep(0.05)
        raise AssertionError(f"not delivered: {mark!r}\n{self.log.read_text()[-2000:]}")


@contextlib.contextmanager
def running_postfix(home: Path) -> Iterator[Postfix]:
    """Start an instance in `home`, with its own configuration, queue and log."""
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
    port, log = free_port(), home / "mail.log"
    settings = {
        "queue_directory": queue, "data_directory": data, "inet_interfaces": "127.0.0.1", "inet_protocols": "ipv4",
        "myhostname": "mx.example.net", "mydestination": "", "mynetworks": "127.0.0.0/8", "maillog_file": log,
        "maillog_file_prefixes": "/", "multi_instance_enable": "no", "virtual_mailbox_domains": "example.net",
        "virtual_mailbox_base": mail, "virtual_mailbox_maps": "static:box/", "virtual_uid_maps": "static:65534",
        "virtual_gid_maps": "static:65534", "virtual_minimum_uid": "1", "smtpd_tls_security_level": "none",
        "message_size_limit": "52428800", "virtual_mailbox_limit": "0", "smtpd_recipient_restrictions": "",
        "smtpd_relay_restrictions": "permit_mynetworks,reject", "smtpd_client_connection_count_limit": "0",
    }  # fmt: skip
    for key, value in settings.items():
        subprocess.run(["postconf", "-c", conf, "-e", f"{key}={value}"], check=True)
    master = conf / "master.cf"
    master.write_text(re.sub(r"(?m)^\S+\s+inet\s.*smtpd$", f"127.0.0.1:{port} inet n - n - - smtpd", master.read_text(), count=1))
    subprocess.run(["postfix", "-c", conf, "start"], check=True, capture_output=True)
    try:
        yield Postfix(port, mail, log)
    finally:
        subprocess.run(["postfix", "-c", conf, "stop"], capture_output=True, check=False)
