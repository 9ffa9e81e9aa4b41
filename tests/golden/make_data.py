"""How `tests/golden/data` was made: runs with everything odd in them, their photos, truths, and what people made of it.

`python -m tests.golden.make_data` writes it anew. It goes by the columns of plans and shards alone (no module of the
package is imported), so that the data stay what they are whatever becomes of the code; the files are committed,
and nothing needs this script but a change of the data, after which `python -m tests.golden --record` is due.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

DATA = Path(__file__).parent / "data"
#: Where the photos stand when a command looks at them; the run that shows them has this address in its rows.
PHOTOS = "/tmp/prelabel-golden/photos"  # noqa: S108 - a fixed place is what is wanted
CREATED = "2025-03-04T05:06:07+00:00"
STAGES = ("read", "decode", "detect", "encode")

Row = dict[str, Any]
Drawer = Callable[[ImageDraw.ImageDraw], None]

_LABEL = pa.struct([("class", pa.int32()), ("label", pa.string()), ("mid", pa.string()), ("score", pa.float32())])
SHARD = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("file_name", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        *(pa.field(name, pa.string()) for name in ("error_type", "error", "error_stage")),
        *(pa.field(name, pa.int32()) for name in ("height", "width")),
        pa.field("exif_orientation", pa.int8()),
        pa.field("frames", pa.int32()),
        pa.field("bytes", pa.int64()),
        pa.field("sha256", pa.string()),
        pa.field("boxes", pa.list_(pa.list_(pa.float32(), 4)), nullable=False),
        pa.field("classes", pa.list_(pa.int32()), nullable=False),
        pa.field("labels", pa.list_(pa.string()), nullable=False),
        pa.field("mids", pa.list_(pa.string()), nullable=False),
        pa.field("scores", pa.list_(pa.float32()), nullable=False),
        pa.field("masks", pa.list_(pa.string())),
        pa.field("multiclass_scores", pa.list_(pa.list_(pa.float32()))),
        pa.field("image_labels", pa.list_(_LABEL)),
        pa.field("detector", pa.string(), nullable=False),
        pa.field("model_version", pa.string(), nullable=False),
        pa.field("seconds", pa.struct([pa.field(stage, pa.float32()) for stage in STAGES])),
        pa.field("browser_orientation", pa.int8()),
        pa.field("dropped", pa.int32()),
    ]
)
PLAN = pa.schema(
    [
        *(pa.field(name, pa.string(), nullable=False) for name in ("image_id", "uri", "file_name")),
        pa.field("size", pa.int64()),
        pa.field("version", pa.string()),
    ]
)

#: Class number, name, MID: names that spreadsheets, markup, file systems and terminals take for something else.
ODD = (
    (1, "Dog", "/m/0bt9lr"),
    (2, '<b>&"x"', ""),
    (3, "../x", ""),
    (5, "two words", "/m/01yrx"),
    (6, "Hündin 狗", ""),
    (7, "=1+1", ""),
    (9, "back\\slash, comma; 'quote'", ""),
    (11, "Cat", "/m/01yrx0"),
    (90, "never seen", ""),
)
CROWD = ((1, "Dog", "/m/0bt9lr"), (2, "Cat", "/m/01yrx"), (3, "Person", "/m/01g317"), (8, "Toothbrush", "/m/012xff"))


def drawn(height: int, width: int, draw: Drawer) -> str:
    """Compressed counts of a mask that a function draws."""
    image = Image.new("1", (width, height))
    draw(ImageDraw.Draw(image))
    counts: bytes = coco_mask.encode(np.asfortranarray(np.asarray(image, np.uint8)))["counts"]
    return counts.decode()


def found(number: int, score: float, xyxy: Sequence[float], mask: str | None = None, classes: Any = ODD) -> Row:
    """One detection of a class by its number."""
    name, mid = next((name, mid) for known, name, mid in classes if known == number)
    return {"class": number, "label": name, "mid": mid, "score": score, "box": xyxy, "mask": mask}


def row(
    image_id: str, height: int, width: int, *detections: Row, uri: str = "", masks: bool = False, **more: Any
) -> Row:
    """An image that was labelled."""
    digest = hashlib.sha256(image_id.encode()).hexdigest()
    return {
        "image_id": image_id,
        "uri": uri or f"s3://bucket/photos/{image_id}",
        "file_name": image_id,
        "status": "ok",
        "height": height,
        "width": width,
        "frames": 1,
        "bytes": 1000 + len(image_id),
        "sha256": digest,
        "boxes": [detection["box"] for detection in detections],
        "classes": [detection["class"] for detection in detections],
        "labels": [detection["label"] for detection in detections],
        "mids": [detection["mid"] for detection in detections],
        "scores": [detection["score"] for detection in detections],
        "masks": [detection["mask"] for detection in detections] if masks else None,
        "seconds": dict.fromkeys(STAGES, 0.25),
        "dropped": 0,
        **more,
    }


def failed(image_id: str, kind: str, error: str, stage: str, uri: str = "", **more: Any) -> Row:
    """An image that failed."""
    empty: dict[str, list[Any]] = {name: [] for name in ("boxes", "classes", "labels", "mids", "scores")}
    return {
        "image_id": image_id,
        "uri": uri or f"s3://bucket/photos/{image_id}",
        "file_name": image_id,
        "status": "failed",
        "error_type": kind,
        "error": error,
        "error_stage": stage,
        **empty,
        **more,
    }


def write_json(path: Path, values: Any, indent: int | None = 1) -> None:
    """One way on every machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(values, indent=indent, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8", newline="\n")


def write_run(
    name: str,
    rows: Sequence[Row],
    *,
    shard_size: int,
    classes: Sequence[tuple[int, str, str]] | None,
    masks: bool,
    kind: str = "directory",
    signed: int = 0,
    settings: dict[str, Any] | None = None,
) -> None:
    """A finished run below `data/runs`."""
    folder = DATA / "runs" / name
    (folder / "plan").mkdir(parents=True)
    (folder / "shards").mkdir()
    run_id = hashlib.sha256(name.encode()).hexdigest()[:32]
    detector, version = f"{name}-net", f"{name}-net-{run_id[:8]}"
    shards = [rows[start : start + shard_size] for start in range(0, len(rows), shard_size)]
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, PLAN, compression="zstd", write_page_checksum=True) as writer:
        for shard in shards:
            plan = [{**image, "size": image.get("bytes"), "version": None} for image in shard]
            writer.write_table(pa.Table.from_pylist(plan, PLAN))
    part = f"plan-00000-{run_id[:8]}.parquet"
    (folder / "plan" / part).write_bytes(sink.getvalue())
    records = []
    for number, shard in enumerate(shards):
        table = pa.Table.from_pylist(
            [{**image, "detector": detector, "model_version": version} for image in shard], SHARD
        )
        metadata = {"prelabel.schema_version": "1", "prelabel.run_id": run_id, "prelabel.shard": str(number)}
        file = folder / "shards" / f"shard-{number:05d}.parquet"
        pq.write_table(table.replace_schema_metadata(metadata), file, compression="zstd", write_page_checksum=True)
        data = file.read_bytes()
        broken = [image["error_type"] for image in shard if image["status"] == "failed"]
        numbers = [
            str(n)
            for image in shard
            for n, label in zip(image["classes"], image["labels"], strict=True)
            if str(n) == label
        ]
        records.append(
            {
                "shard": number,
                "name": file.name,
                "rows": len(shard),
                "failed": len(broken),
                "detections": sum(len(image["scores"]) for image in shard),
                "bytes": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
                "failures": {kind: broken.count(kind) for kind in sorted(set(broken))},
                "seconds": {**{stage: 0.25 * len(shard) for stage in STAGES}, "write": 0.001 * (number + 1)},
                "dropped": sum(image.get("dropped") or 0 for image in shard),
                "unnamed": {n: numbers.count(n) for n in sorted(set(numbers))},
            }
        )
    all_broken = [row["error_type"] for row in rows if row["status"] == "failed"]
    totals = {
        key: sum(record[key] for record in records) for key in ("rows", "failed", "detections", "dropped", "bytes")
    }
    source = {
        "source": f"{name}.csv" if kind == "list" else "s3://bucket/photos",
        "kind": kind,
        "images": len(rows),
        "bytes": sum(row.get("bytes") or 0 for row in rows),
        "signed": signed,
        "ignored": {},
    }
    write_json(
        folder / "run.json",
        {
            "schema_version": 1,
            "run_id": run_id,
            "created": CREATED,
            "settings": {
                "score_threshold": 0.05,
                "class_threshold": {},
                "include_class": [],
                "exclude_class": [],
                "max_detections": None,
                "nms_iou": None,
                "nms_per_class": True,
                "class_map": {},
                **(settings or {}),
            },
            "source": {"images": len(rows), "bytes": source["bytes"], "sources": [source]},
            "detector": {
                "name": detector,
                "address": f"models/{name}",
                "fingerprint": hashlib.sha256(detector.encode()).hexdigest(),
                "model_version": version,
                "convention": "made by hand",
                "masks": masks,
                "classes": None if classes is None else [{"id": n, "name": c, "mid": m} for n, c, m in classes],
                "reading": {"input_range": {"value": "0..255", "why": "a uint8 input"}},
                "notes": ["an output that is not used: keypoints"],
            },
            "versions": {"prelabel": "0.0.1", "python": "3.11.0"},
            "optimization": {"numbers": "exact", "share": 1.0, "gain": None, "images": 0, "why": ""},
            "retries": [],
            "plan": {
                "images": len(rows),
                "shards": len(shards),
                "shard_size": shard_size,
                "parts": [
                    {
                        "name": part,
                        "first_shard": 0,
                        "shards": len(shards),
                        "images": len(rows),
                        "sha256": hashlib.sha256(sink.getvalue()).hexdigest(),
                    }
                ],
            },
        },
    )
    write_json(
        folder / "manifest.json",
        {
            "schema_version": 1,
            "run_id": run_id,
            "finished": "2025-03-04T05:16:07+00:00",
            "totals": {
                "shards": len(shards),
                **totals,
                "failures": {kind: all_broken.count(kind) for kind in sorted(set(all_broken))},
            },
            "seconds": {"wall": 12.5, "list": 0.5, **dict.fromkeys(STAGES, 2.0), "write": 0.1},
            "runner": "local",
            "shards": records,
        },
    )


