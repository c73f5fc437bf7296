"""What an owner has set is read exactly, from memory where nothing has changed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from relay.accounts import directory as directory_module
from relay.accounts import record
from relay.accounts.arranging import Arranging
from relay.accounts.directory import Directory, Unreadable
from relay.accounts.provisioning import Provisioning
from relay.accounts.secrets import Key
from relay.accounts.setting import Outfit, Policy, Signer
from relay.accounts.signing import new_key
from relay.journal import Journal
from relay.store.client import Argument, Store, StoreForeign, StoreUnavailable
from relay.upstream.route import Choice, Target

A = (Choice(Target("a.example", 587, password="hidden")),)
B = (Choice(Target("b.example", 465, "tls"), 1, 2), Choice(Target("c.example", 25), 2))


class Counted:
    """The same store; how many commands went to it, and the first of each is told."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.commands: list[Argument] = []
        self.questions: list[asyncio.Future[object]] = []
        self.before: Callable[[], Awaitable[None]] | None = None

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def share(self, *command: Argument) -> asyncio.Future[object]:
        self.commands.append(command[0])
        self.questions.append(self._store.share(*command))
        return self.questions[-1]

    async def run(self, *call: object) -> object:
        self.commands.append("run")
        if self.before is not None:
            await self.before()
        return await self._store.run(*call)  # type: ignore[arg-type]


@pytest.fixture
def counted(store: Store) -> Counted:
    return Counted(store)


@pytest.fixture
def directory(counted: Counted, key: Key) -> Directory:
    return Directory(counted, key)  # type: ignore[arg-type]


async def test_who_has_set_nothing_has_an_empty_outfit_and_costs_one_question(
    directory: Directory, counted: Counted, owner_id: str
) -> None:
    assert directory.known(owner_id) is None
    for _ in range(3):
        assert await directory.outfit(owner_id) == Outfit()
    assert counted.commands == [b"HMGET"] * 3
    assert directory.known(owner_id) == Outfit()


async def test_an_outfit_is_read_once_and_again_only_when_it_has_changed(
    directory: Directory, counted: Counted, arranging: Arranging, owner_id: str
) -> None:
    await arranging.put_setting(owner_id, "one.example", A)
    first = await directory.outfit(owner_id)
    assert await directory.outfit(owner_id) is first is directory.known(owner_id)
    assert counted.commands == [b"HMGET", "run", b"HMGET"]
    assert first.settings["one.example"].choices[0].target == Target("a.example", 587, password="hidden", is_guarded=True)
    await arranging.put_setting(owner_id, "", B)
    await arranging.set_policy(owner_id, Policy("domains", ("x.example",), True))
    await arranging.set_signer(owner_id, Signer("one.example", "s1", new_key("ed25519")))
    second = await directory.outfit(owner_id)
    assert second.version > first.version
    assert second.settings["one.example"] is first.settings["one.example"], "what has not changed is not opened again"
    assert [choice.target.host for choice in second.settings[""].choices] == ["b.example", "c.example"]
    assert second.policy == Policy("domains", ("x.example",), True)
    assert second.signers["one.example"].selector == "s1"


async def test_what_this_process_has_changed_itself_is_known_no_more(store: Store, key: Key, journal: Journal, owner_id: str) -> None:
    directory = Directory(store, key)
    arranging = Arranging(store, key, directory, journal)
    await arranging.put_setting(owner_id, "", A)
    assert await directory.outfit(owner_id) is directory.known(owner_id) is not None
    await arranging.remove_setting(owner_id, "")
    assert directory.known(owner_id) is None
    assert (await directory.outfit(owner_id)).settings == {}


