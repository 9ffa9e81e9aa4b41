"""Synthetic scenes of shapes and letters with exact ground truth, for the demo, tests and benchmarks."""

from prelabel.synth.dataset import ScenesMade, make_scenes
from prelabel.synth.shapes import CLASS_NAMES

__all__ = ["CLASS_NAMES", "ScenesMade", "make_scenes"]
