"""The worlds of the engine's tests: photos and workers with a fake detector."""

from __future__ import annotations

from tests.engine.conftest import anywhere, local_world, shared_ray, world

__all__ = ["anywhere", "local_world", "shared_ray", "world"]
