"""The families of networks that are recognized, each in a file of its own.

To add a family, write a file with a matcher and what its outputs mean, and list it here. Families that are recognized
by the names of their outputs or by their files come first; classification accepts the rest.
"""

from __future__ import annotations

from prelabel.detectors.conventions.families.classification import CLASSIFICATION
from prelabel.detectors.conventions.families.efficientdet import EFFICIENTDET
from prelabel.detectors.conventions.families.keras_hub import KERAS_HUB
from prelabel.detectors.conventions.families.model_garden import MODEL_GARDEN
from prelabel.detectors.conventions.families.object_detection import OBJECT_DETECTION
from prelabel.detectors.conventions.families.ultralytics import ULTRALYTICS

FAMILIES = (MODEL_GARDEN, OBJECT_DETECTION, ULTRALYTICS, EFFICIENTDET, KERAS_HUB, CLASSIFICATION)

#: All families with their inputs and outputs, for reports.
KNOWN = "; ".join(family.form for family in FAMILIES)

#: Their names, for messages.
NAMES = ", ".join(family.form.partition(" (")[0] for family in FAMILIES)
