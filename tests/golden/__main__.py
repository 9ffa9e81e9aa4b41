"""`python -m tests.golden`: compares what commands make now with what was recorded, or records it."""

from __future__ import annotations

import sys

from tests.golden.program import main

sys.exit(main())
