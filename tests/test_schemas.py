"""The contracts in `schemas/` match what the code writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from prelabel.detectors.conventions.adapter_schema import SCHEMA as ADAPTER_SCHEMA
from prelabel.store.extracted import EXTRACTED_SCHEMA
from prelabel.store.plan import PLAN_SCHEMA
from prelabel.store.rows import SHARD_SCHEMA

SCHEMAS = Path(__file__).parents[1] / "schemas"


@pytest.mark.parametrize(
    ("name", "schema"), [("shard", SHARD_SCHEMA), ("plan", PLAN_SCHEMA), ("extracted", EXTRACTED_SCHEMA)]
)
def test_arrow_contract_is_the_schema_in_the_code(name: str, schema: pa.Schema):
    contract = json.loads((SCHEMAS / f"{name}.arrow.json").read_text())
    declared = [(field["name"], field["type"], field["nullable"]) for field in contract["fields"]]
    assert declared == [(field.name, str(field.type), field.nullable) for field in schema]
    assert all(field["description"] for field in contract["fields"])


def test_the_schema_of_adapters_is_the_one_in_the_code():
    """`python -m tests.test_schemas` writes it."""
    assert json.loads((SCHEMAS / "adapter.schema.json").read_text()) == _without_forms(ADAPTER_SCHEMA)


def _without_forms(schema: Any) -> Any:
    """The schema without `form`, which words messages and is no keyword of JSON Schema."""
    if isinstance(schema, list):
        return [_without_forms(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {name: _without_forms(part) for name, part in schema.items() if name != "form"}


if __name__ == "__main__":
    text = json.dumps(_without_forms(ADAPTER_SCHEMA), indent=1)
    (SCHEMAS / "adapter.schema.json").write_text(text + "\n")
