"""The synthetic world: scenes of shapes and glyphs with exact truth, for demonstrations, tests and benchmarks."""

from prelabel.synth.dataset import ScenesMade, make_scenes
from prelabel.synth.shapes import CLASS_NAMES

__all__ = ["CLASS_NAMES", "ScenesMade", "make_scenes"]