async def test_what_a_later_version_wrote_beyond_this_ones_words_is_unreadable(
    arranging: Arranging, owner_id: str, store: Store, key: Key
) -> None:
    put = await arranging.put_setting(owner_id, "", A)
    assert put is not None
    place = f"{{o:{owner_id}}}:settings"
    written = json.loads(record.unseal_setting(key, owner_id, "", await store.command("HGET", place, "")))
    choice = written["choices"][0]
    for change in (
        {"more": 1},
        {"choices": [choice | {"more": 1}]},
        {"choices": [choice | {"target": choice["target"] | {"more": 1}}]},
        {"choices": [choice | {"target": choice["target"] | {"ca_file": "/etc/passwd", "is_guarded": False}}]},
        {"choices": [None]},
        {"choices": 5},
    ):
        sealed = record.seal_setting(key, owner_id, put[0], json.dumps(written | change).encode())
        await store.command("HSET", place, "", sealed)
        with pytest.raises(Unreadable):
            await Directory(store, key).outfit(owner_id)
    await store.command("HSET", place, "", record.seal_setting(key, owner_id, put[0], json.dumps(written).encode()))
    assert (await Directory(store, key).outfit(owner_id)).setting_of("") == put[0]


async def test_a_look_is_asked_at_once_and_answers_what_was_set_before_it(
    directory: Directory, arranging: Arranging, owner_id: str
) -> None:
    for number in range(50):
        domain = f"d{number}.example"
        await arranging.put_setting(owner_id, domain, A)
        look = directory.look(owner_id)
        removal = asyncio.ensure_future(arranging.remove_setting(owner_id, domain))
        assert domain in (await look.outfit()).settings or (await removal)
        await removal
        assert domain not in (await directory.outfit(owner_id)).settings


async def test_nobody_who_looks_finds_less_than_what_was_answered_before(
    arranging: Arranging, owner_id: str, store: Store, key: Key, place: Path
) -> None:
    answered = 0

    async def write() -> None:
        nonlocal answered
        for number in range(1, 301):
            await arranging.put_setting(owner_id, "", [Choice(Target("a.example", number))])
            answered = number

    async def read(directory: Directory) -> int:
        looks = 0
        while answered < 300:
            least = answered
            look = directory.look(owner_id)
            if looks % 3 == 0:
                await asyncio.sleep(0.0005)
            outfit = await look.outfit()
            assert not least or outfit.settings[""].choices[0].target.port >= least
            looks += 1
        return looks

    elsewhere = Store(f"unix://{place / 'data' / 'store.sock'}")
    directories = [Directory(store, key), Directory(elsewhere, key)]
    reading = asyncio.gather(*(read(directory) for directory in directories for _ in range(4)))
    await write()
    assert min(await reading) > 20
    await elsewhere.close()


async def test_those_who_ask_at_once_share_one_reading(directory: Directory, counted: Counted, arranging: Arranging, owner_id: str) -> None:
    await arranging.put_setting(owner_id, "", A)
    counted.commands.clear()
    found = await asyncio.gather(*(directory.outfit(owner_id) for _ in range(20)))
    assert counted.commands.count("run") == 1
    assert all(outfit is found[0] for outfit in found)


async def test_a_reading_that_began_before_a_look_is_not_enough_for_it(
    directory: Directory, counted: Counted, arranging: Arranging, owner_id: str, key: Key, store: Store
) -> None:
    await arranging.put_setting(owner_id, "", A)
    gate = asyncio.Event()
    answers: list[object] = []

    async def hold() -> None:
        # What this reading will answer is fixed now; it arrives late.
        answers.append(await Directory(store, key).outfit(owner_id))
        await gate.wait()

    class Late(Counted):
        async def run(self, *call: object) -> object:
            found = await self._store.run(*call)  # type: ignore[arg-type]
            if not answers:
                await hold()
            return found

    late = Late(store)
    slow = Directory(late, key)  # type: ignore[arg-type]
    early = asyncio.ensure_future(slow.outfit(owner_id))
    while not answers:
        await asyncio.sleep(0.001)
    await arranging.put_setting(owner_id, "new.example", B)
    after = asyncio.ensure_future(slow.outfit(owner_id))
    await asyncio.sleep(0.01)
    gate.set()
    assert "new.example" not in (await early).settings
    assert "new.example" in (await after).settings


