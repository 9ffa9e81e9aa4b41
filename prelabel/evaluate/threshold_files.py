"""Thresholds as files that `--class-threshold` takes, with the default for classes that they do not name.

"*": 0.34
"Dog": 0.6
"Cat": 0.21
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from prelabel.evaluate.evaluation import Evaluation
from prelabel.evaluate.thresholds import best_f1
from prelabel.select import OTHERS
from prelabel.store.run import ClassName

#: YAML's other escapes are not needed: everything outside printable text is written by its number.
_SHORT = {'"': '\\"', "\\": "\\\\"}


def suggested_file(done: Evaluation) -> str:
    """The suggested thresholds: fewest corrections. Classes at the common one are not named."""
    head = f"Score thresholds for {done.info.model_version} with the fewest corrections on {done.work.images} images."
    entries = [(key, done.work.by_class[name].suggested.threshold) for name, key in _keys(done)]
    return threshold_file(head, done.work.common.threshold, unlike(done.work.common.threshold, entries))


def f1_file(done: Evaluation) -> str:
    """The thresholds of best F1; the suggested one for a class of which nothing was found rightly."""
    head = (
        f"Score thresholds for {done.info.model_version} with the best F1 of each class on {done.work.images} images.\n"
        "They keep more boxes than save work: thresholds.yaml has those with the fewest corrections."
    )
    cuts = [(key, done.work.by_class[name].f1 or done.work.by_class[name].suggested) for name, key in _keys(done)]
    default = best_f1(done.together, done.work.common.threshold) or done.work.common
    return threshold_file(head, default.threshold, [(key, cut.threshold) for key, cut in cuts])


def _keys(done: Evaluation) -> Iterator[tuple[str, str]]:
    """The truth's name of each class, and what the detector calls it: its label, or its MID where two share a label."""
    members = [(name, one) for name, several in done.classes.matched.items() for one in several]
    shared = Counter(label.casefold() for label, _ in {(one.name, one.mid) for _, one in members})
    shared.update(name.casefold() for name in done.classes.only_run)
    seen: set[str] = set()
    for name, one in members:
        key = _key(one, shared)
        if key not in seen:
            seen.add(key)
            yield name, key


def _key(one: ClassName, shared: Counter[str]) -> str:
    return one.mid if one.mid and shared[one.name.casefold()] > 1 else one.name


def unlike(common: float, entries: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
    """Entries whose threshold is not the common one: a class that is named keeps its own whatever is stated for all."""
    return [(key, threshold) for key, threshold in entries if threshold != common]


def threshold_file(head: str, default: float, entries: list[tuple[str, float]]) -> str:
    """The file: comments, the default, then a threshold for each class; names are untrusted text and escaped.

    Args:
        head: What it is, in lines.
        default: For classes that are not among the entries; it stands under a name that no class can have here.
        entries: Names of classes with their thresholds.
    """
    head += f"\n{OTHERS} is for classes that are not named here, unless --score-threshold is stated."
    lines = [f"# {_escaped(line)}" for line in head.split("\n")]
    named = [(key, threshold) for key, threshold in entries if key != OTHERS]
    lines += [f'"{_escaped(key)}": {threshold!r}' for key, threshold in [(OTHERS, default), *named]]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return "".join(_SHORT.get(c) or (c if c.isprintable() else f"\\U{ord(c):08x}") for c in text)
