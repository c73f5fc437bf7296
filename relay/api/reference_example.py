"""The line for curl that the reference shows with each call; what is to be filled in is in capitals."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any
from urllib.parse import urlencode

from relay.api.reference_schema import DEEPEST, Schema, Schemas, Way

BASE = "RELAY_URL"
FEW = 6
"""As many fields of a body are all in its example; of more, the required ones."""

_LOGINS = {"Owner": "OWNER_ID:TOKEN", "SmtpUser": "SMTP_USER_NAME:PASSWORD"}
_SAMPLES: dict[str, Any] = {"provider": "smtp", "options": {"host": "HOST", "port": 587}}
"""What stands for a field whose schema says nothing."""
_NEEDED = ("domain",)
"""Parameters that most callers need although not everybody does."""


def write_example(method: str, path: str, call: Schema, body: Schema, ways: tuple[list[str], list[str]], schemas: Schemas) -> str:
    """Write the line, broken before its options; `ways` are the logins by Basic that the call takes, and the headers of keys."""
    lines = [f"curl{'' if method == 'GET' else f' -X {method}'} {_quote(_write_url(path, call))}"]
    basics, keys = ways
    if basics:
        lines.append(f"-u {_quote(_LOGINS.get(basics[0], 'NAME:PASSWORD'))}")
    else:
        lines += [f"-H {_quote(f'{name}: {placeholder(name)}')}" for name in keys]
    if call.get("requestBody", {}).get("required"):
        lines += ["-H 'Content-Type: application/json'", f"-d {_quote(json.dumps(_sample('body', body, schemas)))}"]
    return " \\\n  ".join(lines)


def placeholder(name: str) -> str:
    """What stands for a value: OWNER_ID for owner_id, SMTP_URI for SmtpUri, X_KEY for X-Key."""
    return re.sub(r"\W+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)).upper()


def _quote(word: str) -> str:
    """A word for the shell, in quotes in any case: what is filled in may need them."""
    quoted = shlex.quote(word)
    return f"'{word}'" if quoted == word else quoted


def _write_url(path: str, call: Schema) -> str:
    query = {
        one["name"]: placeholder(one["name"])
        for one in call.get("parameters", ())
        if one["in"] == "query" and (one.get("required") or one["name"] in _NEEDED)
    }
    return BASE + re.sub(r"\{(.*?)\}", lambda found: placeholder(found[1]), path) + (f"?{urlencode(query)}" if query else "")


def _sample(name: str, schema: Schema, schemas: Schemas, way: Way = ()) -> Any:
    """A value that a schema allows; text where there is a choice is a placeholder."""
    ref, flat = schema.get("$ref", ""), schemas.flatten(schema)
    if name in _SAMPLES and "type" not in flat:
        return _SAMPLES[name]
    if "default" in flat or "enum" in flat:
        return flat.get("default", flat.get("enum", [None])[0])
    within, is_shown = (*way, ref), len(way) < DEEPEST and not (ref and ref in way)
    match flat.get("type"):
        case "object":
            fields, required = flat.get("properties", {}) if is_shown else {}, flat.get("required", ())
            shown = [field for field in fields if len(fields) <= FEW or field in required]
            return {field: _sample(field, fields[field], schemas, within) for field in shown}
        case "array":
            return [_sample(name, flat.get("items", {}), schemas, within)] if is_shown else []
        case "integer" | "number":
            return int(min(max(100, flat.get("minimum", 100)), flat.get("maximum", 100)))
        case "boolean":
            return False
        case _:
            return placeholder(name)
