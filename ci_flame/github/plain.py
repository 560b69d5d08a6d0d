"""Pure: values of a stranger's JSON -> plain ones, or nothing: a line, a number, a hash, a name."""

import re
from typing import Final

MAX_LINE: Final = 1000
_MAX_NUMBER: Final = (1 << 63) - 1
_REPOSITORY: Final = re.compile(r"[\w.-]{1,100}/[\w.-]{1,100}", re.ASCII)
_SHA: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}", re.ASCII)
_WORKFLOW: Final = re.compile(r"\.github/workflows/[^/@\s][^/@]{0,200}\.ya?ml")


def line(value: object) -> str:
    """Return a text of one printable line and bounded length; empty for anything else."""
    if not isinstance(value, str):
        return ""
    text = value.strip()
    return text if len(text) <= MAX_LINE and text.isprintable() else ""


def number(value: object) -> int:
    """Return a positive whole number of 63 bits; 0 for anything else, true and 1.0 too."""
    if isinstance(value, bool) or not isinstance(value, int):
        return 0
    return value if 0 < value <= _MAX_NUMBER else 0


def decimal(text: str) -> int:
    """Return the positive whole number that a text is; 0 where it is none."""
    digits = text.strip()
    good = digits.isascii() and digits.isdecimal() and len(digits) <= len(str(_MAX_NUMBER))
    return number(int(digits)) if good else 0


def sha(value: object) -> str:
    """Return the full hash of a commit; empty for anything else."""
    text = line(value)
    return text if _SHA.fullmatch(text) else ""


def repository(value: object) -> str:
    """Return `owner/name`, which as a part of an address leads nowhere else; or empty."""
    text = line(value)
    # `.` and `..` would be steps in an address.
    good = _REPOSITORY.fullmatch(text) and not {".", ".."} & set(text.split("/"))
    return text if good else ""


def workflow(value: object) -> str:
    """Return the path of a workflow's file without the `@REF` that may follow; or empty."""
    text = line(value).partition("@")[0]
    return text if _WORKFLOW.fullmatch(text) else ""
