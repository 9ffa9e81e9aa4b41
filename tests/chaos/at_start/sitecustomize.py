"""Python runs this in every process that starts with this folder on its path: workers of trials without Ray."""

from prelabel.detectors.running import runtime
from tests.chaos.stub import install

install()
# The stub needs no TensorFlow, and importing it takes seconds.
runtime.tensorflow = lambda keras: None
