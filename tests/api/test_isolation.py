"""No reply to one owner depends on what another has: the same calls are answered alike whether what they name is another's or nobody's.

Hypothesis makes up a history of calls through every dialect and the native API. An owner makes them while another has users, settings
and tokens of just the names that are tried, and changes them in between; a second owner makes the same calls where nobody ever had
them. Their answers must be the same, apart from what is their own or new each time.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.api.conftest import Guesses, House, Tenant, tenant_of

DOMAINS = ("shared.example", "other.example", "")
"""Both have settings of them, or try to find out whether the other has."""
HOST = "smtp.shared.example"

_NEW_EACH_TIME = re.compile(
    r"eyJ[\w\-]+\.[\w\-]+\.[\w\-]+|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|\b[0-9a-f]{24}\b|smtp[0-9]{9}"
    r'|\b[1-9][0-9]{7}\b|\b1[0-9]{12}\b|(?<=assword":")[A-Za-z0-9]{22}'
)


@dataclass
class Names:
    """What is tried of somebody else: another owner's, or nobody's."""

    owner_id: str
    user: str


@dataclass
class Actor:
    """An owner who calls, and what it was answered."""

    http: httpx.Client
    tenant: Tenant
    names: Names
    session: dict[str, str] = field(default_factory=dict)
    heard: list[str] = field(default_factory=list)

    def call(self, method: str, path: str, **more: Any) -> httpx.Response:
        """Make a call and note its answer, without what is new each time."""
        answer = self.http.request(method, path, **more)
        said = f"{answer.status_code} {answer.headers.get('content-type')} {answer.headers.get('www-authenticate')} {answer.text}"
        self.heard.append(f"{method} {path}: ".replace(self.names.user, "?") + _NEW_EACH_TIME.sub("*", said))
        return answer

    @property
    def basic(self) -> dict[str, str]:
        """Its credentials."""
        text = base64.b64encode(f"{self.tenant.owner_id}:{self.tenant.token}".encode()).decode()
        return {"Authorization": f"Basic {text}"}

    def do(self, kind: str, domain: str) -> None:
        """One step of a history."""
        getattr(self, f"_{kind}")(domain)

    # -- users ---------------------------------------------------------------------------------------------------------------

    def _tes_add(self, domain: str) -> None:
        self.call("POST", "/v1.0/settings/addSmtp", json=self.tenant.body | {"hourly_limit": 5, "total_limit": 9})

    def _tes_list(self, domain: str) -> None:
        self.call("POST", "/v1.0/settings/listSmtp", json=self.tenant.body)

    def _tes_edit_foreign(self, domain: str) -> None:
        asked = {"smtp_user_name": self.names.user, "status": "Disable", "total_limit": 7}
        self.call("POST", "/v1.0/settings/editSmtp", json=self.tenant.body | asked)

    def _tes_reset_foreign(self, domain: str) -> None:
        self.call("POST", "/v1.0/settings/resetSmtpPassword", json=self.tenant.body | {"smtp_user_name": self.names.user})

    def _tes_as_other(self, domain: str) -> None:
        self.call("POST", "/v1.0/settings/listSmtp", json={"owner_id": self.names.owner_id, "token": self.tenant.token})

    def _native_users(self, domain: str) -> None:
        self.call("GET", "/api/v1/users", headers=self.basic)

    def _native_foreign(self, domain: str) -> None:
        path = f"/api/v1/users/{self.names.user}"
        self.call("GET", path, headers=self.basic)
        self.call("GET", f"{path}/usage", headers=self.basic)
        self.call("PATCH", path, headers=self.basic, json={"hourly_limit": 1})
        self.call("POST", f"{path}/password", headers=self.basic)
        self.call("DELETE", path, headers=self.basic)

    # -- settings ------------------------------------------------------------------------------------------------------------

    def _webitel_login(self, domain: str) -> None:
        answer = self.call("POST", "/login", json={"username": self.tenant.owner_id, "password": self.tenant.token})
        self.session = {"X-Key": answer.json()["key"], "X-Access-Token": answer.json()["token"]}

    def _webitel_as_other(self, domain: str) -> None:
        self.call("POST", "/login", json={"username": self.names.owner_id, "password": self.tenant.token})

    def _webitel(self, method: str, domain: str, **more: Any) -> None:
        self.call(method, "/api/v2/email/settings", params={"domain": domain}, headers=self.session, **more)

    def _webitel_get(self, domain: str) -> None:
        self._webitel("GET", domain)

    def _webitel_post(self, domain: str) -> None:
        self._webitel("POST", domain, json=_document("mine"))

    def _webitel_put(self, domain: str) -> None:
        self._webitel("PUT", domain, json=_document("mine"))

    def _webitel_delete(self, domain: str) -> None:
        self._webitel("DELETE", domain)

    def _upstreams(self, domain: str) -> None:
        self.call("GET", "/api/v1/upstreams", headers=self.basic)
        self.call("GET", f"/api/v1/upstreams/{domain or '_default'}", headers=self.basic)

    def _upstream_put(self, domain: str) -> None:
        asked = {"smarthosts": [{"host": HOST, "port": 587, "security": "starttls", "username": "mine", "password": "mine"}]}
        self.call("PUT", f"/api/v1/upstreams/{domain or '_default'}", headers=self.basic, json=asked)

    def _upstream_delete(self, domain: str) -> None:
        self.call("DELETE", f"/api/v1/upstreams/{domain or '_default'}", headers=self.basic)

    def _policy(self, domain: str) -> None:
        self.call("GET", "/api/v1/policy", headers=self.basic)
        self.call("GET", "/api/v1/signers", headers=self.basic)

    def _superoffice(self, domain: str) -> None:
        """Whether a password is stored with this host and user: another's is none."""
        asked = {"SmtpUri": f"smtps://theirs@{HOST}", "From": "a@shared.example", "UseStoredPassword": True}
        self.call("POST", "/api/v1/Agents/CustomerService/TestSmtpServer", headers=self.basic, json=asked)


