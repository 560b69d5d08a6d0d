"""Words of a text, the way the search sees them."""

import re

WORD = re.compile(r"[a-z0-9]+")
STOP_WORDS = frozenset("a an and for from in of on or the to with".split())


def words(text):
    """Return the words of a text in order, lower case."""
    return WORD.findall(text.lower())


def significant(text):
    """Return the words that tell texts apart: without stop words, plurals cut."""
    kept = []
    for word in words(text):
        if word in STOP_WORDS:
            continue
        kept.append(word[:-1] if len(word) > 3 and word[-1] == "s" else word)
    return kept
