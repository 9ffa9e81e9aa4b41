"""What a measured sample shows about the images of a run, and what its user may want to change before it starts."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prelabel.config import LabelOptions
from prelabel.engine.measurement import SampledImage
from prelabel.engine.progress import too_many
from prelabel.estimates.forecast import likely_share
from prelabel.storage.address import one_line
from prelabel.words import share

#: Share of the images from which a warning about their size or orientation is worth its line.
_MOST, _MANY = 0.5, 0.05


@dataclass(frozen=True, slots=True, repr=False)
class SampleFacts:
    """What the images of the sample are.

    Attributes:
        images: Number of images in the sample.
        seed: The seed that draws the same sample again.
        labeled: Number of images that the detector labeled; the others failed, or time was over.
        failed: Number of images that failed.
        failures: Number of failed images by error class, most frequent first.
        examples: Id and error of an example image, as text, by error class.
        failed_low: Share of all images that fails at least, 0 to 1; with `failed_high`, right in 95 of 100 samples.
        failed_high: Share of all images that fails at most.
        turned: Number of images that EXIF turns or mirrors.
        smallest: Width and height of the image with the fewest pixels, as displayed; None if none could be decoded.
        median: The same of the middle one.
        largest: The same of the one with the most pixels.
        mean_bytes: Mean size of a file; None if none could be read.
        detections_per_image: Mean number of detections of a labeled image.
    """

    images: int
    seed: int
    labeled: int
    failed: int
    failures: Mapping[str, int]
    examples: Mapping[str, str]
    failed_low: float
    failed_high: float
    turned: int
    smallest: tuple[int, int] | None
    median: tuple[int, int] | None
    largest: tuple[int, int] | None
    mean_bytes: float | None
    detections_per_image: float

    def __repr__(self) -> str:
        return f"SampleFacts(images={self.images}, failed={self.failed}, median={self.median})"


def facts_of(sample: Sequence[SampledImage], seed: int, images: int) -> SampleFacts:
    """Summarize a sample.

    Args:
        sample: At least one image.
        seed: Of the sample.
        images: Number of images that it was drawn from.
    """
    failed = [image for image in sample if image.error_type is not None]
    failures = Counter(str(image.error_type) for image in failed)
    examples = {str(image.error_type): one_line(f"{image.image_id}: {image.error}") for image in reversed(failed)}
    sizes = sorted(_sizes(sample), key=lambda size: size[0] * size[1])
    file_sizes = [image.bytes for image in sample if image.bytes is not None]
    labeled = [image for image in sample if image.is_labeled]
    low, high = likely_share(len(failed), len(sample), images)
    return SampleFacts(
        images=len(sample),
        seed=seed,
        labeled=len(labeled),
        failed=len(failed),
        failures=dict(failures.most_common()),
        examples={name: examples[name] for name, _ in failures.most_common()},
        failed_low=low,
        failed_high=high,
        turned=sum((image.exif_orientation or 1) != 1 for image in sample),
        smallest=sizes[0] if sizes else None,
        median=sizes[(len(sizes) - 1) // 2] if sizes else None,
        largest=sizes[-1] if sizes else None,
        mean_bytes=statistics.fmean(file_sizes) if file_sizes else None,
        detections_per_image=statistics.fmean(image.detections for image in labeled) if labeled else 0.0,
    )


def warnings_about(sample: Sequence[SampledImage], options: LabelOptions, input_size: int | None) -> list[str]:
    """What the images of a sample suggest to change or to expect, one line each.

    Args:
        sample: The images.
        options: Options of the run.
        input_size: Pixels of the shorter side at which the detector looks at an image; None if unknown.
    """
    images, warnings = len(sample), []
    failures = Counter(image.error_type for image in sample if image.error_type is not None)
    failed = sum(failures.values())
    if failed == images:
        warnings.append("all images of the sample failed: the run would end with exit code 1")
    elif too_many(options.max_failed, images, failed):
        warnings.append(
            f"{share(failed, images)} of the sample failed, more than --max-failed {options.max_failed:g} allows: the "
            "run would stop"
        )
    if count := failures["ImageTooLargeError"]:
        warnings.append(
            f"{_of(count, images)} larger than --max-pixels or --max-bytes allows: raise the limit, or they become "
            "failed rows"
        )
    if count := failures["TruncatedImageError"]:
        warnings.append(f"{_of(count, images)} truncated: --allow-truncated would accept those with some pixels")
    sizes = _sizes(sample)
    small = sum(input_size is not None and min(size) < input_size for size in sizes)
    if small > _MOST * len(sizes) and options.view_options.is_plain:
        warnings.append(
            f"{_of(small, len(sizes))} smaller than the {input_size} pixels at which the network looks at them: it "
            "enlarges them, and small objects may be missed"
        )
    turned = sum((image.exif_orientation or 1) != 1 for image in sample)
    if turned > _MANY * images:
        warnings.append(
            f"{_of(turned, images)} turned by EXIF: boxes are in pixels of the displayed image, so a tool that ignores "
            "EXIF would show them in the wrong place"
        )
    unlabeled = sum(not image.is_labeled and image.error_type is None for image in sample)
    if unlabeled:
        warnings.append(
            f"the detector is slow: time allowed to label only {images - unlabeled - failed} images of the sample, so "
            "the estimate is rough"
        )
    return warnings


def _sizes(sample: Sequence[SampledImage]) -> list[tuple[int, int]]:
    """Width and height of the images that could be decoded."""
    return [(image.width, image.height) for image in sample if image.width is not None and image.height is not None]


def _of(count: int, images: int) -> str:
    """`8 of 64 images of the sample (12%) are`, with the verb."""
    return f"{count} of {images} images of the sample ({share(count, images)}) {'is' if count == 1 else 'are'}"
