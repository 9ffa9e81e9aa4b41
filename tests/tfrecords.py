"""TFRecord files made in tests, without TensorFlow."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import google_crc32c

#: Values of a feature: bytes or text, floats, or integers.
Values = Sequence[bytes | str] | Sequence[float] | Sequence[int]


def field(number: int, data: bytes) -> bytes:
    """A field of a message."""
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint(value: int) -> bytes:
    """A number of a message; negative ones as 64 bits."""
    value &= (1 << 64) - 1
    data = bytearray()
    while value > 127:
        data.append(value & 127 | 128)
        value >>= 7
    return bytes((*data, value))


def feature(values: Values) -> bytes:
    """A `tf.train.Feature`."""
    if values and isinstance(values[0], bytes | str):
        return field(1, b"".join(field(1, v.encode() if isinstance(v, str) else v) for v in values))  # type: ignore[union-attr]
    if values and isinstance(values[0], float):
        return field(2, field(1, struct.pack(f"<{len(values)}f", *values)))
    return field(3, field(1, b"".join(map(varint, values)))) if values else b""  # type: ignore[arg-type]


def example(features: Mapping[str, Values]) -> bytes:
    """A `tf.train.Example`."""
    pairs = (field(1, field(1, name.encode()) + field(2, feature(values))) for name, values in features.items())
    return field(1, b"".join(pairs))


def checksum(data: bytes) -> bytes:
    """The masked checksum of data, as it is stored."""
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def record(data: bytes) -> bytes:
    """A record."""
    length = struct.pack("<Q", len(data))
    return length + checksum(length) + data + checksum(data)


def tfrecord_of(images: Mapping[str, bytes], order: Iterable[str] = ("image/filename", "image/encoded")) -> bytes:
    """A file with a record for each image, as the Object Detection API writes it, with these features in this order."""
    return b"".join(
        record(example({name: [text if name == "image/filename" else data] for name in order}))
        for text, data in images.items()
    )


def coco_examples(
    coco: Mapping[str, Any],
    image_of: Callable[[str], bytes] = lambda name: b"",
    mask_of: Callable[[Mapping[str, Any]], bytes] | None = None,
) -> list[bytes]:
    """The images of a COCO dataset as the Object Detection API's `create_coco_tf_record` writes it.

    Args:
        coco: The dataset.
        image_of: The bytes of an image, by its file name.
        mask_of: The PNG of an annotation; None without masks.
    """
    names = {category["id"]: category["name"] for category in coco["categories"]}
    objects: dict[Any, list[Mapping[str, Any]]] = {}
    for annotation in coco["annotations"]:
        objects.setdefault(annotation["image_id"], []).append(annotation)
    examples = []
    for image in coco["images"]:
        height, width, found = image["height"], image["width"], objects.get(image["id"], [])
        boxes = [annotation["bbox"] for annotation in found]
        features: dict[str, Values] = {
            "image/height": [height],
            "image/width": [width],
            "image/filename": [image["file_name"]],
            "image/source_id": [str(image["id"])],
            "image/encoded": [image_of(image["file_name"])],
            "image/format": ["jpeg"],
            "image/object/bbox/xmin": [float(x) / width for x, _, _, _ in boxes],
            "image/object/bbox/xmax": [float(x + w) / width for x, _, w, _ in boxes],
            "image/object/bbox/ymin": [float(y) / height for _, y, _, _ in boxes],
            "image/object/bbox/ymax": [float(y + h) / height for _, y, _, h in boxes],
            "image/object/class/text": [names[annotation["category_id"]] for annotation in found],
            "image/object/class/label": [annotation["category_id"] for annotation in found],
            "image/object/is_crowd": [annotation.get("iscrowd", 0) for annotation in found],
            "image/object/area": [float(annotation.get("area", 0)) for annotation in found],
        }
        if mask_of is not None:
            features["image/object/mask"] = [mask_of(annotation) for annotation in found]
        examples.append(example(features))
    return examples


def coco_records(coco: Mapping[str, Any], **options: Any) -> bytes:
    """A file of `coco_examples`."""
    return b"".join(map(record, coco_examples(coco, **options)))
