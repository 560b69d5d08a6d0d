"""Stage 1, edge: where a measured process's code and data lie in memory.

The kernel places libraries at random addresses (ASLR), and that alone moves the cost of an
interpreter's functions: on one machine building a dict of text cost 0.51 to 0.75 of a regular
expression's time from process to process, 0.47 to 0.50 with the code held in place. No change
to Python code moves the interpreter, so its place is held; what such a change does move, the
heap, the stack and the environment, is stirred in every process, so that the spread between
processes holds it.
"""

import ctypes
import hashlib
import os
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

RANDOM: Final = "random"
FIXED: Final = "fixed"
PADDING_VARIABLE: Final = "CI_FLAME_PADDING"
"""Of random length: the environment lies above the stack, and moves it."""

_ADDR_NO_RANDOMIZE: Final = 0x0040000
"""`<sys/personality.h>`; containers may forbid it (Docker's default does)."""
_ASK: Final = 0xFFFFFFFF
_STACK_PADDING: Final = 4096
_BLOCKS: Final = 20_000
"""At most so many objects are put into the heap; about 5 MB and 5 ms."""
_INTERPRETER: Final = re.compile(r"(?:lib)?python3?[.\d]*t?(?:\.so.*)?|(?:libc|libm|ld)[.-].*")


def _personality(value: int) -> int:
    """Call personality(2) for this thread; -1 where it is refused or unknown."""
    try:
        return int(ctypes.CDLL(None).personality(ctypes.c_ulong(value)))
    except (OSError, AttributeError, TypeError):  # TypeError: Windows, which has no CDLL(None)
        return -1


@contextmanager
def held() -> Iterator[None]:
    """Start processes inside the block with their code at fixed addresses, where permitted.

    The setting is the thread's own and is put back; what was started keeps it.
    """
    before = _personality(_ASK)
    if before >= 0:
        _personality(before | _ADDR_NO_RANDOMIZE)
    try:
        yield
    finally:
        if before >= 0:
            _personality(before)


def permitted() -> bool:
    """Return whether `held` holds here."""
    with held():
        return bool(max(_personality(_ASK), 0) & _ADDR_NO_RANDOMIZE)


def row() -> tuple[str, str, str]:
    """Return what `ci-flame doctor` says of it: what, what was found, and the cure (or empty)."""
    if permitted():
        return "memory layout", "the interpreter can be held in place", ""
    return (
        "memory layout",
        "random, personality(2) is refused: costs spread more between processes",
        "in a container: docker run --security-opt seccomp=unconfined",
    )


def padding() -> str:
    """Return a value of random length for `PADDING_VARIABLE`."""
    return "x" * random.randrange(_STACK_PADDING)  # noqa: S311 - an offset, not a secret


def stir() -> list[bytes]:
    """Leave a random pattern of objects and holes in the heap; keep what is returned."""
    draw = random.Random(os.urandom(8))  # noqa: S311 - the program's own `random` stays as it is
    blocks = [bytes(draw.randrange(1, 480)) for _ in range(draw.randrange(_BLOCKS))]
    return blocks[:: draw.randrange(2, 5)]


def describe() -> str:
    """Return `random`, or `fixed-` and a digest of where this process's interpreter lies.

    Costs measured with two different digests may differ for that alone.
    """
    try:
        text = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return RANDOM
    return described(max(_personality(_ASK), 0), text)


def described(personality: int, maps: str) -> str:
    """Return what `describe` says of a process with this personality and `/proc/PID/maps`."""
    if not personality & _ADDR_NO_RANDOMIZE:
        return RANDOM
    code = []
    for line in maps.splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and "x" in fields[1]:  # noqa: PLR2004 - with a path
            name = fields[5].rpartition("/")[2]
            if _INTERPRETER.fullmatch(name):
                code.append(f"{name} {fields[0]}")
    return f"{FIXED}-{hashlib.sha256(chr(10).join(code).encode()).hexdigest()[:8]}"