def shapes() -> list[Row]:
    """Masks of every kind, boxes of every kind, failures, turns: `data/runs/shapes`."""
    size = (60, 80)

    def ring(draw: ImageDraw.ImageDraw) -> None:
        draw.ellipse((10, 10, 50, 50), fill=1)
        draw.ellipse((20, 20, 40, 40), fill=0)

    def parts(draw: ImageDraw.ImageDraw) -> None:
        draw.rectangle((5, 5, 25, 25), fill=1)
        draw.polygon(((40, 5), (70, 8), (50, 30)), fill=1)
        draw.ellipse((30, 40, 50, 55), fill=1)
        draw.point((78, 58), fill=1)  # far below a hundredth of it

    def holes(draw: ImageDraw.ImageDraw) -> None:
        draw.rectangle((0, 0, 79, 59), fill=1)
        draw.rectangle((10, 10, 20, 20), fill=0)
        draw.rectangle((30, 30, 60, 50), fill=0)
        draw.rectangle((35, 35, 45, 45), fill=1)  # an island in the hole
        draw.point((5, 50), fill=0)

    def diagonal(draw: ImageDraw.ImageDraw) -> None:
        for place in range(5, 40):
            draw.point((place, place), fill=1)

    rows = [
        row(
            "a/1.jpg",
            *size,
            found(1, 0.95, (10, 10, 51, 51), drawn(*size, ring)),
            found(2, 0.8, (5, 5, 71, 56), drawn(*size, parts)),
            found(3, 0.45, (0, 0, 80, 60), drawn(*size, holes)),
            found(5, 0.3, (5, 5, 40, 40), drawn(*size, diagonal)),
            found(
                6, 0.2, (1.25, 2.5, 30.75, 40.125), drawn(*size, lambda draw: draw.rectangle((2, 3, 30, 39), fill=1))
            ),
            masks=True,
        ),
        row("b/1.jpg", *size, masks=True),
        row(
            "b/2 two words.jpg",
            *size,
            found(6, 0.9, (20, 20, 20, 40), drawn(*size, lambda draw: None)),  # a box without width, no mask pixel
            found(7, 0.7, (79.5, 59.5, 80, 60), drawn(*size, lambda draw: draw.point((79, 59), fill=1))),
            found(9, 0.7, (0, 0, 1, 60), drawn(*size, lambda draw: draw.line((0, 0, 0, 59), fill=1))),
            found(11, 0.0500001, (3, 3, 8, 8), drawn(*size, lambda draw: draw.rectangle((3, 3, 7, 7), fill=1))),
            masks=True,
            dropped=2,
        ),
        failed("broken.jpg", "TruncatedImageError", "the end of the image's data is missing", "decode"),
        row("wide.png", 4, 400, found(1, 0.6, (0, 0, 400, 4)), found(1, 0.6, (390, 1, 399.5, 3.5))),
        row("tall.png", 500, 3, found(11, 0.55, (0.5, 100, 2.5, 499.75))),
        row(
            "one pixel.png",
            1,
            1,
            found(1, 0.99, (0, 0, 1, 1), drawn(1, 1, lambda draw: draw.point((0, 0), fill=1))),
            masks=True,
        ),
        failed('gone <b>&"x".jpg', "FetchError", "no such file: \x1b[31mred\x1b[0m <i>&", "read"),
    ]
    for turn in range(1, 9):
        browser = {2: 1, 6: 1, 7: 8}.get(turn)
        mask = drawn(30, 40, lambda draw: draw.polygon(((2, 3), (35, 5), (10, 28)), fill=1))
        detections = (
            found(1, 0.9, (2, 3, 35.5, 28), mask),
            found(2, 0.35, (0, 0, 10.25, 7.5), drawn(30, 40, lambda draw: draw.rectangle((0, 0, 9, 6), fill=1))),
        )
        rows.append(
            row(
                f"turns/{turn}.jpg", 30, 40, *detections, masks=True, exif_orientation=turn, browser_orientation=browser
            )
        )
    rows += [
        row("Ünï/狗 #1%20?.jpg", *size, found(6, 0.66, (10.1, 20.2, 30.3, 40.4)), found(2, 0.31, (0, 0, 80, 60))),
        row(
            "=cmd.jpg",
            *size,
            *(found(11, 0.9 - place / 50, (place, place, place + 20, place + 20)) for place in range(34)),
        ),
    ]
    return rows


