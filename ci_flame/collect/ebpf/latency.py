"""Stage 1, edge: run-queue and block I/O latency, read from the eBPF programs' histograms.

The counts in the kernel only grow; a read returns what they have grown by since the last one.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ci_flame.collect.ebpf.libbpf import BpfObject
from ci_flame.profile import HISTOGRAM_BUCKETS as BUCKETS
from ci_flame.profile import Histogram

_HISTOGRAM: Final = struct.Struct(f"<{BUCKETS + 1}Q")
_IO: Final = struct.Struct("<QQ")
_DEVICE_BYTES: Final = 28
_KEY_BYTES: Final = 32
OPERATIONS: Final[Mapping[int, str]] = {0: "read", 1: "write", 2: "flush", 3: "discard"}
"""REQ_OP_… of include/linux/blk_types.h; what is rarer is `other`."""
_SHARES: Final = (("p50_ms", 0.50), ("p99_ms", 0.99))


@dataclass(frozen=True, slots=True)
class Counted:
    """One `struct histogram` at one moment."""

    counts: tuple[int, ...] = (0,) * BUCKETS
    max_us: int = 0

    @classmethod
    def unpack(cls, data: bytes) -> "Counted":
        """Read the C structure."""
        *counts, max_us = _HISTOGRAM.unpack_from(data)
        return cls(tuple(counts), max_us)

    def since(self, before: "Counted") -> tuple[Histogram, int]:
        """Return what has been added, and the longest of it in us.

        That is exact where it is the longest of all; else it is the end of its bucket.
        """
        pairs = enumerate(zip(self.counts, before.counts, strict=True))
        histogram = Histogram({bucket: now - then for bucket, (now, then) in pairs if now > then})
        if self.max_us > before.max_us:
            return histogram, self.max_us
        longest = histogram.upper(max(histogram.counts)) if histogram.counts else 0
        return histogram, min(longest, self.max_us)


@dataclass(frozen=True, slots=True)
class DeviceIo:
    """`struct device_io`: what one device did of one operation."""

    latency: Counted = Counted()
    moved: int = 0
    """Bytes."""
    own: int = 0
    """Requests that a thread of the tree issued itself."""


class Latency:
    """The histograms of one collector."""

    PROGRAMS: Final = (
        *("run_queue_switch", "run_queue_wakeup", "run_queue_wakeup_new"),
        *("block_io_issue", "block_io_complete"),
    )
    MAPS: Final = ("queued_threads", "run_queue", "issued_requests", "block_io", "device_ios")

    def __init__(self, loaded: BpfObject) -> None:
        self._loaded = loaded
        self._queue = Counted()
        self._devices: dict[tuple[str, str], DeviceIo] = {}

    def read(self) -> tuple[dict[str, Mapping[int, int]], dict[str, float]]:
        """Return histograms (name -> bucket -> count) and metrics since the last read."""
        histograms: dict[str, Mapping[int, int]] = {}
        metrics: dict[str, float] = {}
        raw = self._loaded.lookup("run_queue", bytes(4), _HISTOGRAM.size)
        queue = Counted.unpack(raw) if raw else self._queue
        waited, longest = queue.since(self._queue)
        self._queue = queue
        histograms["run_queue"] = waited.counts
        metrics |= percentiles("run_queue", waited, longest)
        metrics["run_queue.max_ms"] = longest / 1000
        self._block_io(histograms, metrics)
        return histograms, metrics

    def _block_io(
        self, histograms: dict[str, Mapping[int, int]], metrics: dict[str, float]
    ) -> None:
        """Add the devices' figures, and those of all of them together."""
        everything, longest_of_all = Histogram({}), 0
        totals = dict.fromkeys(("read_bytes", "write_bytes", "requests", "own_requests"), 0)
        for place, now in sorted(self._read_devices().items()):
            before = self._devices.get(place, DeviceIo())
            self._devices[place] = now
            latency, longest = now.latency.since(before.latency)
            if not latency.counts:
                continue
            name = "block_io." + ".".join(place)
            histograms[name] = latency.counts
            metrics |= percentiles(name, latency, longest)
            metrics[f"{name}.requests"] = float(latency.count)
            metrics[f"{name}.bytes"] = float(now.moved - before.moved)
            everything += latency
            longest_of_all = max(longest_of_all, longest)
            totals["requests"] += latency.count
            totals["own_requests"] += now.own - before.own
            if place[1] in ("read", "write"):
                totals[f"{place[1]}_bytes"] += now.moved - before.moved
        metrics |= percentiles("block_io", everything, longest_of_all)
        metrics |= {f"block_io.{name}": float(value) for name, value in totals.items()}

    def _read_devices(self) -> dict[tuple[str, str], DeviceIo]:
        """Return each device's and operation's figures; rare operations together."""
        found: dict[tuple[str, str], DeviceIo] = {}
        size = _HISTOGRAM.size + _IO.size
        for key, value in self._loaded.entries("block_io", _KEY_BYTES, size):
            device = key[:_DEVICE_BYTES].split(b"\0", 1)[0].decode(errors="replace") or "unknown"
            operation = OPERATIONS.get(int.from_bytes(key[_DEVICE_BYTES:], "little"), "other")
            moved, own = _IO.unpack_from(value, _HISTOGRAM.size)
            latency = Counted.unpack(value)
            before = found.get((device, operation), DeviceIo())
            counts = zip(latency.counts, before.latency.counts, strict=True)
            together = Counted(
                tuple(a + b for a, b in counts), max(latency.max_us, before.latency.max_us)
            )
            found[device, operation] = DeviceIo(together, before.moved + moved, before.own + own)
        return found


def percentiles(name: str, histogram: Histogram, longest_us: int) -> dict[str, float]:
    """Return `NAME.p50_ms` and `NAME.p99_ms`: the ends of their buckets; 0 where nothing waited."""
    return {
        f"{name}.{suffix}": min(histogram.percentile(share), longest_us) / 1000
        for suffix, share in _SHARES
    }
