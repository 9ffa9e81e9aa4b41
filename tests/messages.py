"""Check the facts of a message, not its wording: `facts` and `told` accept words, `telling` and `is_told` patterns."""

from __future__ import annotations

import re
from collections.abc import Iterable

CHANGED = r"chang\w+|replac\w+|modified"
BROKEN = r"broken|corrupt\w*|damaged?|spoil\w*|invalid|wrong"
LEFT_OUT = r"left out|out of use|not used|excluded|set aside|dropped|removed|skipped"
MISSING = r"missing|absent|gone|lacks?|no such|not (?:found|there)|(?:there is|has|with) no|does not (?:exist|have)"
NO_PERMISSION = r"permission|permit\w*|(?:not )?allowed|may not"
SILENT = r"in time|time-?out|timed out|too (?:slow|late|long)|no answer|silent"
TRIES = r"tries|times|attempts"
TRUNCATED = r"truncated|cut|incomplete|ends?"
TWICE = r"twice|two times|more than once|again|duplicate\w*|repeat\w*"
UNFINISHED = r"unfinished|incomplete|not (?:yet )?(?:finished|complete|done)"


def telling(*facts: str) -> str:
    """A pattern (for `match=`) of the messages that tell all of these facts, in any order.

    A fact is an expression for a name, an option, a value, a number or the words that may name the problem. It counts
    as whole words and whole numbers: the 1 of 1.5, of 1,000 or of a1.jpg is none.
    """
    return "".join(rf"(?s:(?=.*(?<!\w)(?<!\d[.,])(?:{fact})(?!\w|[.,]\d)))" for fact in facts)


def is_told(text: str, *facts: str) -> bool:
    """Whether a message tells all of these facts."""
    return re.match(telling(*facts), text) is not None


def facts(*words: str) -> str:
    """The same for literal words: `a|b` matches either, and a word also matches its plural."""
    return telling(*map(_expression, words))


def tells(text: str, *words: str) -> bool:
    """Whether a message contains all of these words."""
    return is_told(text, *map(_expression, words))


def told(notes: Iterable[str], *words: str) -> bool:
    """Whether one of the notes contains all of these words."""
    return any(tells(note, *words) for note in notes)


def _expression(words: str) -> str:
    return "|".join(re.escape(word) + ("s?" if word.isalpha() else "") for word in words.split("|"))
