"""Edge, pure: every input that is one of some words, checked before anything is recorded."""

from collections.abc import Mapping
from typing import Final

from ci_flame.errors import UsageError
from ci_flame.github import comment

SETUPS: Final = ("auto", "perf", "none")
SWITCH: Final = ("true", "false")
MAX_DAYS: Final = 400
"""What GitHub keeps artifacts for at most, by its plans and settings."""
_WORDS: Final = {
    "CI_FLAME_SETUP": ("setup", SETUPS),
    "CI_FLAME_COMMENT": ("comment", comment.MODES),
    "CI_FLAME_UPLOAD": ("upload", SWITCH),
}
_DAYS: Final = {
    "CI_FLAME_RETENTION_DAYS": "retention-days",
    "CI_FLAME_BASELINE_RETENTION_DAYS": "baseline-retention-days",
}


def must_be_known(given: Mapping[str, str]) -> None:
    """Raise UsageError that names an input whose word is unknown, and the words that it may be.

    What is not given, or empty, is its default.
    """
    for variable, (name, known) in _WORDS.items():
        word = given.get(variable, "").strip()
        # `if:` of a workflow takes `False` for `false`, too.
        same = word.lower() if known is SWITCH else word
        if word and same not in known:
            raise UsageError(f"input {name} is {word[:100]!r}", f"it may be {', '.join(known)}")
    for variable, name in _DAYS.items():
        word = given.get(variable, "").strip()
        if word and not (word.isascii() and word.isdecimal() and len(word) <= 9  # noqa: PLR2004 - of an int32
                         and int(word) <= MAX_DAYS):  # fmt: skip
            raise UsageError(
                f"input {name} is {word[:100]!r}",
                f"it may be 1 to {MAX_DAYS} days, or empty: the repository's default",
            )
