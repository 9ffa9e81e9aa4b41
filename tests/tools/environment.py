"""What tests against real tools need that is not there: a skip with its reason, or a failure where all has to be there.

Continuous integration sets `TOOLS_REQUIRED=1` once every environment is set up, so that nothing is passed over there.
"""

from __future__ import annotations

import importlib
import os
from typing import Any, NoReturn

import pytest


def missing(reason: str, required: str = "TOOLS_REQUIRED") -> NoReturn:
    """End a test, or the import of its module, that lacks something: it fails if the variable `required` is set."""
    if os.environ.get(required):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason, allow_module_level=True)


def needed(module: str) -> Any:
    """A module that only tests against real tools use."""
    try:
        return importlib.import_module(module)
    except ImportError:
        missing(f"{module} is not installed: make test-tools")
