"""Other methods to label a folder of JPEGs, which `job.py` compares with `prelabel label`, each in its own process.

    python benchmarks/_ways.py plain|ray-data --pictures DIR --model DIR ...

Prints one JSON object: images, seconds since the model was ready, and further results of the method.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def call_of(model: str) -> Any:
    """A model as `hub.load` gives it, as a function of one (H, W, 3) uint8 tensor -> boxes, scores, classes."""
    import tensorflow as tf
    import tensorflow_hub as hub

    loaded = hub.load(model)
    if callable(loaded):
        network, is_float = loaded, False
    else:
        network, is_float = loaded.signatures["default"], True

    def call(image: Any) -> dict[str, Any]:
        batch = image[tf.newaxis, ...]
        if is_float:
            batch = tf.image.convert_image_dtype(batch, tf.float32)
        answer = network(batch)
        classes = "detection_class_labels" if "detection_class_labels" in answer else "detection_classes"
        return {
            "boxes": answer["detection_boxes"].numpy().reshape(-1, 4),
            "scores": answer["detection_scores"].numpy().ravel(),
            "classes": answer[classes].numpy().ravel(),
        }

    return call


def plain(args: argparse.Namespace) -> dict[str, Any]:
    """The loop of TensorFlow Hub's object detection tutorial, over many images, with results in one Parquet file."""
    import tensorflow as tf

    call = call_of(args.model)
    files = sorted(map(str, args.pictures.glob("*.jpg")))
    call(tf.zeros((480, 640, 3), tf.uint8))
    ready = time.perf_counter()
    rows = []
    for file in files:
        image = tf.image.decode_jpeg(tf.io.read_file(file), channels=3)
        rows.append({"file": file, **{name: value.tolist() for name, value in call(image).items()}})
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), args.to / "results.parquet")
    return {"images": len(rows), "steady_s": time.perf_counter() - ready}


def ray_data(args: argparse.Namespace) -> dict[str, Any]:
    """Batch inference as Ray Data's documentation shows it: read images, run a pool of actors, write Parquet."""
    import ray

    is_shared = args.actors * 1.0 >= len(os.sched_getaffinity(0))
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR", runtime_env={})
    ray.data.DataContext.get_current().enable_progress_bars = False
    threads = 1 if args.actors > 1 else 0
    model, marks = args.model, str(args.to)

    class Detect:
        def __init__(self) -> None:
            sys.path.insert(0, str(Path(__file__).parent))
            import tensorflow as tf

            if threads:
                tf.config.threading.set_intra_op_parallelism_threads(threads)
                tf.config.threading.set_inter_op_parallelism_threads(threads)
            from _ways import call_of

            self.tf, self.call = tf, call_of(model)
            self.call(tf.zeros((480, 640, 3), tf.uint8))
            (Path(marks) / f"ready-{os.getpid()}").write_text(repr(time.time()))

        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            outputs = [self.call(self.tf.constant(image)) for image in batch["image"]]
            return {
                "file": batch["path"],
                **{name: [output[name].tolist() for output in outputs] for name in ("boxes", "scores", "classes")},
            }

    # Actors that take every CPU would leave none to read with.
    reading, detecting = (0.25, 0.75) if is_shared else (1, 1)
    images = ray.data.read_images(
        str(args.pictures), include_paths=True, mode="RGB", ray_remote_args={"num_cpus": reading}
    )
    detected = images.map_batches(
        Detect, compute=ray.data.ActorPoolStrategy(size=args.actors), batch_size=16, num_cpus=detecting
    )
    detected.write_parquet(str(args.to / "results"))
    ended = time.time()
    ready = min(float(mark.read_text()) for mark in args.to.glob("ready-*"))
    import pyarrow.parquet as pq

    count = pq.read_table(args.to / "results", columns=["file"]).num_rows
    ray.shutdown()
    return {"images": count, "steady_s": ended - ready}


WAYS = {"plain": plain, "ray-data": ray_data}


def main() -> None:
    """Run one of the methods."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--actors", type=int, default=1)
    args = parser.parse_args()
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    print(json.dumps(WAYS[args.way](args)))


if __name__ == "__main__":
    main()
