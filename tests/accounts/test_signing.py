"""Keys that sign mail: those that can are read however they are written, those that cannot are refused; the record is what DNS shows."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
    load_pem_private_key,
)

from relay.accounts.arranging import Arranging
from relay.accounts.directory import Directory
from relay.accounts.provisioning import BadValue
from relay.accounts.secrets import Key
from relay.accounts.setting import Signer
from relay.accounts.signing import dns_record, is_selector, new_key, read_key
from relay.store.client import Store


def test_a_new_key_of_each_kind_is_pkcs8_and_its_record_has_its_public_half() -> None:
    for kind, expected in (("rsa", rsa.RSAPrivateKey), ("ed25519", ed25519.Ed25519PrivateKey)):
        pem = new_key(kind)  # type: ignore[arg-type]
        assert pem.startswith("-----BEGIN PRIVATE KEY-----\n")
        key = load_pem_private_key(pem.encode(), None)
        assert isinstance(key, expected)
        assert read_key(pem) == pem
        tags = dict(tag.split("=", 1) for tag in dns_record(Signer("a.example", "s", pem)).split("; "))
        assert (tags["v"], tags["k"]) == ("DKIM1", kind)
        octets = base64.b64decode(tags["p"], validate=True)
        raw = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        assert octets == raw if kind == "rsa" else raw.endswith(octets) and len(octets) == 32
        assert kind == "ed25519" or load_der_public_key(octets)


def test_an_rsa_key_in_its_older_form_is_read_too() -> None:
    key = rsa.generate_private_key(65537, 1024)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()
    assert pem.startswith("-----BEGIN RSA PRIVATE KEY-----")
    found = read_key(pem)
    assert found is not None and found.startswith("-----BEGIN PRIVATE KEY-----")


def unfit() -> dict[str, str]:
    """Texts that are no key for signing."""
    curve = ec.generate_private_key(ec.SECP256R1())
    own = ed25519.Ed25519PrivateKey.generate()
    return {
        "nothing": "",
        "text": "hunter2",
        "half": new_key("ed25519")[:60],
        "beyond ASCII": "\u00fc",
        "no text": "\udc80",
        "long": "x" * 20_000,
        "another kind": curve.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
        "sealed": own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"hunter2")).decode(),
        "public": own.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
    }


@pytest.mark.parametrize("what", unfit())
async def test_what_is_no_such_key_is_refused_without_being_shown(arranging: Arranging, owner_id: str, what: str, log: Path) -> None:
    pem = unfit()[what]
    assert read_key(pem) is None
    with pytest.raises(ValueError, match="not a key"):
        dns_record(Signer("a.example", "s", pem))
    with pytest.raises(BadValue, match="the key is no private key") as caught:
        await arranging.set_signer(owner_id, Signer("a.example", "s", pem))
    assert "hunter2" not in str(caught.value) and "\n" not in str(caught.value)


async def test_a_signer_is_kept_and_taken_away(arranging: Arranging, owner_id: str, store: Store, key: Key, log: Path) -> None:
    pem = new_key("ed25519")
    await arranging.set_signer(owner_id, Signer("A.Example", "S1.Mail", pem))
    directory = Directory(store, key)
    assert (await directory.outfit(owner_id)).signer_for("a.example") == Signer("a.example", "s1.mail", pem)
    assert await arranging.remove_signer(owner_id, "A.example")
    assert not await arranging.remove_signer(owner_id, "a.example")
    assert (await directory.outfit(owner_id)).signers == {}
    told = [line for line in map(json.loads, log.read_text().splitlines()) if line["event"].startswith("signer_")]
    assert [(line["event"], line["domain"]) for line in told] == [("signer_set", "a.example"), ("signer_removed", "a.example")]
    assert told[0]["selector"] == "s1.mail"


@pytest.mark.parametrize("selector", ["", ".", "a.", "-a", "a_b", "a b", "a;b", "ü", "x" * 64, "a." * 60 + "a", "a\n"])
async def test_what_is_no_selector_is_refused(arranging: Arranging, owner_id: str, selector: str) -> None:
    assert not is_selector(selector)
    with pytest.raises(BadValue, match="a selector"):
        await arranging.set_signer(owner_id, Signer("a.example", selector, new_key("ed25519")))