def photos() -> list[Row]:
    """Small photos that are really there, with EXIF turns and odd names: `data/photos`, `data/runs/photos`."""
    rng = random.Random(3)
    rows = []
    sizes = {
        "a/1.jpg": (48, 64),
        "b/1.jpg": (64, 48),
        "a/two words.jpg": (40, 40),
        "ü/狗.png": (33, 57),
        "turned 6.jpg": (60, 40),
        "turned.webp": (60, 40),
        "wide.png": (6, 300),
        "tall.png": (200, 5),
    }
    for image_id, (height, width) in sizes.items():
        path = DATA / "photos" / image_id
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.new("RGB", (width, height), tuple(rng.randrange(256) for _ in range(3)))
        draw = ImageDraw.Draw(image)
        box = (width // 8, height // 8, width * 3 // 4, height * 3 // 4)
        draw.rectangle(box, fill=tuple(rng.randrange(256) for _ in range(3)))
        turn = 6 if "turned" in image_id else None
        exif = Image.Exif()
        if turn:
            exif[0x0112] = turn
            image = image.transpose(Image.Transpose.ROTATE_90)
        if path.suffix == ".png":
            image.save(path)
        else:
            image.save(path, quality=90, exif=exif)
        mask = drawn(height, width, lambda draw, box=box: draw.ellipse(box, fill=1))  # type: ignore[misc]
        detections = [found(1, 0.9, (box[0], box[1], box[2] + 1, box[3] + 1), mask)]
        if len(rows) % 2:
            detections.append(found(3, 0.4, (0, 0, width / 2, height / 2), drawn(height, width, lambda draw: None)))
        data = path.read_bytes()
        rows.append(
            row(
                image_id,
                height,
                width,
                *detections,
                uri=f"{PHOTOS}/{image_id}",
                masks=True,
                bytes=len(data),
                sha256=hashlib.sha256(data).hexdigest(),
                exif_orientation=turn,
                browser_orientation=1 if image_id == "turned.webp" else None,
            )
        )
    whole = (DATA / "photos" / "a" / "1.jpg").read_bytes()
    (DATA / "photos" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    uri = f"{PHOTOS}/cut.jpg"
    rows.append(failed("cut.jpg", "TruncatedImageError", "the end of the image's data is missing", "decode", uri))
    rows.append(row("gone.jpg", 20, 20, found(1, 0.5, (1, 1, 9, 9)), uri=f"{PHOTOS}/gone.jpg"))
    return rows


def crowd() -> tuple[list[Row], dict[str, Any]]:
    """Forty images with a truth of which the detections miss some, double some and confuse some."""
    rng = random.Random(11)
    height, width = 120, 160
    truth: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 10 * n, "name": name} for n, name, _ in CROWD],
    }
    rows = []
    for number in range(40):
        detections = []
        image_id = f"{number % 3}/{number:03d}.jpg"
        truth["images"].append({"id": 500 - number, "file_name": image_id, "height": height, "width": width})
        for _ in range(rng.randrange(0, 6)):
            kind = rng.choice(CROWD)[0]
            x, y = rng.randrange(0, width - 40), rng.randrange(0, height - 40)
            w, h = rng.randrange(8, 40), rng.randrange(8, 40)
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": 500 - number,
                    "category_id": 10 * kind,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": int(rng.random() < 0.05),
                    "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                }
            )
            if truth["annotations"][-1]["iscrowd"]:
                counts = drawn(height, width, lambda draw, at=(x, y, x + w - 1, y + h - 1): draw.rectangle(at, fill=1))  # type: ignore[misc]
                truth["annotations"][-1]["segmentation"] = {"size": [height, width], "counts": counts}
            if rng.random() < 0.15:
                continue  # missed
            seen = rng.choice(CROWD)[0] if rng.random() < 0.15 else kind
            for _ in range(1 + (rng.random() < 0.1)):
                dx, dy = rng.randrange(-4, 5), rng.randrange(-4, 5)
                at = (max(0, x + dx), max(0, y + dy), min(width, x + w + dx), min(height, y + h - dy))
                score = round(rng.uniform(0.05, 1), 4)
                mask = drawn(
                    height, width, lambda draw, at=at: draw.ellipse((at[0], at[1], at[2] - 1, at[3] - 1), fill=1)
                )  # type: ignore[misc]
                detections.append(found(seen, score, at, mask, CROWD))
        while rng.random() < 0.4:
            x, y = rng.randrange(0, width - 20), rng.randrange(0, height - 20)
            mask = drawn(height, width, lambda draw, at=(x, y, x + 14, y + 9): draw.rectangle(at, fill=1))  # type: ignore[misc]
            detections.append(
                found(rng.choice(CROWD)[0], round(rng.uniform(0.05, 0.7), 4), (x, y, x + 15, y + 10), mask, CROWD)
            )
        detections.sort(key=lambda detection: -detection["score"])
        rows.append(row(image_id, height, width, *detections, masks=True))
    return rows, truth


