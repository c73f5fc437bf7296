"""Certificates of the tests: files that are renewed, and clients that trust them."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import trustme


def write_pair(authority: trustme.CA, folder: Path, name: str = "localhost", **options: Any) -> tuple[Path, Path]:
    """A new certificate and its key in files of a folder; those of before are replaced, one after the other, as renewals do."""
    leaf = authority.issue_cert(name, **options)
    files = folder / "certificate.pem", folder / "key.pem"
    for file, text in zip(files, (leaf.cert_chain_pems[0].bytes(), leaf.private_key_pem.bytes()), strict=True):
        (fresh := file.with_suffix(".new")).write_bytes(text)
        fresh.rename(file)
    return files


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """A client's context that trusts an authority."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context
