"""Outputs of every command, recorded byte for byte; see `tests/golden/test_golden.py`."""
