"""Print the JSON schema of the configuration, for editors: ``python -m ppml.config.schema > config/schema.json``."""

from __future__ import annotations

import json

from ppml.config.model import Config


def schema_text() -> str:
    """Return the schema as it lies in config/schema.json."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Config.model_json_schema()}
    return json.dumps(schema, indent=1) + "\n"


if __name__ == "__main__":
    print(schema_text(), end="")