def _document(who: str) -> dict[str, Any]:
    return {"provider": "smtp", "options": {"host": HOST, "port": 465, "secure": True, "auth": {"user": who, "pass": who}}}


KINDS = sorted(name[1:] for name, value in vars(Actor).items() if name.startswith("_") and name[1].islower() and name != "_webitel")
STEPS = st.lists(st.tuples(st.sampled_from(KINDS), st.sampled_from(DOMAINS), st.booleans()), min_size=4, max_size=14)


class Neighbour:
    """The other owner, who has all that is tried, and changes it."""

    def __init__(self, http: httpx.Client, tenant: Tenant) -> None:
        self.tenant = tenant
        self._actor = Actor(http, tenant, Names("10000000", "smtp100000000"))
        self._actor.do("webitel_login", "")
        made = http.post("/v1.0/settings/addSmtp", json=tenant.body | {"hourly_limit": 5, "total_limit": 9})
        self.user: str = made.json()["smtp_user_name"]
        for domain in DOMAINS:
            self._put(domain, "theirs")
        self._turn = 0

    def _put(self, domain: str, who: str) -> None:
        path = f"/api/v1/upstreams/{domain or '_default'}"
        asked = {"smarthosts": [{"host": HOST, "port": 465, "security": "tls", "username": who, "password": who}]}
        assert self._actor.http.put(path, headers=self._actor.basic, json=asked).is_success

    def stir(self) -> None:
        """Change something."""
        self._turn += 1
        http, basic = self._actor.http, self._actor.basic
        match self._turn % 4:
            case 0:
                self._put(DOMAINS[self._turn % len(DOMAINS)], f"theirs{self._turn}")
            case 1:
                http.delete("/api/v1/upstreams/shared.example", headers=basic)
            case 2:
                self._put("shared.example", "theirs")
            case _:
                http.patch(f"/api/v1/users/{self.user}", headers=basic, json={"hourly_limit": self._turn})

    def state(self) -> str:
        """What it has: nobody else's calls may change it."""
        http, basic = self._actor.http, self._actor.basic
        return json.dumps([http.get(f"/api/v1/{what}", headers=basic).json() for what in ("users", "upstreams", "policy", "signers")])


@pytest.fixture
def guesses() -> Guesses:
    """Nobody is to be slowed down here."""
    return Guesses(10**6, 10**6)


async def test_what_another_owner_has_shows_in_no_answer(house: House) -> None:
    loop = asyncio.get_running_loop()

    def tenant() -> Tenant:
        return asyncio.run_coroutine_threadsafe(tenant_of(house), loop).result(10)

    await asyncio.to_thread(_compare_histories, f"http://127.0.0.1:{house.port}", tenant)


def _compare_histories(url: str, tenant: Any) -> None:
    with httpx.Client(base_url=url, timeout=10) as http:

        @settings(max_examples=20, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(steps=STEPS)
        def compare(steps: list[tuple[str, str, bool]]) -> None:
            neighbour = Neighbour(http, tenant())
            beside = Actor(http, tenant(), Names(neighbour.tenant.owner_id, neighbour.user))
            alone = Actor(http, tenant(), Names("99999999", "smtp999999999"))
            for actor in (beside, alone):
                actor.do("webitel_login", "")
            for kind, domain, is_stirred in steps:
                if is_stirred:
                    neighbour.stir()
                before = neighbour.state()
                beside.do(kind, domain)
                assert neighbour.state() == before
                alone.do(kind, domain)
                assert beside.heard == alone.heard

        compare()
