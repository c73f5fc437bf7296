"""Users for a load, made, changed, asked about and removed through the relay's own HTTP door.

Promises: the TES calls are used wherever they can say what is meant, so that any server with such an API can be tested; the relay's
native routes only for what they cannot: no limit, removal, usage. An answer that is no success is an error that says what was answered,
and never the token, which goes to the address that was named and nowhere else: no redirect is followed, no proxy is used. A user that
was made is known as made even if whoever asked for it was cancelled meanwhile.
"""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import quote

from relay.loadkit.number import whole
from relay.loadkit.verdict import Limits

Answer = TypeVar("Answer")


class ProvisionError(Exception):
    """The API did not do what it was asked for."""


class _Unmoved(urllib.request.HTTPRedirectHandler):
    """Leaves a redirect an error: whoever sends one would else be sent on, with the token, to a host that nobody named."""

    def redirect_request(self, *args: Any, **more: Any) -> None:
        """Follow none."""


def direct() -> urllib.request.OpenerDirector:
    """An opener that asks the host of an address itself: it follows no redirect and takes no proxy from the environment."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}), _Unmoved)


_DIRECT = direct()


@dataclass(frozen=True, slots=True)
class Clerk:
    """Asks an API as one owner. `made` are the users it has made and not removed, with their passwords."""

    url: str
    """Where the API is: `http://127.0.0.1:8025`."""
    owner: str
    token: str = field(repr=False)
    timeout: float = 60.0
    made: dict[str, str] = field(default_factory=dict, repr=False)

    async def add(self, limits: Limits) -> str:
        """Make a user; returns its name. Raises ProvisionError, as everything here does."""
        return await _in_thread(lambda: self._add(limits))

    async def limit(self, user: str, limits: Limits) -> None:
        """Give a user these limits."""
        body = {"hourly_limit": limits.hourly, "total_limit": limits.total}
        if None in (limits.hourly, limits.total):
            await _in_thread(lambda: self._native("PATCH", f"/{quote(user)}", body))
        else:
            await self._tes("editSmtp", {"smtp_user_name": user, **body})

    async def switch(self, user: str, is_on: bool) -> None:
        """Enable or disable a user."""
        await self._tes("editSmtp", {"smtp_user_name": user, "status": "Enable" if is_on else "Disable"})

    async def reset(self, user: str) -> str:
        """Give a user a new password, and return it."""
        answer = await self._tes("resetSmtpPassword", {"smtp_user_name": user})
        return str(answer.get("smtp_password", ""))

    async def delete(self, user: str) -> None:
        """Remove a user."""
        await _in_thread(lambda: self._native("DELETE", f"/{quote(user)}"))
        self.made.pop(user, None)

    async def usage(self, user: str) -> tuple[int, int]:
        """The units the ledger says were taken of a user in all, and those in flight."""
        answer = await _in_thread(lambda: self._native("GET", f"/{quote(user)}/usage"))
        try:
            return whole(answer["sent_total"]), whole(answer["in_flight"])
        except (KeyError, ValueError):
            raise ProvisionError(f"{self.url}: no usage of {user} in the answer") from None

    async def clear(self) -> dict[str, str]:
        """Remove every user that was made; returns what was said of those that could not be, by name."""
        users = list(self.made)
        ends = await asyncio.gather(*(self._discard(user) for user in users))
        return {user: said for user, said in zip(users, ends, strict=True) if said}

    async def _discard(self, user: str) -> str:
        try:
            await self.delete(user)
        except ProvisionError as error:
            try:
                await self.switch(user, is_on=False)
            except ProvisionError:
                return str(error)
            return f"{error}; it was disabled"  # the TES documents have no call to delete
        return ""

    # -- the calls -----------------------------------------------------------------------------------------------------------

    def _add(self, limits: Limits) -> str:
        body = {"total_limit": limits.total, "hourly_limit": limits.hourly}
        answer = self._native("POST", "", body) if None in (limits.hourly, limits.total) else self._post("addSmtp", body)
        if not isinstance(answer.get("smtp_user_name"), str) or "smtp_password" not in answer:
            raise ProvisionError(f"{self.url}: {answer.get('message') or 'no user in the answer'}")
        user: str = answer["smtp_user_name"]
        self.made[user] = str(answer["smtp_password"])
        return user

    async def _tes(self, call: str, body: dict[str, Any]) -> dict[str, Any]:
        return await _in_thread(lambda: self._post(call, body))

    def _post(self, call: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = self._ask("POST", f"/v1.0/settings/{call}", {"owner_id": self.owner, "token": self.token, **body})
        if answer.get("status") != "success":
            raise ProvisionError(f"{self.url}: {self._safe(str(answer.get('message', answer)))}")
        return answer

    def _native(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        words = base64.b64encode(f"{self.owner}:{self.token}".encode()).decode()
        return self._ask(method, f"/api/v1/users{path}", body, {"Authorization": f"Basic {words}"})

    def _ask(self, method: str, path: str, body: dict[str, Any] | None, headers: dict[str, str] | None = None) -> dict[str, Any]:
        if not self.url.startswith(("http://", "https://")):
            raise ProvisionError(f"{self.url}: not an http or https address")
        data = None if body is None else json.dumps(body).encode()
        head = {"Content-Type": "application/json", **(headers or {})}
        request = urllib.request.Request(f"{self.url.rstrip('/')}{path}", data, head, method=method)  # noqa: S310 - looked at above
        try:
            with _DIRECT.open(request, timeout=self.timeout) as response:
                answer = json.loads(response.read() or b"{}")
        except urllib.error.HTTPError as error:
            with error:
                if 300 <= error.code < 400:
                    raise ProvisionError(f"{self.url}: {error.code}: a redirect is not followed, for the token's sake") from None
                raise ProvisionError(f"{self.url}: {error.code} {self._safe(error.read(300).decode('utf-8', 'replace'))}") from None
        except (OSError, ValueError, RecursionError, http.client.HTTPException) as error:
            raise ProvisionError(f"{self.url}: {error}") from None
        if not isinstance(answer, dict):
            raise ProvisionError(f"{self.url}: the answer is no object")
        return answer

    def _safe(self, text: str) -> str:
        return text.replace(self.token, "***") if self.token else text


async def make(clerk: Clerk, wanted: Sequence[Limits]) -> list[str]:
    """Make a user for each of these limits, and return their names in that order. Raises ProvisionError."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(clerk.add(limits)) for limits in wanted]
    except* ProvisionError as errors:
        raise ProvisionError(str(errors.exceptions[0])) from None
    return [task.result() for task in tasks]


async def _in_thread(call: Callable[[], Answer]) -> Answer:
    """Call in a thread, and see it end even when cancelled: what it does must be known, to be undone."""
    task = asyncio.ensure_future(asyncio.to_thread(call))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # it has been seen
        raise
