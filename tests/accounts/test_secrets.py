"""The key, its file, and what is generated and hashed."""

from __future__ import annotations

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from relay.accounts.secrets import (
    Key,
    KeyUnusable,
    SlowHash,
    fingerprint,
    is_generated_password,
    new_owner_id,
    new_password,
    new_token,
    new_user_name,
    open_key,
)
from relay.accounts.user import is_generated_name


def test_the_key_file_is_made_once_and_for_its_owner_alone(place: Path) -> None:
    path = place / "deep" / "accounts.key"
    first = open_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(path.read_bytes()) == 32
    assert fingerprint(open_key(path)) == fingerprint(first)
    assert [found.name for found in path.parent.iterdir()] == ["accounts.key"]


def test_processes_that_start_together_find_one_key(place: Path) -> None:
    path = place / "accounts.key"
    with ThreadPoolExecutor(16) as pool:
        checks = set(pool.map(lambda _: fingerprint(open_key(path)), range(64)))
    assert len(checks) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_key_file_that_others_can_read_is_refused_in_one_line(place: Path, mode: int) -> None:
    path = place / "accounts.key"
    open_key(path)
    path.chmod(mode)
    with pytest.raises(KeyUnusable, match=re.escape(str(path))) as caught:
        open_key(path)
    assert "\n" not in str(caught.value)


def test_a_credential_that_systemd_let_its_service_read_is_accepted(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = place / "accounts.key"
    made = open_key(path)
    path.chmod(0o440)  # as fstat shows a file that an access control list opens
    with pytest.raises(KeyUnusable):
        open_key(path)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(place))
    assert fingerprint(open_key(path)) == fingerprint(made)
    for mode in (0o444, 0o460):
        path.chmod(mode)
        with pytest.raises(KeyUnusable, match="lets others"):
            open_key(path)


def test_who_may_not_make_the_key_leaves_nothing_behind(place: Path) -> None:
    with pytest.raises(KeyUnusable, match="not found; is --config right, has the relay been started"):
        open_key(place / "data" / "secret.key", may_create=False)
    assert list(place.iterdir()) == []


def test_the_folder_of_a_new_key_is_its_owners_alone(place: Path) -> None:
    open_key(place / "data" / "secret.key")
    assert (place / "data").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_key_file_of_another_size_is_refused(place: Path, size: int) -> None:
    path = place / "accounts.key"
    path.write_bytes(bytes(size))
    path.chmod(0o600)
    with pytest.raises(KeyUnusable, match="32 octets"):
        open_key(path)


def test_a_key_file_that_cannot_be_made_is_refused(place: Path) -> None:
    (place / "file").write_text("")
    with pytest.raises(KeyUnusable):
        open_key(place / "file" / "accounts.key")


def test_hashes_and_seals_belong_to_one_name_and_one_key() -> None:
    key, other = Key(bytes(32)), Key(bytes(31) + b"\1")
    assert key.hash_password("a", "secret") != key.hash_password("b", "secret")
    assert key.hash_password("a", "secret") != key.hash_token("a", "secret")
    assert key.hash_password("a", "secret") != other.hash_password("a", "secret")
    sealed = key.seal("a", "secret")
    assert sealed != key.seal("a", "secret")
    assert key.unseal("a", sealed) == "secret"
    assert key.unseal("b", sealed) is None
    assert other.unseal("a", sealed) is None
    assert key.unseal("a", b"") is None
    assert fingerprint(key) != fingerprint(other)


def test_a_sealed_generated_password_fits_a_small_value() -> None:
    assert len(Key(bytes(32)).seal("smtp123456789", new_password())) <= 64


def test_what_is_generated_has_its_form_and_is_never_the_same() -> None:
    made = [(new_password(), new_token(), new_owner_id(), new_user_name()) for _ in range(200)]
    for password, token, owner_id, name in made:
        assert is_generated_password(password)
        assert re.fullmatch(r"[A-Za-z0-9]{24}", token)
        assert re.fullmatch(r"[1-9][0-9]{7}", owner_id)
        assert is_generated_name(name)
    assert len({password for password, *_ in made}) == len({token for _, token, *_ in made}) == 200
    assert 62**22 > 2**128


async def test_a_slow_hash_matches_its_password_alone() -> None:
    slow = SlowHash()
    stored = await slow.make("correct horse")
    assert len(stored) <= 64
    assert stored != await slow.make("correct horse")
    right, wrong = await asyncio.gather(slow.matches("correct horse", stored), slow.matches("battery", stored))
    assert right and not wrong
    assert not await slow.matches("", SlowHash.NOBODY)
