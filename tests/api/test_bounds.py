"""A smarthost that the native API takes is the same one when it has been shown, and read back, in nodemailer's words."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from relay.api.smarthost import Smarthost, choices_of
from relay.dialects.nodemailer import CONNECTIONS, MESSAGES, RATES, TIMES, read_options, write_options
from relay.upstream.route import Target
from tests.api.conftest import House

WAITS = st.floats(*TIMES)


def made(**fields: Any) -> Target:
    smarthost = Smarthost.model_validate({"host": "mail.example", "port": 587, **fields})
    (choice,) = choices_of([smarthost], None, lambda target: None)
    return choice.target


def shown(target: Target) -> Target:
    return read_options(json.loads(json.dumps(write_options(target))))


@given(
    st.fixed_dictionaries(
        {
            "max_connections": st.integers(*CONNECTIONS),
            "max_messages": st.integers(*MESSAGES),
            "max_messages_per_second": st.just(0.0) | st.floats(*RATES),
            "timeout_seconds": WAITS,
            "connect_timeout_seconds": WAITS,
            "greeting_timeout_seconds": WAITS,
        }
    )
)
def test_every_cap_and_time_out_is_the_same_in_both(fields: dict[str, Any]) -> None:
    target = made(**fields)
    assert shown(target) == target


@pytest.mark.parametrize(
    "fields",
    [
        {"max_connections": 1000, "max_messages": 100_000, "max_messages_per_second": 1_000_000, "timeout_seconds": 300},
        {"max_messages_per_second": 0.01, "timeout_seconds": 1.23456789},
        {"name": "me.example", "server_name": "other.example"},
        {"name": "[192.0.2.1]", "server_name": "2001:db8::1"},
        {"name": "[IPv6:2001:db8::1]", "server_name": "::ffff:192.0.2.1"},
        {"name": "a_b", "server_name": "192.0.2.1"},
        {"host": "a" * 253, "username": "me", "password": "x" * 1024, "mechanism": "login"},
    ],
)
def test_names_and_bounds_are_the_same_in_both(fields: dict[str, Any]) -> None:
    target = made(**fields)
    assert shown(target) == target


def test_certificates_are_the_same_in_both_in_whatever_order_they_came(authority: trustme.CA) -> None:
    leaf, ca = authority.issue_cert("client.example"), authority.cert_pem.bytes().decode()
    key, chain = leaf.private_key_pem.bytes().decode(), "".join(part.bytes().decode() for part in leaf.cert_chain_pems)
    targets = [
        made(ca=ca.rstrip(), identity=identity)
        for identity in (key + chain, chain + key, chain + key.rstrip(), (chain + key).replace("\n", "\r\n"))
    ]
    for target in targets:
        assert shown(target) == target
    assert targets[0] == targets[1] == targets[2]


async def test_a_test_may_be_one_too_many_and_goes_nowhere_but_where_the_operator_says(house: House, http: httpx.AsyncClient) -> None:
    paths = (await http.get("/openapi.json")).json()["paths"]
    tests = {path: calls["post"] for path, calls in paths.items() if "/test" in path or path.endswith("TestSmtpServer")}
    assert len(tests) == 4
    for path, call in tests.items():
        assert "tests" in call["responses"]["429"]["description"], path
    settings = "/api/v2/email/settings/test"
    body = tests[settings]["requestBody"]["content"]["application/json"]["schema"]["properties"]["to"]
    (parameter,) = (one for one in tests[f"{settings}/{{to}}"]["parameters"] if one["name"] == "to")
    for described in (body, parameter):
        assert "ignored" in described["description"] and "api.test_recipient" in described["description"]