async def test_an_unknown_owner_has_nothing_and_a_flushed_store_is_not_believed(
    directory: Directory, arranging: Arranging, owner_id: str, store: Store
) -> None:
    for nobody in ("12345678", "", "}:x", "\udc80"):
        assert await directory.outfit(nobody) == Outfit()
    await arranging.put_setting(owner_id, "", A)
    assert (await directory.outfit(owner_id)).settings
    await store.command("DEL", f"{{o:{owner_id}}}")
    assert await directory.outfit(owner_id) == Outfit()
    await store.command("FLUSHALL")
    with pytest.raises(StoreForeign):
        await directory.outfit(owner_id)


async def test_a_backup_that_is_put_back_and_changed_as_often_is_told_apart(
    directory: Directory, arranging: Arranging, owner_id: str, store: Store
) -> None:
    await arranging.put_setting(owner_id, "", A)
    keys = (f"{{o:{owner_id}}}", f"{{o:{owner_id}}}:settings")
    backup = [await store.command("DUMP", key) for key in keys]
    await arranging.put_setting(owner_id, "", B)
    assert len((await directory.outfit(owner_id)).settings[""].choices) == 2
    for key, dump in zip(keys, backup, strict=True):
        await store.command("RESTORE", key, 0, dump, "REPLACE")
    await arranging.put_setting(owner_id, "x.example", A)
    assert list((await directory.outfit(owner_id)).settings) == ["", "x.example"]
    for key, dump in zip(keys, backup, strict=True):
        await store.command("RESTORE", key, 0, dump, "REPLACE")
    assert list((await directory.outfit(owner_id)).settings) == [""], "an older version is another one too"


async def test_without_the_store_nothing_is_answered_from_memory(
    directory: Directory, arranging: Arranging, owner_id: str, counted: Counted, store: Store
) -> None:
    await arranging.put_setting(owner_id, "", A)
    known = await directory.outfit(owner_id)
    await store.close()

    async def gone(*_: object) -> object:
        raise StoreUnavailable("gone")

    class Gone(Counted):
        def share(self, *command: Argument) -> asyncio.Future[object]:
            return asyncio.ensure_future(gone())

    directory._store = Gone(store)  # type: ignore[assignment]
    with pytest.raises(StoreUnavailable):
        await directory.outfit(owner_id)
    assert directory.known(owner_id) is known


@pytest.mark.parametrize("part", ["settings", "signers", "policy"])
async def test_what_is_damaged_or_under_another_key_is_unreadable_until_it_is_replaced(
    arranging: Arranging, owner_id: str, store: Store, key: Key, part: str
) -> None:
    await arranging.put_setting(owner_id, "a.example", A)
    await arranging.set_policy(owner_id, Policy())
    signer = Signer("a.example", "s", new_key("ed25519"))
    await arranging.set_signer(owner_id, signer)
    elsewhere = Directory(store, Key(bytes(32)))
    for _ in range(2):
        with pytest.raises(Unreadable, match=r"the setting of 'a\.example' cannot be read: a record was sealed under another key"):
            await elsewhere.outfit(owner_id)
    assert elsewhere.known(owner_id) is None
    place, field = f"{{o:{owner_id}}}:{part}", "" if part == "policy" else "a.example"
    sealed = await store.command("HGET", place, field)
    for bad in (sealed[:-1] + bytes([sealed[-1] ^ 1]), b"", b"x", sealed[:20], b"\xff" * 60):
        await store.command("HSET", place, field, bad)
        named = {"settings": r"the setting of 'a\.example'", "signers": r"the signer of 'a\.example'", "policy": "the policy"}[part]
        again = Directory(store, key)
        for _ in range(2):
            with pytest.raises(Unreadable, match=rf"^{named} cannot be read: .+"):
                await again.outfit(owner_id)
    await arranging.put_setting(owner_id, "a.example", A)
    await arranging.set_policy(owner_id, Policy())
    await arranging.set_signer(owner_id, signer)
    assert (await Directory(store, key).outfit(owner_id)).settings.keys() == {"a.example"}


