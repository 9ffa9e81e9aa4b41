"""`prelabel demo`, which runs all main commands on synthetic scenes, and `prelabel synth`, which draws the scenes.

The demo runs only public commands, one after the other, in this process.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from functools import partial

import click

from prelabel.cli.command import Command, local_folder, program, storage_of, storage_option
from prelabel.errors import ConfigError

EVALUATION = "compare with the ground truth and choose thresholds"
_SEED = "Set the random seed; the same seed draws the same scenes."


@click.command(
    cls=Command, examples=("prelabel demo --to out/demo",), short_help="Run all main commands on synthetic scenes."
)
@click.option(
    "--to",
    default="out/demo",
    show_default=True,
    metavar="DIR",
    callback=local_folder,
    help="Write everything into this folder.",
)
@click.option(
    "--images", type=click.IntRange(min=1), default=200, show_default=True, metavar="N", help="Draw N scenes."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N", help=_SEED)
@click.pass_context
def demo(ctx: click.Context, to: str, images: int, seed: int) -> None:
    """Run the main commands one after the other on synthetic scenes, without photos, model weights or a network."""
    call = partial(ctx.find_root().command.main, standalone_mode=False)
    click.echo(closing(to, run_demo(to, images, seed, call, echo=click.echo)))


def commands(to: str, images: int, seed: int, evaluate: bool) -> list[tuple[str, list[str]]]:
    """The purpose and arguments of each command of the demo; exports use the suggested thresholds if it evaluates."""
    scenes, run = f"{to}/scenes", f"{to}/run"
    evaluation = (EVALUATION, ["evaluate", run, "--truth", f"{scenes}/instances.json", "--to", f"{to}/evaluation"])
    thresholds = ["--class-threshold", f"{to}/evaluation/thresholds.yaml"] if evaluate else []
    return [
        ("draw scenes with ground truth", ["synth", "--images", str(images), "--seed", str(seed), "--to", scenes]),
        (
            "label them on Ray, and keep low scores, so that exports can choose",
            ["label", scenes, "--detector", "demo-shapes", "--output", run, "--ray-address", "local"],
        ),
        ("check that the run is complete", ["verify", run]),
        *([evaluation] if evaluate else []),
        ("write a COCO file", ["export", "coco", run, "--to", f"{to}/coco.json", *thresholds]),
        ("write Label Studio tasks", ["export", "label-studio", run, "--to", f"{to}/label-studio", *thresholds]),
        ("make a web page of images and detections", ["preview", run, "--to", f"{to}/preview"]),
    ]


def run_demo(
    to: str, images: int, seed: int, call: Callable[[list[str]], object], echo: Callable[[str], None]
) -> list[tuple[str, float]]:
    """Print and run the commands one after the other; skip the evaluation if its extra is not installed.

    Args:
        to: Folder for all output.
        images: Number of scenes.
        seed: Seed of the scenes.
        call: Runs a `prelabel` command; its exceptions end the demo.
        echo: Prints a line.

    Returns:
        The purpose of each command, and its duration in seconds.
    """
    from prelabel.review.coco_scores import import_faster_coco_eval

    evaluate = True
    try:
        import_faster_coco_eval()
    except ConfigError as missing:
        evaluate = False
        echo(f"Skipped: {missing}")
    durations = []
    for purpose, arguments in commands(to, images, seed, evaluate):
        echo(f"\n# {purpose}\n$ prelabel {shlex.join(arguments)}")
        start = time.perf_counter()
        call(arguments)
        durations.append((purpose, time.perf_counter() - start))
    return durations


def closing(to: str, durations: Sequence[tuple[str, float]]) -> str:
    """The steps with their durations, the files to look at, and the next commands."""
    from prelabel.console import table
    from prelabel.words import duration

    steps = [*durations, ("total", sum(seconds for _, seconds in durations))]
    evaluated = any(purpose == EVALUATION for purpose, _ in durations)
    files = [
        ["images and detections", f"{to}/preview/index.html"],
        *([["evaluation", f"{to}/evaluation/evaluation.html"]] if evaluated else []),
        ["Label Studio tasks", f"{to}/label-studio/"],
        ["COCO file", f"{to}/coco.json"],
        ["rows (Parquet)", f"{to}/run/shards/"],
    ]
    # Photos have no ground truth from which to choose a threshold per class.
    following = (
        "label YOUR_PHOTOS --detector openimages-ssd-mobilenet-v2 --output out/run",
        "preview out/run --to out/preview --score-threshold 0.4",
        "export label-studio out/run --to out/tasks --score-threshold 0.4",
    )
    return "\n".join(
        [
            "",
            table("Done", [[purpose, duration(seconds)] for purpose, seconds in steps]),
            "",
            table("Look at", files),
            "",
            "Next, on your own photos:",
            *(f"  {program()} {command}" for command in following),
        ]
    )


@click.command(
    cls=Command,
    examples=("prelabel synth --images 50 --to out/scenes",),
    short_help="Draw synthetic scenes with their ground truth.",
)
@click.option(
    "--to", required=True, metavar="DIR", callback=local_folder, help="Write into this folder or storage prefix."
)
@click.option(
    "--images", type=click.IntRange(min=1), default=200, show_default=True, metavar="N", help="Draw N scenes."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N", help=_SEED)
@click.option(
    "--workers", type=click.IntRange(min=1), default=1, show_default=True, metavar="N", help="Draw in N processes."
)
@storage_option
def synth(images: int, seed: int, to: str, workers: int, storage_options: str | None) -> None:
    """Draw scenes of shapes and letters with their ground truth (instances.json, COCO), for trials and tests.

    The images depend only on the seed. The built-in detector demo-shapes detects the shapes in them.
    """
    from prelabel.synth.dataset import make_scenes

    dataset = make_scenes(to, images, seed, workers=workers, storage=storage_of(storage_options))
    click.echo(f"{dataset.images:,} scenes with {dataset.instances:,} objects; truth in {dataset.truth}")
