"""Pre-label image datasets at scale: images in object storage -> detectors on Ray -> Parquet -> COCO, Label Studio."""

__version__ = "0.1.0"