@pytest.mark.parametrize(
    ("part", "field", "named"),
    [("settings", b"", "the default setting"), ("signers", b"\xff\n", r"the signer of '\\xff\n'"), ("", b"out", "the version")],
)
async def test_whatever_is_unreadable_is_named_in_one_line(
    arranging: Arranging, owner_id: str, store: Store, key: Key, part: str, field: bytes, named: str
) -> None:
    await arranging.set_policy(owner_id, Policy())
    await store.command("HSET", f"{{o:{owner_id}}}{part and ':'}{part}", field, b"x")
    with pytest.raises(Unreadable) as caught:
        await Directory(store, key).outfit(owner_id)
    assert str(caught.value).startswith(f"{named} cannot be read: ") and "\n" not in str(caught.value)


async def test_a_record_that_was_moved_to_another_owner_domain_or_id_does_not_open(
    arranging: Arranging, provisioning: Provisioning, owner_id: str, store: Store, key: Key
) -> None:
    other = (await provisioning.add_owner("Other"))[0].owner_id
    for owner, choices in ((owner_id, A), (other, B)):
        await arranging.put_setting(owner, "a.example", choices)
        await arranging.put_setting(owner, "", choices)
        for domain in ("a.example", "b.example"):
            await arranging.set_signer(owner, Signer(domain, "s", new_key("ed25519")))
        await arranging.set_policy(owner, Policy())

    async def moved(source: str, field: str, target: str, to: str, *, own_id: bool = False) -> None:
        sealed = await store.command("HGET", source, field)
        before = await store.command("HGET", target, to)
        await store.command("HSET", target, to, before[:24] + sealed[24:] if own_id else sealed)
        with pytest.raises(Unreadable):
            await Directory(store, key).outfit(owner_id)
        await store.command("HSET", target, to, before)
        assert (await Directory(store, key).outfit(owner_id)).settings["a.example"].choices[0].target.host == "a.example"

    mine, theirs = f"{{o:{owner_id}}}", f"{{o:{other}}}"
    for own_id in (False, True):
        await moved(f"{theirs}:settings", "a.example", f"{mine}:settings", "a.example", own_id=own_id)
        await moved(f"{mine}:settings", "", f"{mine}:settings", "a.example", own_id=own_id)
    await moved(f"{theirs}:signers", "a.example", f"{mine}:signers", "a.example")
    await moved(f"{mine}:signers", "b.example", f"{mine}:signers", "a.example")
    await moved(f"{theirs}:policy", "", f"{mine}:policy", "")


async def test_who_was_not_asked_for_longest_is_forgotten(
    directory: Directory, provisioning: Provisioning, arranging: Arranging, owner_id: str, counted: Counted
) -> None:
    large = {"text": "x" * 60_000}
    others = [(await provisioning.add_owner(f"Owner {number}"))[0].owner_id for number in range(3)]
    await arranging.put_setting(owner_id, "", A, large)
    await directory.outfit(owner_id)
    assert 60_000 < directory._weight < 61_000
    await arranging.put_setting(owner_id, "", A)
    await directory.outfit(owner_id)
    assert directory._weight < 1_000
    for other in others:
        await arranging.put_setting(other, "", A)
        await directory.outfit(other)
    directory._weight = directory_module.REMEMBERED_OCTETS  # as if they were large
    await arranging.put_setting(others[2], "", B)
    await directory.outfit(others[2])
    assert directory.known(owner_id) is None and directory.known(others[2]) is not None
    assert (await directory.outfit(owner_id)).settings


async def test_looks_of_one_moment_cost_one_question_and_who_gives_up_disturbs_no_other(
    directory: Directory, counted: Counted, arranging: Arranging, owner_id: str
) -> None:
    await arranging.put_setting(owner_id, "", A)
    known = await directory.outfit(owner_id)
    looks = [asyncio.create_task(directory.look(owner_id).outfit()) for _ in range(10)]
    await asyncio.sleep(0)
    assert len(counted.questions) == 11 and len(set(counted.questions[1:])) == 1
    looks[3].cancel()
    found = await asyncio.gather(*looks, return_exceptions=True)
    assert isinstance(found[3], asyncio.CancelledError) and all(outfit is known for outfit in found[:3] + found[4:])
