"""How a run's options become the decoder's."""

from __future__ import annotations

from prelabel.config import LabelOptions
from prelabel.engine.worker import Spec, reading_of
from prelabel.source.decode import DecodeOptions
from prelabel.storage import Storage
from prelabel.store.run import DetectorRecord

DETECTOR = DetectorRecord("d", "/models/d", "0" * 64, "d-00000000", "test", False, None)


def decoding(working_size: int | None, **options: object) -> DecodeOptions:
    stated = {"source": ("photos",), "detector": "d", "output": "out", **options}
    spec = Spec(LabelOptions(**stated), "run", (), DETECTOR, owner="me")  # type: ignore[arg-type]
    return reading_of(spec, Storage(), working_size).decoding


def test_pictures_are_decoded_in_full_unless_stated_otherwise() -> None:
    assert decoding(300).shortest_side is None


def test_reduced_pictures_keep_twice_what_the_detector_looks_at() -> None:
    assert decoding(300, decode_scale="auto").shortest_side == 600


def test_a_detector_that_does_not_say_what_it_looks_at_gets_all() -> None:
    assert decoding(None, decode_scale="auto").shortest_side is None


def test_limits_are_those_of_the_run() -> None:
    limits = decoding(None, max_pixels=7, max_bytes=8, allow_truncated=True)
    assert (limits.max_pixels, limits.max_bytes, limits.allow_truncated) == (7, 8, True)