def people(tasks: list[Row], rng: random.Random) -> list[Row]:
    """Label Studio's own export of tasks in which people deleted, moved, relabeled and drew regions."""
    for number, task in enumerate(tasks, start=1):
        (prediction,) = task["predictions"]
        result = copy.deepcopy(prediction["result"])
        kept = []
        for region in result:
            fate = rng.random()
            if fate < 0.2:
                continue
            value = region["value"]
            if fate < 0.4 and "width" in value:
                value["x"], value["width"] = max(0.0, value["x"] - 3), value["width"] * 0.8
            elif fate < 0.5:
                kind = next(name for name in ("rectanglelabels", "polygonlabels", "brushlabels") if name in value)
                value[kind] = ["Cat"]
            kept.append(region)
        if number % 4 == 0:
            size = {"original_width": 160, "original_height": 120, "image_rotation": 0}
            box = {"x": 5, "y": 5, "width": 10, "height": 12, "rotation": 0, "rectanglelabels": ["Person"]}
            drawn_by_hand = {"id": f"new{number}", "type": "rectanglelabels", "from_name": "label", "to_name": "image"}
            kept.append({**drawn_by_hand, **size, "value": box})
        started_from = {"id": 100 + number, **copy.deepcopy(prediction)}
        task.update(id=number, predictions=[100 + number], drafts=[])
        task["annotations"] = [
            {
                "id": 10 + number,
                "completed_by": 1 + number % 2,
                "was_cancelled": number % 13 == 0,
                "ground_truth": False,
                "updated_at": "2025-03-05T00:00:00Z",
                "lead_time": 10.0 + number,
                **({} if number % 5 == 0 else {"prediction": started_from, "parent_prediction": 100 + number}),
                "result": kept,
            }
        ]
    return tasks


