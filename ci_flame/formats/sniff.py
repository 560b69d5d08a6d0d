"""Stage 2, pure: which tool's format some bytes are, told by what is in them.

File names are not asked: what a team collects is called `out.txt` and `profile`.
"""

import re
from collections.abc import Callable, Mapping
from typing import Final

from ci_flame.errors import CiFlameError
from ci_flame.formats import bcc, bpftrace, perf_script

FORMATS: Final = ("perf-data", "perf-script", "bpftrace", "bcc", "folded", "pprof")
"""What `--from` takes."""
LOOKED_AT: Final = 256 << 10
"""Bytes from the beginning that decide."""
_PERF_DATA: Final = (b"PERFILE2", b"2ELIFREP")
_FOLDED: Final = re.compile(r"\S.* \d{1,18}", re.ASCII)
_FOLDED_LINES: Final = 20
_PPROF_FIELDS: Final = frozenset({0x0A, 0x12, 0x1A, 0x22, 0x2A, 0x32})
"""First byte of a pprof message: one of its length-delimited fields 1 to 6."""
_SAMPLE_TYPE: Final = 0x0A
_PPROF_LOOKED_AT: Final = 20
_PPROF_LEAST: Final = 3


def sniff(data: bytes) -> str:
    """Return one of `FORMATS`, or nothing where the bytes fit none; gzip is unpacked before."""
    if data[:8] in _PERF_DATA:
        return "perf-data"
    head = data[:LOOKED_AT]
    if b"\0" in head:
        return "pprof" if head[:1] and head[0] in _PPROF_FIELDS else ""
    if _is_pprof(data):
        return "pprof"
    text = head.decode("utf-8", "replace")
    if len(data) > LOOKED_AT:
        text = text[: text.rfind("\n") + 1]
    return next((name for name, fits in _TEXTS.items() if fits(text)), "")


def _is_pprof(data: bytes) -> bool:
    """Tell whether the first fields are pprof's: kinds of samples, then other messages.

    A large one has no zero byte for long: the empty string comes behind all samples.
    """
    position = fields = 0
    while position < len(data) and fields < _PPROF_LOOKED_AT:
        tag, position = data[position], position + 1
        length = shift = 0
        while position < len(data) and shift < 35:  # noqa: PLR2004 - five bytes of seven bits
            byte, position = data[position], position + 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:  # noqa: PLR2004 - the last
                break
        if tag not in _PPROF_FIELDS or (not fields and tag != _SAMPLE_TYPE):
            return False
        # A kind of samples is two numbers, of strings.
        if tag == _SAMPLE_TYPE and data[position : position + 1] not in {b"\x08", b"\x10"}:
            return False
        position += length
        fields += 1
    return position <= len(data) and fields >= _PPROF_LEAST


def _is_perf_script(text: str) -> bool:
    try:
        return next(perf_script.records(text.split("\n"), ""), None) is not None
    except CiFlameError:
        return False


def _is_folded(text: str) -> bool:
    lines = [line.rstrip("\r") for line in text.split("\n") if line.strip()][:_FOLDED_LINES]
    return bool(lines) and all(_FOLDED.fullmatch(line) for line in lines)


_TEXTS: Final[Mapping[str, Callable[[str], bool]]] = {
    # In this order: a line of perf's may end like a folded one, never the other way round.
    "bpftrace": bpftrace.is_output,
    "bcc": bcc.is_output,
    "perf-script": _is_perf_script,
    "folded": _is_folded,
}
