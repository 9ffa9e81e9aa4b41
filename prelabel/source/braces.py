"""Braces in the address of a source, as in a shell and as users of WebDataset write them.

    shard-{000..002}.tar       shard-000.tar  shard-001.tar  shard-002.tar
    {train,val}/{0..1}.tar     train/0.tar  train/1.tar  val/0.tar  val/1.tar

Numbers have as many digits as the longer end has, if one of the two ends begins with a zero. Other braces stay as they
are. A shell expands braces itself, unless they are quoted.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

from prelabel.errors import SourceError

#: Most addresses that one source may stand for.
MOST = 1_000_000

_BRACES = re.compile(r"\{(?:(\d{1,18})\.\.(\d{1,18})|([^{}]*,[^{}]*))\}")


def has_braces(text: str) -> bool:
    """Whether a text has braces that stand for several texts."""
    return _BRACES.search(text) is not None


def expand(text: str) -> Iterator[str]:
    """Yield the texts that a text with braces stands for; the last braces change fastest.

    Raises:
        SourceError: They are more than `MOST`.
    """
    pieces: list[str] = []
    choices: list[range | list[str]] = []
    widths: list[int] = []
    position, total = 0, 1
    for match in _BRACES.finditer(text):
        pieces.append(text[position : match.start()])
        position = match.end()
        first, last, words = match.groups()
        if words is not None:
            choices.append(words.split(","))
            widths.append(0)
        else:
            step = 1 if int(first) <= int(last) else -1
            choices.append(range(int(first), int(last) + step, step))
            is_padded = any(len(end) > 1 and end.startswith("0") for end in (first, last))
            widths.append(max(len(first), len(last)) if is_padded else 0)
        total *= abs(int(last) - int(first)) + 1 if words is None else len(words.split(","))
    if total > MOST:
        raise SourceError(f"the braces stand for {total:,} names; at most {MOST:,} are allowed")
    for chosen in itertools.product(*choices):
        texts = [str(value).zfill(width) for value, width in zip(chosen, widths, strict=True)]
        yield "".join(itertools.chain.from_iterable(zip(pieces, texts, strict=True))) + text[position:]
