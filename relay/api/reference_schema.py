"""The schemas of an OpenAPI document as the reference reads them: resolved, bounded in depth, and safe where they repeat themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]
Way = tuple[str, ...]
"""The names of the schemas that lead somewhere, "" for one that has none."""

DEEPEST = 6
"""Objects within objects that are shown."""

_SPANS = (
    ("minimum", "maximum", ""),
    ("minLength", "maxLength", " characters"),
    ("minItems", "maxItems", " items"),
)


class Schemas:
    """The schemas that a document names."""

    def __init__(self, named: Schema) -> None:
        self._named = named

    def resolve(self, schema: Schema) -> Schema:
        """What a schema refers to; an empty one where that is itself, or unknown."""
        for _ in range(DEEPEST):
            if "$ref" not in schema:
                return schema
            schema = self._named.get(schema["$ref"].rpartition("/")[2], {})
        return {}

    def flatten(self, schema: Schema) -> Schema:
        """A schema of one type: of what may be null as well, the other side."""
        flat = {**self.resolve(schema), **schema}
        some = [one for one in flat.get("anyOf", ()) if one.get("type") != "null"]
        flat = {**self.resolve(some[0]), **flat} if len(some) == 1 else flat
        if isinstance(kinds := flat.get("type"), list):
            flat["type"] = next(kind for kind in [*kinds, "null"] if kind != "null" or kinds == ["null"])
        return flat

    def name_type(self, schema: Schema, depth: int = 0) -> str:
        """The type in words, as `array of string or null`."""
        schema = self.resolve(schema)
        if depth >= DEEPEST:
            return "any"
        if options := _alternatives(schema):
            return " or ".join(dict.fromkeys(self.name_type(one, depth + 1) for one in options))
        kinds = schema.get("type", "any")
        if kinds == "array":
            return f"array of {self.name_type(schema.get('items', {}), depth + 1)}"
        return kinds if isinstance(kinds, str) else " or ".join(kinds)

    def objects(self, schema: Schema, way: Way = ()) -> Iterator[tuple[Schema, Way]]:
        """The objects in a schema, each with the way there; none from where they repeat themselves, or lie too deep."""
        ref = schema.get("$ref", "")
        if len(way) >= DEEPEST or (ref and ref in way):
            return
        schema, way = self.resolve(schema), (*way, ref)
        if schema.get("properties"):
            yield schema, way
        for one in [*_alternatives(schema), *filter(None, [schema.get("items")])]:
            yield from self.objects(one, way)


def list_bounds(flat: Schema) -> Iterator[str]:
    """Say in words what a flattened schema allows."""
    if "enum" in flat:
        yield ("one of " if len(flat["enum"]) > 1 else "always ") + ", ".join(map(_show, flat["enum"]))
    for low, high, unit in _SPANS:
        match flat.get(low), flat.get(high):
            case None, None:
                pass
            case least, None:
                yield f"at least {least:,.15g}{unit}"
            case None, most:
                yield f"at most {most:,.15g}{unit}"
            case least, most:
                yield f"{least:,.15g} to {most:,.15g}{unit}"
    if "pattern" in flat:
        yield f"matches `{flat['pattern']}`"
    if "default" in flat:
        yield f"default {_show(flat['default'])}"


def _alternatives(schema: Schema) -> list[Schema]:
    return [*schema.get("anyOf", ()), *schema.get("oneOf", ())]


def _show(value: object) -> str:
    return '`""`' if value == "" else "null" if value is None else f"`{str(value).lower() if isinstance(value, bool) else value}`"