def prelabel(*arguments: str | Path) -> None:
    """The command line, on what was written so far."""
    subprocess.run([sys.executable, "-m", "prelabel", *map(str, arguments)], check=True, capture_output=True)


def write_maps(folder: Path) -> None:
    """Label maps, lists of thresholds and names, job files: right ones and wrong ones."""
    folder.mkdir(parents=True)
    files = {
        "crowd.pbtxt": "".join(
            f'item {{ id: {20 + n} name: "{mid}" display_name: "{name}" }}\n' for n, name, mid in CROWD
        ),
        "crowd.csv": "id,name,mid\n" + "".join(f"{30 + n},{name},{mid}\n" for n, name, mid in CROWD),
        "names.json": json.dumps([name for _, name, _ in CROWD]),
        "odd.json": json.dumps({str(n): name for n, name, _ in ODD}, ensure_ascii=False),
        "few.txt": "Dog\nCat\n",
        "without-numbers.csv": "a,b,c\n1,2\n",
        "doubled.json": '{"1": "Dog", "1": "Cat"}',
        "empty.txt": "",
        "thresholds.yaml": "Dog: 0.5\nCat: 0.25\n'*': 0.4\n",
        "wrong-thresholds.yaml": "Dog: 2\n",
        "classes.csv": "Dog,pet\nCat,pet\n",
        "labels.xml": '<View><Image name="picture" value="$image"/><RectangleLabels name="box" toName="picture">'
        '<Label value="Dog"/><Label value="Cat"/></RectangleLabels></View>\n',
        "labels-all.xml": '<View><Image name="picture" value="$image"/><PolygonLabels name="shape" toName="picture">'
        + "".join(f'<Label value="{name}"/>' for _, name, _ in CROWD)
        + "</PolygonLabels></View>\n",
        "no-image.xml": "<View><Text name='t' value='$t'/></View>\n",
        "broken.xml": "<View>",
        "job.yaml": "source: [photos]\ndetector: demo-shapes\noutput: out\nunknown-option: 1\n",
        "job-type.yaml": "source: [photos]\ndetector: demo-shapes\noutput: out\nscore-threshold: high\n",
        "job.toml": "source = ['photos']\ndetector = 'demo-shapes'\n",
        "broken.json": '{"images": [',
        "list.json": "[1, 2]",
        "no-images.json": '{"images": [], "annotations": [], "categories": []}',
        "list.csv": "image,name\nphotos/a.jpg,x\n",
        "empty.csv": "uri\n",
        "twice.csv": "uri,image_id\nphotos/a.jpg,x\nphotos/b.jpg,x\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
    (folder / "not-utf8.txt").write_bytes(b"Dog\n\xff\xfe\n")
    (folder / "zipped.json").write_bytes(b"PK\x03\x04" + bytes(30))


def main() -> None:
    """Write everything anew."""
    shutil.rmtree(DATA, ignore_errors=True)
    write_run("shapes", shapes(), shard_size=5, classes=ODD, masks=True)
    write_run("photos", photos(), shard_size=4, classes=ODD, masks=True)
    rows, truth = crowd()
    write_run("crowd", rows, shard_size=16, classes=CROWD, masks=True)
    write_json(DATA / "truth" / "crowd.json", truth, indent=None)
    with_mids = copy.deepcopy(truth)
    for category, (_, _, mid) in zip(with_mids["categories"], CROWD, strict=True):
        category["name"], category["freebase_id"] = category["name"].upper(), mid
    with_mids["categories"].append({"id": 77, "name": "Unicorn"})
    for image in with_mids["images"]:
        image["file_name"] = "other/" + image["file_name"].rpartition("/")[2].replace(".jpg", ".png")
    write_json(DATA / "truth" / "crowd-stems.json", with_mids, indent=None)
    turned = [image for image in shapes() if image["image_id"].startswith("turns/")]
    images, annotations = [], []
    for number, annotation in enumerate(turned, start=1):
        upright = number < 5
        images.append(
            {
                "id": number,
                "file_name": annotation["image_id"],
                "height": 30 if upright else 40,
                "width": 40 if upright else 30,
            }
        )
        box = [2, 3, 33, 25] if upright else [3, 2, 25, 33]
        annotations.append({"id": number, "image_id": number, "category_id": 1, "bbox": box, "area": 825, "iscrowd": 0})
    write_json(
        DATA / "truth" / "turns.json",
        {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "Dog"}]},
    )
    many = [(n, f"class {n:03d}", f"/m/{n:03d}") for n in range(1, 131)]
    rows = [
        row(
            f"{number}.png",
            50,
            50,
            *(found(1 + (number * 7 + k * 3) % 130, 0.9 - k / 10, (k, k, 20 + k, 30), None, many) for k in range(4)),
            uri=f"https://images.example/{number}.png",
        )
        for number in range(9)
    ]
    write_run("many", rows, shard_size=4, classes=many, masks=False, kind="list")
    own = [(446, "Dog", "/m/0bt9lr"), (122, "Cat", "/m/01yrx"), (8, "8", ""), (9, "Größe <1>", "/m/0")]
    rows = [
        row(
            f"{number:02d}.jpg",
            50,
            70,
            *(
                found(own[(number + k) % 4][0], 0.95 - k / 9, (k, 2 * k, 30 + k, 40), None, own)
                for k in range(number % 5)
            ),
            uri=f"https://user-images.example/x/{number:02d}.jpg",
            multiclass_scores=[[0.5, 0.25] for _ in range(number % 5)],
        )
        for number in range(12)
    ]
    kept = {"class_threshold": {"Dog": 0.6}, "class_map": {"Kitten": "Cat"}, "max_detections": 10}
    write_run("named", rows, shard_size=5, classes=None, masks=False, kind="list", signed=12, settings=kept)
    labels = [
        row(
            f"{number}.jpg",
            32,
            32,
            image_labels=[
                {"class": n, "label": name, "mid": mid, "score": round(0.8 / (place + 1), 4)}
                for place, (n, name, mid) in enumerate(ODD[number % 3 : number % 3 + 3])
            ],
        )
        for number in range(5)
    ]
    write_run(
        "labels",
        [*labels, failed("x.jpg", "DecodeError", "no picture", "decode")],
        shard_size=3,
        classes=ODD,
        masks=False,
    )
    tasks = [
        row(
            f"{7 + n}/a b{n}.jpg",
            40,
            50,
            found(1, 0.8, (1, 2, 30, 30)),
            uri=f"label-studio://server:8080/data/upload/{n}.jpg",
        )
        for n in range(3)
    ]
    write_run("tasks", tasks, shard_size=4, classes=ODD, masks=False, kind="label-studio")
    write_run("nothing", [row(f"{n}.jpg", 10, 12, masks=True) for n in range(3)], shard_size=2, classes=ODD, masks=True)
    write_run(
        "failures",
        [failed(f"{n}.jpg", f"{'AB'[n % 2]}Error", f"reason {n}", "read") for n in range(5)],
        shard_size=2,
        classes=ODD,
        masks=True,
    )
    write_maps(DATA / "files")
    made = DATA / "made"
    for shape in ("rectangle", "polygon", "brush"):
        prelabel("export", "label-studio", DATA / "runs" / "crowd", "--to", made, "--shape", shape)
        tasks = json.loads((made / "tasks-00000.json").read_text())
        write_json(DATA / "annotations" / f"crowd-{shape}.json", people(tasks, random.Random(5)), indent=None)
    prelabel("export", "coco", DATA / "runs" / "crowd", "--to", made / "coco.json")
    dataset = json.loads((made / "coco.json").read_text())
    rng = random.Random(6)
    dataset["annotations"] = [annotation for annotation in dataset["annotations"] if rng.random() > 0.2]
    for annotation in dataset["annotations"]:
        if rng.random() < 0.2:
            annotation["bbox"][0] = max(0, annotation["bbox"][0] - 4)
        annotation.pop("score", None)
        annotation.pop("segmentation", None)
    write_json(DATA / "annotations" / "crowd-coco.json", dataset, indent=None)
    shutil.rmtree(made)
    shutil.rmtree(DATA / "runs" / "crowd" / "exports")


if __name__ == "__main__":
    main()
