"""Read a run with DuckDB, pandas, Polars and Hugging Face `datasets`.

    python -m pip install datasets duckdb pandas polars
    python examples/read_a_run.py out/run

A run stores plain Parquet files, one row per image. The columns `labels`, `scores`, `boxes` and `masks` hold lists with
one entry per detection. Each library below counts the detections of each class with a score of 0.3 or more. All of them
read remote runs as well (`s3://bucket/run/shards/*.parquet`).
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import datasets
import duckdb
import pandas as pd
import polars as pl

import prelabel


def with_duckdb(shards: str) -> dict[str, int]:
    """SQL over all shards, without loading them."""
    query = """
        SELECT label, count(*)
        FROM (SELECT unnest(labels) AS label, unnest(scores) AS score FROM read_parquet(?))
        WHERE score >= 0.3 GROUP BY label
    """
    rows = duckdb.execute(query, [shards]).fetchall()
    return dict(rows)


def with_pandas(folder: Path) -> dict[str, int]:
    """One row per detection in memory; name the columns, since masks are large."""
    frame = pd.read_parquet(folder, columns=["image_id", "labels", "scores"])
    detections = frame.explode(["labels", "scores"]).dropna(subset="labels")
    return detections[detections["scores"] >= 0.3]["labels"].value_counts().to_dict()


def with_polars(shards: str) -> dict[str, int]:
    """A lazy query: only the columns that it needs are read."""
    detections = pl.scan_parquet(shards).select("labels", "scores").explode("labels", "scores")
    counts = detections.filter(pl.col("scores") >= 0.3).group_by("labels").len().collect()
    return dict(counts.iter_rows())


def with_datasets(shards: list[str]) -> dict[str, int]:
    """A dataset for training. `uri` cast to `Image` opens the images themselves, of local paths and URLs."""
    dataset = datasets.Dataset.from_parquet(shards, columns=["uri", "labels", "scores"])
    with_images = dataset.rename_column("uri", "image").cast_column("image", datasets.Image())
    print("the first image is", with_images[0]["image"].size)
    counts: Counter[str] = Counter()
    for row in dataset:
        counts.update(label for label, score in zip(row["labels"], row["scores"], strict=True) if score >= 0.3)
    return dict(counts)


def with_prelabel(run: str) -> dict[str, int]:
    """Typed rows: arrays per image, and masks as pixels."""
    counts: Counter[str] = Counter()
    for row in prelabel.open_run(run).rows():
        if row.detections is None:
            continue  # the image failed: row.error says why
        kept = row.detections[row.detections.score >= 0.3]
        counts.update(kept.label)
        if kept.mask is not None and len(kept):
            masks = kept.decode_masks()  # (N, height, width) bool
            print(f"{row.image_id}: the objects cover {masks.any(axis=0).mean():.0%} of the image")
    return dict(counts)


def main(run: str) -> None:
    """Print the same counts five times."""
    folder = Path(run) / "shards"
    shards = f"{folder}/*.parquet"
    counts = {
        "duckdb": with_duckdb(shards),
        "pandas": with_pandas(folder),
        "polars": with_polars(shards),
        "datasets": with_datasets(sorted(map(str, folder.glob("*.parquet")))),
        "prelabel": with_prelabel(run),
    }
    for library, by_label in counts.items():
        print(f"{library}:", ", ".join(f"{label} {count}" for label, count in sorted(by_label.items())))


if __name__ == "__main__":
    main(*sys.argv[1:])
