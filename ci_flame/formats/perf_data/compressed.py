"""Stage 2, pure: the records that `perf record -z` packed -> the records as they were.

perf cuts one zstd stream into PERF_RECORD_COMPRESSED pieces; records may begin in one piece
and end in the next.
"""

import importlib
from typing import Any, Final

from ci_flame.errors import FormatError

MAX_UNPACKED: Final = 4 << 30
MAX_RATIO: Final = 1000
"""Times its packed size, beyond the first bytes; samples of one stack pack to a hundredth."""
RATIO_FREE: Final = 64 << 20
_MODULES: Final = ("compression.zstd", "backports.zstd")
"""The standard library's from Python 3.14 on, and the same for older ones."""
_CURE: Final = (
    "use Python 3.14 or newer, or pip install backports.zstd, or record without perf record -z"
)


class Decompressor:
    """Unpacks a recording's pieces in file order."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._stream: Any = None
        self._zstd: Any = None
        self._pieces: list[bytes] = []
        self._size = self._packed = 0

    def add(self, piece: memoryview, offset: int) -> None:
        """Unpack one more piece; FormatError without a library, or where the stream is broken."""
        if self._zstd is None:
            self._zstd = self._library()
        data = bytes(piece)
        self._packed += len(data)
        while data:
            if self._stream is None or self._stream.eof:
                # A new buffer's stream; perf starts one per CPU when it writes in parallel.
                self._stream = self._zstd.ZstdDecompressor()
            try:
                unpacked = self._stream.decompress(data, self._most() - self._size + 1)
            except (self._zstd.ZstdError, EOFError, ValueError) as error:
                raise FormatError(
                    self._source, f"packed records at offset {offset} do not unpack: {error}"
                ) from None
            self._pieces.append(unpacked)
            self._size += len(unpacked)
            if self._size > self._most():
                raise FormatError(self._source, self._too_much())
            data = self._stream.unused_data if self._stream.eof else b""

    def _most(self) -> int:
        """Return to how much the pieces so far may unpack."""
        return min(MAX_UNPACKED, max(RATIO_FREE, MAX_RATIO * self._packed))

    def _too_much(self) -> str:
        if self._most() == MAX_UNPACKED:
            return f"records unpack to more than {MAX_UNPACKED >> 30} GiB, the limit"
        return (
            f"records unpack to more than {MAX_RATIO} times their {self._packed} bytes, as no"
            " recording does"
        )

    def finish(self) -> bytes:
        """Return all that was unpacked, and forget it."""
        pieces, self._pieces, self._stream = self._pieces, [], None
        return b"".join(pieces)

    def _library(self) -> Any:  # noqa: ANN401 - a module
        for name in _MODULES:
            try:
                return importlib.import_module(name)
            except ImportError:
                continue
        raise FormatError(self._source, "its records are packed with zstd (perf record -z)", _CURE)
