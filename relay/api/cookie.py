"""The cookies of a page that is signed in: its session, and what it must repeat in a header.

Promises: the session's cookie is for the browser alone (HttpOnly) and never sent along from another site (SameSite=Strict); the other
one, which scripts of the same site can read, follows from the session, so nothing has to be kept, and nobody who can plant a cookie
can make one that fits.
"""

from __future__ import annotations

import hashlib
import hmac

from starlette.requests import Request
from starlette.responses import Response

from relay.accounts.token import Session

SESSION = "relay-session"
"""`<key>.<token>`; a key has no dot."""
XSRF = "XSRF-TOKEN"
XSRF_HEADER = "X-XSRF-TOKEN"


def sign_in(request: Request, response: Response, session: Session, lifetime: float) -> None:
    """Give the page its cookies, for `lifetime` seconds; over HTTPS they are kept to it."""
    is_secure = request.url.scheme == "https"
    for name, value, is_hidden in ((SESSION, f"{session.key}.{session.token}", True), (XSRF, _mark(session.token), False)):
        response.set_cookie(name, value, max_age=int(lifetime), path="/", secure=is_secure, httponly=is_hidden, samesite="strict")


def sign_out(response: Response) -> None:
    """Take them away."""
    response.delete_cookie(SESSION, path="/", httponly=True, samesite="strict")
    response.delete_cookie(XSRF, path="/", samesite="strict")


def signed_in(request: Request) -> tuple[str, str] | None:
    """The token and the key of the page's session; None unless the request repeats what only the page can read.

    Whether the session is still open is not known here.
    """
    key, _, token = request.cookies.get(SESSION, "").partition(".")
    given = request.headers.get(XSRF_HEADER, "")
    is_own = hmac.compare_digest(given.encode(), _mark(token).encode())
    return (token, key) if key and token and is_own else None


def _mark(token: str) -> str:
    return hmac.new(token.encode(), b"relay-xsrf", hashlib.sha256).hexdigest()
