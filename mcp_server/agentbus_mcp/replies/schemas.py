"""Compacts JSON schemas: removes what pydantic adds for people, because a model pays for every token."""

from typing import Any

Schema = dict[str, Any]


def compact(schema: Schema) -> Schema:
    """Inline the definitions of a schema; remove titles and the nulls of optional properties."""
    return _compacted(schema, schema.get("$defs", {}))


def outline(schema: Schema) -> Schema:
    """Reduce a schema of answers to names and types; the descriptions of the tools give their meaning."""
    return {"type": "object", **_outlined(compact(schema))}


def _compacted(schema: Schema, definitions: Schema) -> Schema:
    reference = schema.get("$ref")
    if reference:
        return _compacted({**definitions[reference.rpartition("/")[2]], **_without(schema, "$ref")}, definitions)
    made = _without(schema, "$defs", "title")
    if "properties" in made:
        made["properties"] = {name: _property(field, definitions) for name, field in made["properties"].items()}
    if isinstance(made.get("items"), dict):
        made["items"] = _compacted(made["items"], definitions)
    if made.get("additionalProperties") is True:
        del made["additionalProperties"]
    return made


def _property(field: Schema, definitions: Schema) -> Schema:
    """Compact a property; of an optional one, keep the schema of its value only."""
    kinds = [kind for kind in field.get("anyOf", ()) if kind != {"type": "null"}]
    if len(kinds) == 1 and field.get("default", ...) is None:
        field = {**kinds[0], **_without(field, "anyOf", "default")}
    return _compacted(field, definitions)


def _without(schema: Schema, *keys: str) -> Schema:
    return {key: value for key, value in schema.items() if key not in keys}


def _outlined(schema: Schema) -> Schema:
    """Reduce a property and the properties inside it."""
    made = _without(schema, "description", "default", "required")
    if "items" in made:
        made["items"] = _outlined(made["items"])
    if "properties" in made:
        made["properties"] = {name: _outlined(field) for name, field in made["properties"].items()}
    return made
