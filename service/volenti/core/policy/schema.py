"""The policy document as JSON Schema, so that an editor completes and checks it while it is written."""

from inspect import cleandoc

import msgspec

from volenti.core.policy.document import Policy


def json_schema() -> dict[str, object]:
    """Give the JSON Schema (2020-12) of the policy document: its shape. The rules between members are those of lint."""
    _, definitions = msgspec.json.schema_components([Policy], ref_template="#/$defs/{name}")
    for definition in definitions.values():
        definition["description"] = cleandoc(definition["description"])
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Volenti policy document",
        "$ref": "#/$defs/Policy",
        "$defs": definitions,
    }
    return msgspec.json.decode(msgspec.json.encode(schema), type=dict[str, object])
