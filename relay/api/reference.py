"""The reference at `/docs`: every call of the application, as one page written from its OpenAPI document.

Promises: the page needs nothing but itself, no script and no other host, and its policy (CSP) lets a browser load nothing else; all text
in it is escaped; every call has a line for curl that works once what is in capitals is filled in.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
from collections.abc import Iterable
from html import escape
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import HTMLResponse, Response

from relay.api.reference_example import BASE, write_example
from relay.api.reference_schema import Schema, Schemas, Way, list_bounds
from relay.api.reference_style import STYLE

PATH = "/docs"
_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
_POLICY = f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "max-age=300",
}
_SECRETS = ("owner_id", "username", "token", "password")
"""Fields of a body that say who calls, where nothing else does."""


def add_routes(app: FastAPI) -> None:
    """Add the page; it is written when it is first asked for."""
    written = functools.cache(lambda: Page(app.openapi()).write().encode())

    async def show(request: Request) -> Response:
        return HTMLResponse(written(), headers=HEADERS)

    app.add_route(PATH, show, include_in_schema=False)


class Page:
    """The page of one OpenAPI document."""

    def __init__(self, document: Schema) -> None:
        components = document.get("components", {})
        self._document = document
        self._schemas = Schemas(components.get("schemas", {}))
        self._schemes: Schema = components.get("securitySchemes", {})

    def write(self) -> str:
        """Write the whole page."""
        info, families = self._document["info"], self._families()
        title = escape(info["title"])
        contents = "".join(_write_contents(tag, calls) for tag, calls in families.items())
        sections = "".join(self._section(tag, calls) for tag, calls in families.items())
        return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><title>{title}: HTTP API</title><style>{STYLE}</style></head><body>
<nav aria-label="Contents"><a class="home" href="#top">{title} <small>HTTP API</small></a>{contents}</nav>
<main id="top"><header><h1>{title} <small>HTTP API, version {escape(info["version"])}</small></h1>
<p>{_prose(info.get("description", ""))}</p>
<p>In the examples, fill in what is in capitals; <code>{BASE}</code> is what stands before <code>{PATH}</code> in the address of this page.
For programs, all of this is in <a href="openapi.json">openapi.json</a>.</p></header>
{sections}</main></body></html>
"""

    def _families(self) -> dict[str, list[tuple[str, str, Schema]]]:
        """The calls by their first tag."""
        found: dict[str, list[tuple[str, str, Schema]]] = {}
        for path, methods in self._document["paths"].items():
            for method, call in methods.items():
                found.setdefault(next(iter(call.get("tags", ())), "other"), []).append((method.upper(), path, call))
        return found

    def _section(self, tag: str, calls: Iterable[tuple[str, str, Schema]]) -> str:
        written = "\n".join(self._call(*call) for call in calls)
        return f'<section id="{_anchor(tag)}"><h2>{escape(_heading(tag))}</h2>\n{written}</section>\n'

    def _call(self, method: str, path: str, call: Schema) -> str:
        text = call.get("description") or call.get("summary", "")
        told = "" if path.endswith(text) else f"<p>{_prose(text)}</p>"  # a dialect's calls are named like the end of their paths
        example = write_example(method, path, call, self._body(call), self._ways(call), self._schemas)
        return (
            f'<article id="{_anchor(method, path)}"><h3><a href="#{_anchor(method, path)}">{_badge(method)} {_breakable(path)}</a></h3>'
            f"{told}<pre>{escape(example)}</pre><h4>Authentication</h4><p>{_prose(self._login(call))}</p>"
            f"{self._parameters(call)}{self._request(call)}{self._answers(call)}</article>"
        )

    def _ways(self, call: Schema) -> tuple[list[str], list[str]]:
        """The logins by Basic that a call takes, and the headers of keys; keys go together, for one may need the other."""
        names = [name for way in call.get("security", ()) for name in way]
        keys = [self._schemes[name]["name"] for name in names if self._schemes[name]["type"] == "apiKey"]
        return [name for name in names if self._schemes[name]["type"] == "http"], keys

    def _login(self, call: Schema) -> str:
        basics, keys = self._ways(call)
        ways = [f"HTTP Basic: {self._schemes[name].get('description', name)}" for name in basics]
        if keys:
            ways.append("The headers " + " and ".join(f"`{name}`" for name in keys))
        if ways:
            return "; or ".join(ways)
        secrets = [f"`{name}`" for name in _SECRETS if name in self._body(call).get("properties", {})]
        return f"{' and '.join(secrets)} in the body" if secrets else "None"

    def _body(self, call: Schema) -> Schema:
        content = call.get("requestBody", {}).get("content", {})
        return self._schemas.resolve(next(iter(content.values()))["schema"]) if content else {}

    def _parameters(self, call: Schema) -> str:
        rows = [
            self._field(one["name"], {**one["schema"], **_described(one)}, is_required=one.get("required", False), place=one["in"])
            for one in call.get("parameters", ())
        ]
        return f"<h4>Parameters</h4><ul>{''.join(rows)}</ul>" if rows else ""

    def _request(self, call: Schema) -> str:
        if not (request := call.get("requestBody")):
            return ""
        may = "" if request.get("required") else ", may be left out"
        return f"<h4>Request body{may}</h4>{_write_media(request['content'])}{self._fields(self._body(call), is_request=True)}"

    def _answers(self, call: Schema) -> str:
        rows, bodies = [], dict[str, list[str]]()
        for status, answer in sorted(call.get("responses", {}).items()):
            # "Successful Response" is what the framework says where nobody has said anything.
            text = answer.get("description", "").replace("Successful Response", "Done")
            rows.append(f"<li><b>{escape(status)}</b> {_prose(text)}</li>")
            if content := answer.get("content"):
                bodies.setdefault(json.dumps(content), []).append(status)
        written = "".join(self._answer(json.loads(content), statuses) for content, statuses in bodies.items())
        return f'<h4>Answers</h4><ul class="answers">{"".join(rows)}</ul>{written}'

    def _answer(self, content: Schema, statuses: list[str]) -> str:
        is_open = " open" if statuses[0].startswith("2") else ""
        fields = self._fields(next(iter(content.values())).get("schema", {}))
        return f"<details{is_open}><summary>Body of {escape(', '.join(statuses))}</summary>{_write_media(content)}{fields}</details>"

    def _fields(self, schema: Schema, way: Way = (), *, is_request: bool = False) -> str:
        """The fields of the objects in a schema; where there are none, its type, unless it is a field itself."""
        lists = []
        for found, path in self._schemas.objects(schema, way):
            required = found.get("required", ()) if is_request else ()
            rows = (
                self._field(name, one, path, is_required=name in required, is_request=is_request)
                for name, one in found["properties"].items()
            )
            lists.append(f"<ul>{''.join(rows)}</ul>")
        return "<p>or</p>".join(lists) or ("" if way else f"<p>{escape(self._schemas.name_type(schema))}</p>")

    def _field(self, name: str, schema: Schema, way: Way = (), *, is_required: bool, is_request: bool = False, place: str = "") -> str:
        flat = self._schemas.flatten(schema)
        marks = ", ".join(filter(None, [f"in {place}" if place else "", self._schemas.name_type(schema), flat.get("format", "")]))
        must = " <strong>required</strong>" if is_required else ""
        text = _prose(flat.get("description", ""))
        bounds = _prose("; ".join(list_bounds(flat)))
        notes = (f"<p>{text}</p>" if text else "") + (f'<p class="bounds">{bounds}</p>' if bounds else "")
        within = self._fields(schema, way, is_request=is_request) if way else ""
        return f"<li><code>{escape(name)}</code> <small>{escape(marks)}</small>{must}{notes}{within}</li>"


def _write_contents(tag: str, calls: Iterable[tuple[str, str, Schema]]) -> str:
    rows = (f'<li><a href="#{_anchor(method, path)}">{_badge(method)} {_breakable(path)}</a></li>' for method, path, _ in calls)
    return f'<a class="family" href="#{_anchor(tag)}">{escape(_heading(tag))}</a><ul>{"".join(rows)}</ul>'


def _write_media(content: Schema) -> str:
    return f'<p class="media">{escape(", ".join(content))}</p>'


def _described(parameter: Schema) -> dict[str, Any]:
    return {"description": parameter["description"]} if "description" in parameter else {}


def _badge(method: str) -> str:
    return f'<b class="{_anchor(method)}">{escape(method)}</b>'


def _breakable(path: str) -> str:
    return f"<code>{escape(path).replace('/', '<wbr>/')}</code>"


def _heading(tag: str) -> str:
    return tag[:1].upper() + tag[1:]


def _anchor(*words: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", " ".join(words).lower()).strip("-")


def _prose(text: str) -> str:
    """Text as HTML; what stands in backticks is code."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text))
