"""From a folder of images to tasks for Label Studio, in Python.

    python examples/label_to_label_studio.py photos/ openimages-ssd-mobilenet-v2 out/

writes the run to `out/run`, a gallery to `out/preview` and the tasks to `out/label-studio`. To try it without photos,
draw some first with `prelabel synth --images 20 --to scenes` and use the detector `demo-shapes`.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import prelabel


def main(photos: str, detector: str, to: str) -> None:
    """Label the images, look at the result, and write tasks of what is worth correcting."""
    run_folder = Path(to) / "run"

    # Everything with a score of 0.05 or more is stored; thresholds are chosen later, without the detector.
    summary = prelabel.label(photos, detector=detector, output=run_folder, runner="local")
    print(summary)
    for error, count in summary.failures.items():
        print(f"{count} images failed with {error}, for example {summary.examples.get(error)}")

    # The rows are in the order of the source. Coordinates are pixels of the displayed image: x1 y1 x2 y2.
    run = prelabel.open_run(run_folder)
    labels: Counter[str] = Counter()
    for row in run.rows():
        if row.detections is not None:
            sure = row.detections[row.detections.score >= 0.5]
            labels.update(sure.label)
    print("most frequent:", labels.most_common(3))

    page = prelabel.preview(run, Path(to) / "preview")
    print("open in a browser:", page.files[0])

    tasks = prelabel.export_label_studio(run, Path(to) / "label-studio", score_threshold=0.4, shape="rectangle")
    print(tasks)
    for warning in tasks.warnings:
        print("note:", warning)


if __name__ == "__main__":
    main(*sys.argv[1:])
