"""Edge: why a check ended without a verdict, handed to the step of the job that started it.

The step starts `ci-flame check`, that starts pytest: whoever knows a reason adds one line to the
file that CI_FLAME_REASONS names. What is read is anybody's text: lines of bounded length.
"""

import os
from collections.abc import MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from ci_flame.errors import CiFlameError

VARIABLE: Final = "CI_FLAME_REASONS"
MAX_BYTES: Final = 64_000
MAX_LINES: Final = 20
MAX_LINE: Final = 500


def taken(given: MutableMapping[str, str] = os.environ) -> Path | None:
    """Return the file that reasons are added to, and let no process below know it."""
    place = given.pop(VARIABLE, "")
    return Path(place) if place else None


def tell(place: Path | None, line: str) -> None:
    """Add one reason; nothing where nobody asked, and no error where it cannot be written."""
    if place is None:
        return
    flat = " ".join(line.split())
    with suppress(OSError), place.open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(f"{shortened(flat)}\n")


def words(error: CiFlameError) -> str:
    """Return an error and its cure in one line."""
    return " ".join("; ".join(filter(None, (error.message, error.hint))).split())


def read(place: Path) -> tuple[str, ...]:
    """Return the reasons, each once; none where the file cannot be read."""
    try:
        with place.open("rb") as file:
            data = file.read(MAX_BYTES)
    except OSError:
        return ()
    lines = (line.strip() for line in data.decode("utf-8", "replace").splitlines())
    return tuple(dict.fromkeys(shortened(line) for line in lines if line))[:MAX_LINES]


def shortened(line: str) -> str:
    """Return a line of at most MAX_LINE characters."""
    return line if len(line) <= MAX_LINE else f"{line[: MAX_LINE - 2].rstrip()} …"
