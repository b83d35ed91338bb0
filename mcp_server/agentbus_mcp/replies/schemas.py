"""JSON schemas without what pydantic adds for people: a model reads them at the price of their tokens."""

from typing import Any

from pydantic import BaseModel

Schema = dict[str, Any]


class Answer(BaseModel):
    """Part of what a tool answers. What is None is left out of an answer, and the schema says so."""


def compact(schema: Schema) -> Schema:
    """The same schema with its definitions in their places, and without titles and the nulls of optional properties."""
    return _compacted(schema, schema.get("$defs", {}))


def outline(schema: Schema) -> Schema:
    """A compact schema of answers: names and types. What they mean say the descriptions of the tools."""
    return {"type": "object", **_outlined(compact(schema))}


def _compacted(schema: Schema, definitions: Schema) -> Schema:
    reference = schema.get("$ref")
    if reference:
        return _compacted({**definitions[reference.rpartition("/")[2]], **_but(schema, "$ref")}, definitions)
    made = _but(schema, "$defs", "title")
    if "properties" in made:
        made["properties"] = {name: _property(field, definitions) for name, field in made["properties"].items()}
    if isinstance(made.get("items"), dict):
        made["items"] = _compacted(made["items"], definitions)
    if made.get("additionalProperties") is True:
        del made["additionalProperties"]
    return made


def _property(field: Schema, definitions: Schema) -> Schema:
    """A property; of one that may be null, the schema of what it is otherwise."""
    kinds = [kind for kind in field.get("anyOf", ()) if kind != {"type": "null"}]
    if len(kinds) == 1 and field.get("default", ...) is None:
        field = {**kinds[0], **_but(field, "anyOf", "default")}
    return _compacted(field, definitions)


def _but(schema: Schema, *keys: str) -> Schema:
    return {key: value for key, value in schema.items() if key not in keys}


def _outlined(schema: Schema) -> Schema:
    """A property with those of its own."""
    made = _but(schema, "description", "default", "required")
    if "items" in made:
        made["items"] = _outlined(made["items"])
    if "properties" in made:
        made["properties"] = {name: _outlined(field) for name, field in made["properties"].items()}
    return made
