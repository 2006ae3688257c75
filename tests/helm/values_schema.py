"""Keeps the config document's part of the chart's schema equal to the pydantic classes.

`python -m tests.helm.values_schema` writes it anew; a test compares.
"""

import json
from typing import Any

from router.config import Config
from tests.helm.chart import CHART

PATH = CHART / "values.schema.json"


def with_config(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the chart's schema with the definitions of the config document as the classes give them now."""
    config = Config.model_json_schema()
    sections: dict[str, Any] = config.pop("$defs")
    own = {name: value for name, value in schema["$defs"].items() if name[0].islower()}
    return schema | {"$defs": own | {"Config": config} | sections}


def main() -> None:
    """Write the schema file."""
    schema = with_config(json.loads(PATH.read_text(encoding="utf-8")))
    PATH.write_text(json.dumps(schema, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
