"""Whether the time of an answer tells of another owner's data: python -m tests.benchmarks.isolation_timing [--calls N]

A whole relay; one owner asks for what is another's and for what is nobody's, in turns and in random order, by every dialect. Printed are
the medians of both, and how far they are apart; asked for is less than 5 % over 1,000 calls. A pair that is further apart is measured
again, up to three times: on a busy machine chance alone exceeds that. The exit status is 1 if one stays so.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from tests.running import Relay, free_port, running

BOUND = 0.05
TRIES = 3

Call = Callable[[httpx.Client], httpx.Response]


def basic(name: str, password: str) -> dict[str, str]:
    """HTTP Basic."""
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


def pairs(mine: dict[str, str], session: dict[str, str], other_id: str, other_user: str, domain: str) -> dict[str, tuple[Call, Call]]:
    """What is compared: calls that name what is another's, and what is nobody's."""
    headers = basic(mine["owner_id"], mine["token"])

    def tes(name: str) -> Call:
        return lambda http: http.post("/v1.0/settings/editSmtp", json=mine | {"smtp_user_name": name, "status": "Disable"})

    def wrong_token(owner: str) -> Call:
        return lambda http: http.post("/v1.0/settings/listSmtp", json={"owner_id": owner, "token": mine["token"]})

    def native(name: str) -> Call:
        return lambda http: http.get(f"/api/v1/users/{name}", headers=headers)

    def native_password(name: str) -> Call:
        return lambda http: http.get("/api/v1/usage", headers=basic(name, "A" * 22))

    def webitel(domain: str) -> Call:
        return lambda http: http.get("/api/v2/email/settings", params={"domain": domain}, headers=session)

    def login(owner: str) -> Call:
        return lambda http: http.post("/login", json={"username": owner, "password": mine["token"]})

    def upstream(domain: str) -> Call:
        return lambda http: http.get(f"/api/v1/upstreams/{domain}", headers=headers)

    def superoffice(host: str) -> Call:
        asked = {"SmtpUri": f"smtps://theirs@{host}", "From": f"a@{domain}", "UseStoredPassword": True}
        return lambda http: http.post("/api/v1/Agents/CustomerService/TestSmtpServer", headers=headers, json=asked)

    return {
        "TES editSmtp": (tes(other_user), tes("smtp999999999")),
        "TES wrong token": (wrong_token(other_id), wrong_token("99999999")),
        "native user": (native(other_user), native("smtp999999999")),
        "native wrong password": (native_password(other_user), native_password("smtp999999999")),
        "native upstream": (upstream(domain), upstream("nobody.example")),
        "Webitel settings": (webitel(domain), webitel("nobody.example")),
        "Webitel login": (login(other_id), login("99999999")),
        "SuperOffice stored password": (superoffice(f"smtp.{domain}"), superoffice("smtp.nobody.example")),
    }


def compare(http: httpx.Client, known: Call, unknown: Call, calls: int) -> tuple[float, float]:
    """The medians of both in ms."""
    times: dict[bool, list[float]] = {True: [], False: []}
    order = [True, False] * calls
    random.shuffle(order)
    for is_known in order:
        call = known if is_known else unknown
        began = time.perf_counter()
        call(http)
        times[is_known].append(time.perf_counter() - began)
    return statistics.median(times[True]) * 1e3, statistics.median(times[False]) * 1e3


def measure(url: str, given: dict[str, Any], calls: int) -> bool:
    """Print the table; whether all are within the bound."""
    is_well = True
    with httpx.Client(base_url=url, timeout=30) as http:
        print(f"{'ms, median':<32}{'another':>10}{'nobody':>10}{'apart':>9}")
        for name, (known, unknown) in pairs(**given).items():
            for _ in range(TRIES):
                one, other = compare(http, known, unknown, calls)
                apart = abs(one - other) / min(one, other)
                print(f"{name:<32}{one:>10.3f}{other:>10.3f}{apart:>9.1%}", flush=True)
                if apart < BOUND:
                    break
            else:
                is_well = False
    return is_well


async def prepare(relay: Relay) -> dict[str, Any]:
    """Two owners, of whom one has something."""
    mine, other = [await relay.cli("owner", "add", name) for name in ("mine", "other")]
    domain = "theirs.example"
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{relay.api}", timeout=30) as http:
        them = {"owner_id": other["owner_id"], "token": other["token"]}
        made = await http.post("/v1.0/settings/addSmtp", json=them | {"hourly_limit": 5, "total_limit": 9})
        asked = {"smarthosts": [{"host": f"smtp.{domain}", "port": 465, "security": "tls", "username": "theirs", "password": "theirs"}]}
        written = await http.put(f"/api/v1/upstreams/{domain}", headers=basic(*them.values()), json=asked)
        assert written.is_success, written.text
        login = await http.post("/login", json={"username": mine["owner_id"], "password": mine["token"]})
        assert login.is_success, login.text
    session = {"X-Key": login.json()["key"], "X-Access-Token": login.json()["token"]}
    return {
        "mine": {"owner_id": mine["owner_id"], "token": mine["token"]}, "session": session, "other_id": other["owner_id"],
        "other_user": made.json()["smtp_user_name"], "domain": domain,
    }  # fmt: skip


async def run(calls: int) -> bool:
    """Start a relay and measure."""
    with tempfile.TemporaryDirectory(prefix="relay-") as folder:
        throttle = f"[throttle]\nfailures_per_user = {10**9}\nfailures_per_address = {10**9}\n"  # wrong tokens are measured too
        async with running(Path(folder), free_port(), throttle, workers=1, is_started=False) as relay:
            text = relay.config.read_text()
            relay.config.write_text(text.replace("[api]\n", '[api]\ntest_recipient = "test@sink.example"\n'))
            await relay.start()
            return await asyncio.to_thread(measure, f"http://127.0.0.1:{relay.api}", await prepare(relay), calls)


def main() -> None:
    """Measure; exit status 1 if something is too far apart."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1000)
    raise SystemExit(not asyncio.run(run(parser.parse_args().calls)))


if __name__ == "__main__":
    main()
