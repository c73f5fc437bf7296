"""relay upstream, at the shell."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trustme

from relay.loadkit.script import Script
from relay.loadkit.sink import Sink
from relay.store.client import Store
from tests.shell import Shell

HOST = ("--host", "mail.example", "--port", "587", "--user", "me")


def allow(config: Path, port: int) -> None:
    """Let owners have smarthosts on a port."""
    config.write_text(config.read_text() + f"allow_ports = [{port}]\n")


async def test_an_upstream_is_set_listed_shown_and_deleted(relay: Shell, owner_id: str, place: Path) -> None:
    made = await relay("upstream", "set", owner_id, "B.example", *HOST, "--password-stdin", "--json", said="s3cret word\n")
    assert (made.json["domain"], made.json["smarthosts"][0]["has_password"]) == ("b.example", True)
    assert (await relay("upstream", "list", owner_id, "--json")).json == [made.json]
    assert (await relay("upstream", "show", owner_id, "b.example", "--json")).json == made.json
    table = await relay("upstream", "list", owner_id)
    assert "b.example" in table.out and "mail.example:587" in table.out
    assert "mail.example" in (await relay("upstream", "show", owner_id, "b.example")).out
    assert (await relay("upstream", "delete", owner_id, "b.example")).status == 0
    assert (await relay("upstream", "list", owner_id, "--json")).json == []
    assert "s3cret" not in (place / "journal").read_text()


async def test_a_password_is_shown_when_it_is_asked_for_alone(relay: Shell, owner_id: str, place: Path) -> None:
    (file := place / "password").write_text("s3cret word\r\nanother line\n")
    made = await relay("upstream", "set", owner_id, "b.example", *HOST, "--password-file", file)
    for arguments in (("show", owner_id, "b.example"), ("show", owner_id, "b.example", "--json"), ("list", owner_id, "--json")):
        assert "s3cret" not in (await relay("upstream", *arguments)).out + made.out
    assert "s3cret word" in (await relay("upstream", "show", owner_id, "b.example", "--show-password")).out
    shown = (await relay("upstream", "show", owner_id, "b.example", "--show-password", "--json")).json
    assert shown["smarthosts"][0]["password"] == "s3cret word"


async def test_what_is_not_given_again_stays_and_smarthosts_are_added(relay: Shell, owner_id: str) -> None:
    await relay("upstream", "set", owner_id, "_default", *HOST, "--password-stdin", said="s3cret\n")
    await relay("upstream", "set", owner_id, "_default", *HOST, "--weight", "3")
    added = await relay("upstream", "set", owner_id, "_default", "--host", "other.example", "--priority", "10", "--add", "--json")
    assert [(one["host"], one["weight"], one["priority"]) for one in added.json["smarthosts"]] == [
        ("mail.example", 3, 0),
        ("other.example", 1, 10),
    ]
    shown = (await relay("upstream", "show", owner_id, "_default", "--show-password", "--json")).json
    assert [one["password"] for one in shown["smarthosts"]] == ["s3cret", None]


async def test_several_smarthosts_come_as_json(relay: Shell, owner_id: str) -> None:
    smarthosts = [{"host": "a.example", "username": "me", "password": "s3cret"}, {"host": "b.example", "security": "tls"}]
    for said in (json.dumps({"smarthosts": smarthosts}), json.dumps(smarthosts)):
        made = (await relay("upstream", "set", owner_id, "b.example", "--json-in", "--json", said=said)).json
        assert [(one["host"], one["port"]) for one in made["smarthosts"]] == [("a.example", 25), ("b.example", 465)]
    again = await relay("upstream", "set", owner_id, "b.example", "--json-in", "--json", said=json.dumps(made["smarthosts"]))
    assert again.json == made


async def test_authorities_and_a_certificate_are_copied_from_files(
    relay: Shell, owner_id: str, place: Path, authority: trustme.CA, ca_file: Path
) -> None:
    authority.issue_cert("client.example").private_key_and_cert_chain_pem.write_to_path(place / "identity.pem")
    files = ("--ca-file", ca_file, "--identity-file", place / "identity.pem")
    made = await relay("upstream", "set", owner_id, "b.example", "--host", "mail.example", *files, "--json")
    assert made.json["smarthosts"][0]["has_identity"] and made.json["smarthosts"][0]["ca"] == ca_file.read_text()
    assert "PRIVATE" not in made.out + (await relay("upstream", "show", owner_id, "b.example")).out


@pytest.mark.parametrize(
    ("arguments", "said", "status", "text"),
    [
        (("list", "12345678"), "", 1, "unknown owner '12345678'"),
        (("show", "12345678", "b.example"), "", 1, "unknown owner '12345678'"),
        (("delete", "12345678", "b.example"), "", 1, "unknown owner '12345678'"),
        (("set", "12345678", "b.example", "--host", "mail.example"), "", 1, "unknown owner '12345678'"),
        (("policy", "12345678"), "", 1, "unknown owner"),
        (("signers", "12345678"), "", 1, "unknown owner"),
        (("show", "OWNER", "b.example"), "", 1, "no upstream for 'b.example'"),
        (("delete", "OWNER", "b.example"), "", 1, "no upstream for 'b.example'"),
        (("test", "OWNER", "b.example"), "", 1, "no upstream for 'b.example'"),
        (("unsign", "OWNER", "b.example"), "", 1, "no signer for 'b.example'"),
        (("set", "OWNER", "b.example"), "", 2, "either --host or --json-in"),
        (("set", "OWNER", "b.example", "--host", "a.example", "--json-in"), "[]", 2, "either --host or --json-in"),
        (("set", "OWNER", "b.example", "--json-in", "--password-stdin"), "[]", 2, "the password once"),
        (("set", "OWNER", "b.example", "--json-in"), "{s3cret", 2, "standard input: not JSON"),
        (("set", "OWNER", "b.example", "--json-in"), '[{"password":"s3cret"}]', 2, "standard input: smarthosts.0.host"),
        (("set", "OWNER", "b.example", "--json-in"), "[]", 2, "standard input: smarthosts"),
        (("set", "OWNER", "b.example", "--json-in"), '[{"host":"a.example","port":"s3cret"}]', 2, "standard input: smarthosts.0.port"),
        (("set", "OWNER", "b.example", "--host", "10.0.0.1"), "", 2, "an address that is not public: guard.allow_networks names"),
        (
            ("set", "OWNER", "b.example", "--host", "a.example", "--port", "80"),
            "",
            2,
            "port 80 is none that owners' smarthosts may have: guard.allow_ports",
        ),
        (("set", "OWNER", "b.example", "--host", "a.example", "--security", "ssl"), "", 2, "security"),
        (("set", "OWNER", "b.example", *HOST), "", 2, "password: missing"),
        (("set", "OWNER", "b.example", *HOST, "--password-stdin"), "", 2, "password: empty"),
        (("set", "OWNER", "b.example", *HOST, "--password-file", "/nonexistent/x"), "", 2, "No such file"),
        (("set", "OWNER", "b.example", *HOST, "--password-stdin", "--security", "none"), "s3cret\n", 2, "in clear"),
        (("set", "OWNER", "b.example", "--host", "a.example", "--max-rate", "1e-308"), "", 2, "--max-rate: 0, or at least 0.01"),
        (("set", "OWNER", "b.example", "--json-in"), '[{"host":"a.example","max_messages_per_second":1e-9}]', 2, "max_messages_per_second"),
        (("set", "OWNER", "b..example", "--host", "a.example"), "", 2, "a domain is a name"),
        (("policy", "OWNER", "--senders", "some"), "", 2, "none of any, domains, addresses"),
        (("policy", "OWNER", "--allow", "not a domain"), "", 2, "a domain is a name"),
        (("sign", "OWNER", "b.example", "--selector", "s"), "", 2, "either --generate or --key-file"),
        (("sign", "OWNER", "b.example", "--selector", "s", "--generate", "dsa"), "", 2, "neither rsa nor ed25519"),
        (("sign", "OWNER", "b.example", "--selector", "s s", "--generate", "ed25519"), "", 2, "selector"),
    ],
)
async def test_what_cannot_be_done_is_one_line_without_a_secret(
    relay: Shell, owner_id: str, arguments: tuple[str, ...], said: str, status: int, text: str
) -> None:
    ran = await relay("upstream", *(owner_id if each == "OWNER" else each for each in arguments), said=said)
    assert (ran.status, ran.out, len(ran.faults)) == (status, "", 1), ran.err
    assert text in ran.err and "s3cret" not in ran.err


async def test_a_test_tells_what_came_of_each_smarthost(relay: Shell, owner_id: str, config: Path, sink: Sink) -> None:
    allow(config, sink.port)
    await relay("upstream", "set", owner_id, "b.example", "--host", "127.0.0.1", "--port", sink.port, "--security", "none")
    done = await relay("upstream", "test", owner_id, "b.example", "--json")
    assert [(one["success"], one["stage"]) for one in done.json] == [(True, "done")]
    assert (await relay("upstream", "test", owner_id, "b.example", "--to", "x@y.example", "--from", "a@b.example")).status == 0
    assert [(one.sender, tuple(one.recipients)) for one in sink.messages] == [
        ("postmaster@b.example", ("test@sink.example",)),
        ("a@b.example", ("x@y.example",)),
    ]
    sink.script = Script.parse(['rcpt reply="550 5.1.1 nobody"'])
    failed = await relay("upstream", "test", owner_id, "b.example", "--json")
    assert failed.status == 1 and json.loads(failed.out)[0]["stage"] == "recipient"
    wrong = await relay("upstream", "test", owner_id, "b.example", "--to", "x")
    assert (wrong.status, wrong.faults) == (2, ["relay: --to: 'x' is no address"])


async def test_a_test_of_the_default_must_be_told_who_sends_it(relay: Shell, owner_id: str) -> None:
    await relay("upstream", "set", owner_id, "_default", "--host", "mail.example")
    ran = await relay("upstream", "test", owner_id, "_default")
    assert (ran.status, ran.faults) == (2, ["relay: give --from"])


async def test_a_policy_is_shown_and_changed_part_by_part(relay: Shell, owner_id: str) -> None:
    assert (await relay("upstream", "policy", owner_id, "--json")).json == {"senders": "any", "allowed": [], "check_from": False}
    await relay("upstream", "policy", owner_id, "--senders", "domains", "--allow", "B.example", "--allow", "c.example")
    changed = (await relay("upstream", "policy", owner_id, "--check-from", "--json")).json
    assert changed == {"senders": "domains", "allowed": ["b.example", "c.example"], "check_from": True}
    assert (await relay("upstream", "policy", owner_id, "--allow", "", "--json")).json == {**changed, "allowed": []}
    assert "domains" in (await relay("upstream", "policy", owner_id)).out


async def test_the_names_of_another_kind_go_with_it(relay: Shell, owner_id: str) -> None:
    async def policy(*arguments: str) -> list[str]:
        found: list[str] = (await relay("upstream", "policy", owner_id, *arguments, "--json")).json["allowed"]
        return found

    assert await policy("--senders", "addresses", "--allow", "ann@b.example") == ["ann@b.example"]
    assert await policy("--senders", "addresses") == ["ann@b.example"]
    assert await policy("--senders", "any") == []
    assert await policy("--senders", "domains", "--allow", "b.example") == ["b.example"]
    assert await policy("--senders", "any") == ["b.example"]
    assert await policy("--senders", "addresses") == []


async def test_what_is_written_beside_an_unreadable_record_is_answered(relay: Shell, owner_id: str, store: Store) -> None:
    await store.command("HSET", f"{{o:{owner_id}}}", "out", "1")
    await store.command("HSET", f"{{o:{owner_id}}}:settings", "b.example", "damaged")
    whole = ("--senders", "domains", "--allow", "B.example", "--no-check-from")
    changed = await relay("upstream", "policy", owner_id, *whole, "--json")
    assert changed.json == {"senders": "domains", "allowed": ["b.example"], "check_from": False}
    signed = await relay("upstream", "sign", owner_id, "B.example", "--selector", "S1", "--generate", "ed25519", "--json")
    assert signed.json["dns_name"] == "s1._domainkey.b.example"
    for arguments in (("policy", owner_id), ("policy", owner_id, "--check-from"), ("signers", owner_id)):
        ran = await relay("upstream", *arguments)
        assert (ran.status, len(ran.faults)) == (1, 1) and "the setting of 'b.example' cannot be read" in ran.err


async def test_no_value_is_cut_in_a_pipe(relay: Shell, owner_id: str) -> None:
    made = await relay("upstream", "sign", owner_id, "rsa.example", "--selector", "s", "--generate", "rsa")
    listed = await relay("upstream", "signers", owner_id)
    value = (await relay("upstream", "signers", owner_id, "--json")).json[0]["dns_value"]
    for shown in (made, listed):
        assert any(value in line for line in shown.out.splitlines()) and "\u2026" not in shown.out


async def test_a_signer_is_made_listed_and_removed(relay: Shell, owner_id: str, place: Path) -> None:
    made = (await relay("upstream", "sign", owner_id, "b.example", "--selector", "s1", "--generate", "ed25519", "--json")).json
    assert made["dns_name"] == "s1._domainkey.b.example" and made["dns_value"].startswith("v=DKIM1; k=ed25519; p=")
    assert (await relay("upstream", "signers", owner_id, "--json")).json == [made]
    (file := place / "key.pem").write_text("-----BEGIN PRIVATE KEY-----\ns3cret\n-----END PRIVATE KEY-----\n")
    wrong = await relay("upstream", "sign", owner_id, "b.example", "--selector", "s2", "--key-file", file)
    assert wrong.status == 2 and len(wrong.faults) == 1 and "s3cret" not in wrong.err
    assert (await relay("upstream", "unsign", owner_id, "b.example")).status == 0
    assert (await relay("upstream", "signers", owner_id)).out == "none\n"


async def test_what_cannot_be_read_is_one_line_and_can_be_replaced(relay: Shell, owner_id: str, store: Store) -> None:
    await relay("upstream", "set", owner_id, "b.example", "--host", "mail.example")
    await store.command("HSET", f"{{o:{owner_id}}}:settings", "b.example", "0" * 24 + "damaged s3cret")
    for arguments in (("list", owner_id), ("show", owner_id, "b.example"), ("set", owner_id, "b.example", "--host", "b.example", "--add")):
        ran = await relay("upstream", *arguments)
        assert (ran.status, len(ran.faults)) == (1, 1) and "cannot be read" in ran.err and "s3cret" not in ran.err
    assert (await relay("upstream", "set", owner_id, "b.example", "--host", "mail.example")).status == 0
    assert (await relay("upstream", "list", owner_id)).status == 0
