"""The contracts in `schemas/` match what the code writes."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from prelabel.store.plan import PLAN_SCHEMA
from prelabel.store.rows import SHARD_SCHEMA

SCHEMAS = Path(__file__).parents[1] / "schemas"


@pytest.mark.parametrize(("name", "schema"), [("shard", SHARD_SCHEMA), ("plan", PLAN_SCHEMA)])
def test_arrow_contract_is_the_schema_in_the_code(name: str, schema: pa.Schema):
    contract = json.loads((SCHEMAS / f"{name}.arrow.json").read_text())
    declared = [(field["name"], field["type"], field["nullable"]) for field in contract["fields"]]
    assert declared == [(field.name, str(field.type), field.nullable) for field in schema]
    assert all(field["description"] for field in contract["fields"])
