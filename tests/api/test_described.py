"""The description of the API (OpenAPI) and the API say the same: calls made from it, right and wrong, are answered as it says.

Every operation of the whole application is called with what its schema allows and what it does not, by an owner, by an SMTP user, and by
nobody; an answer is held to the statuses, headers and bodies that are described, and none is a fault of the server.
"""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

from relay.spool.spool import Spool
from tests.api.conftest import Guesses, House, Tenant

EXAMPLES = {"owner": 12, "user": 6, "nobody": 4}
"""Calls of an operation by each caller: who may do less is answered by fewer lines of the description."""
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


def _basic(name: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


@pytest.fixture
def guesses() -> Guesses:
    """Nobody is to be slowed down here."""
    return Guesses(10**6, 10**6)


@pytest.fixture
def spool(empty_spool: Spool) -> Spool:
    """There is one behind the door."""
    return empty_spool


@pytest.fixture
async def callers(house: House, tenant: Tenant, http: httpx.AsyncClient) -> dict[str, dict[str, str]]:
    """Who calls, and the headers that say so."""
    user, password = await house.provisioning.add_user(tenant.owner_id, 10, 100)
    return {"owner": _basic(*tenant.auth), "user": _basic(user.name, password), "nobody": {}}


@pytest.mark.parametrize("caller", ["owner", "user", "nobody"])
async def test_every_operation_answers_as_it_is_described(house: House, callers: dict[str, dict[str, str]], caller: str) -> None:
    called = await asyncio.to_thread(_call_all, f"http://127.0.0.1:{house.port}", callers[caller], EXAMPLES[caller])
    assert len(called) >= 15, called


def _call_all(url: str, headers: dict[str, str], examples: int) -> list[str]:
    schema: Any = schemathesis.openapi.from_url(f"{url}/openapi.json")
    called = []
    for found in schema.get_all_operations():
        operation = found.ok()
        _call(operation, headers, examples)
        called.append(operation.label)
    return called


def _call(operation: Any, headers: dict[str, str], examples: int) -> None:
    @seed(1)
    @settings(max_examples=examples, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy())
    def one(case: Any) -> None:
        case.call_and_validate(headers=headers, checks=CHECKS, timeout=10)

    one()
