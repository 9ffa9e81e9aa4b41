"""`prelabel demo`: the whole product on made-up scenes, with the public commands only."""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from collections.abc import Callable, Sequence

from prelabel.errors import ConfigError

#: Runs one `prelabel` command in this process.
Call = Callable[[Sequence[str]], None]

EVALUATION = "compare with the truth and choose thresholds"


def commands(to: str, images: int, seed: int, evaluate: bool) -> list[tuple[str, list[str]]]:
    """What the demonstration runs, each with what it is for; the exports use what is evaluated, where it is."""
    scenes, run = f"{to}/scenes", f"{to}/run"
    evaluation = (
        EVALUATION,
        ["evaluate", run, "--truth", f"{scenes}/instances.json", "--to", f"{to}/evaluation"],
    )
    chosen = ["--class-threshold", f"{to}/evaluation/thresholds.yaml"] if evaluate else []
    return [
        ("draw scenes and their truth", ["synth", "--images", str(images), "--seed", str(seed), "--to", scenes]),
        (
            "label them on a Ray of this machine; unlikely detections are kept, too: the exports choose",
            ["label", scenes, "--detector", "demo-shapes", "--output", run, "--runner", "ray"],
        ),
        ("prove that nothing is missing", ["verify", run]),
        *([evaluation] if evaluate else []),
        ("write a COCO file", ["export", "coco", run, "--to", f"{to}/coco.json", *chosen]),
        ("write Label Studio tasks", ["export", "label-studio", run, "--to", f"{to}/label-studio", *chosen]),
        ("make a page to look at", ["preview", run, "--to", f"{to}/preview"]),
    ]


def run_demo(to: str, images: int, seed: int, call: Call, say: Callable[[str], None]) -> list[tuple[str, float]]:
    """Run the commands one after the other, saying each before it runs; evaluation only where its extra is installed.

    Args:
        to: Folder for everything.
        images: Scenes to draw.
        seed: Which world.
        call: Runs one command; what it raises ends the demonstration.
        say: Shows a line.

    Returns:
        Each command's purpose and seconds.
    """
    from prelabel.evaluate.coco_scores import require_pycocotools

    evaluate = True
    try:
        require_pycocotools()
    except ConfigError as missing:
        evaluate = False
        say(f"Left out: {missing}")
    took = []
    for what, arguments in commands(to, images, seed, evaluate):
        say(f"\n# {what}\n$ prelabel {shlex.join(arguments)}")
        start = time.perf_counter()
        call(arguments)
        took.append((what, time.perf_counter() - start))
    return took


def closing(to: str, took: Sequence[tuple[str, float]]) -> str:
    """What was done, how long each step took, what to look at, and what to try next."""
    from prelabel.console import table

    total = sum(seconds for _, seconds in took)
    rows = [[what, f"{seconds:.1f} s"] for what, seconds in took]
    evaluated = any(what == EVALUATION for what, _ in took)
    look = [
        ["the pictures", f"{to}/preview/index.html"],
        *([["how good it is", f"{to}/evaluation/evaluation.html"]] if evaluated else []),
        ["for Label Studio", f"{to}/label-studio/"],
        ["for COCO tools", f"{to}/coco.json"],
        ["the rows", f"{to}/run/shards/"],
    ]
    # `make demo` leaves no environment active.
    program = "prelabel" if shutil.which("prelabel") else shlex.quote(sys.argv[0])
    following = f"{program} label YOUR_PHOTOS --detector openimages-ssd-mobilenet-v2 --output out/run"
    return "\n".join(
        [
            "",
            table("Done", [*rows, ["in all", f"{total:.1f} s"]]),
            "",
            table("Look at", look),
            "",
            f"Next, on your own photos:\n  {following}",
        ]
    )
