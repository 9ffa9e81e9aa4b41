"""Python runs this in every process that starts with this folder on its path: workers of tests without Ray."""

from prelabel.detectors.running import runtime
from tests.engine.fakes import install

install()
# A fake needs no TensorFlow, and importing it takes seconds.
runtime.tensorflow = lambda keras: None
