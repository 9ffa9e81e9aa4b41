"""How messages and tables show durations, counts, sizes, shares, saved work, and how to install an extra."""

from __future__ import annotations

import shlex

#: The package that each extra installs.
EXTRAS = {
    "s3": "s3fs",
    "gcs": "gcsfs",
    "azure": "adlfs",
    "gpu": "tensorflow[and-cuda]",
    "heif": "pillow-heif",
    "evaluate": "faster-coco-eval",
}


def install_hint(extra: str) -> str:
    """How to install an extra, for a message: with pip, and with uvx, whose environments pip does not reach."""
    return f"run `pip install 'prelabel[{extra}]'`, or under uvx add `--with {shlex.quote(EXTRAS[extra])}`"


def duration(seconds: float) -> str:
    """A duration, exact to about one percent.

    >>> [duration(seconds) for seconds in (0.04, 9.4, 75, 1000, 3723, 200_000)]
    ['0.0 s', '9.4 s', '1 min 15 s', '17 min', '1 h 2 min', '2 d 8 h']
    """
    whole, minutes, hours = round(seconds), round(seconds / 60), round(seconds / 3600)
    if whole < 60:
        return f"{seconds:.1f} s" if round(seconds, 1) < 10 else f"{whole} s"
    if whole < 600:
        return _two_units(whole, 60, "min", "s")
    if minutes < 60:
        return f"{minutes} min"
    return _two_units(minutes, 60, "h", "min") if minutes < 24 * 60 else _two_units(hours, 24, "d", "h")


def _two_units(number: int, per_unit: int, unit: str, small_unit: str) -> str:
    units, rest = divmod(number, per_unit)
    return f"{units:,} {unit}" + (f" {rest} {small_unit}" if rest else "")


def counted(count: int, noun: str, plural: str = "") -> str:
    """A count and a noun in the singular or plural: `1 image`, `2,000 images`."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def rounded(value: float) -> str:
    """A number that need not be exact: whole from 10 on, below with one decimal unless that is 0."""
    return f"{value:,.0f}" if value >= 9.95 else f"{value:.1f}".removesuffix(".0")


def size(count: float) -> str:
    """A number of bytes, exact to a few percent: `640 bytes`, `12 kB`, `1.5 GB`.

    >>> [size(count) for count in (640, 12_345, 1_234_567, 987_654_321_000)]
    ['640 bytes', '12 kB', '1.2 MB', '988 GB']
    """
    units = ("bytes", "kB", "MB", "GB", "TB")
    power = 0
    while count >= 999.5 and power < len(units) - 1:
        count, power = count / 1000, power + 1
    return f"{rounded(count)} {units[power]}"


def share(count: int, whole: int) -> str:
    """A share in percent: `62%`. Only nothing is `0%` and only everything `100%`; `-` if there is no whole."""
    if not whole:
        return "-"
    percent = round(100 * count / whole)
    if percent == 0 and count:
        return "<1%"
    return ">99%" if percent == 100 and count < whole else f"{percent:,}%"


def saving(corrections: int, boxes: int) -> str:
    """How corrections compare with drawing all boxes: `16% less work`, `63% more work`, `as much work`."""
    if corrections == boxes:
        return "as much work"
    return f"{share(abs(corrections - boxes), boxes)} {'less' if corrections < boxes else 'more'} work"
