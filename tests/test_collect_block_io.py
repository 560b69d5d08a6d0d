"""Block I/O of the machine, against the kernel's own figures of its disks."""

import os
from pathlib import Path

import pytest
from tracing import needs_bpf, sampling

from ci_flame.collect.ebpf.latency import BUCKETS, Latency
from ci_flame.profile import Histogram

SECTOR = 512


def device_of(folder):
    """Return the whole disk that a folder lies on; None where it lies on none."""
    number = os.stat(folder).st_dev  # noqa: PTH116 - the number only
    place = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    if not place.exists():
        return None
    place = place.resolve()
    return place.parent.name if (place / "partition").exists() else place.name


def disk_folder():
    folders = (Path("/var/tmp"), Path.home(), Path(__file__).parent)  # noqa: S108 - looked at above
    return next(((folder, d) for folder in folders if (d := device_of(folder))), None)


def figures(device):
    """Return requests and bytes by operation from the disk's own counters."""
    numbers = [int(each) for each in Path(f"/sys/block/{device}/stat").read_text().split()]
    return {
        "read": (numbers[0], numbers[2] * SECTOR),
        "write": (numbers[4], numbers[6] * SECTOR),
        "flush": (numbers[15], 0),
    }


class TestForReal:
    pytestmark = needs_bpf

    def test_thirty_fsyncs_are_writes_and_flushes_as_the_disk_counts_them(self):
        folder, device = disk_folder() or pytest.fail("no folder on a disk to test with")
        file = folder / f"ci_flame_block_io_{os.getpid()}"
        try:
            with sampling(modes=frozenset(), machine=True) as session:
                before = figures(device)
                session.set_phase(1)
                with file.open("wb", buffering=0) as stream:
                    for _ in range(30):
                        stream.write(b"x" * 65536)
                        os.fsync(stream.fileno())
                session.set_phase(0)
                after = figures(device)
                recording = session.read()
                with file.open("ab", buffering=0) as stream:
                    stream.write(b"x" * 65536)
                    os.fsync(stream.fileno())
                outside = session.read()
        finally:
            file.unlink(missing_ok=True)

        metrics = recording.metrics
        written = after["write"][1] - before["write"][1]
        assert written >= 30 * 65536
        assert metrics[f"block_io.{device}.write.bytes"] == pytest.approx(written, rel=0.1)
        assert metrics["block_io.write_bytes"] >= 0.9 * 30 * 65536
        # The disk's counters hold an empty write for each flush that was asked for.
        writes = after["write"][0] - before["write"][0]
        flushes = metrics.get(f"block_io.{device}.flush.requests", 0)
        found = metrics[f"block_io.{device}.write.requests"]
        assert found + flushes == pytest.approx(writes, rel=0.1, abs=2)
        on_disk = after["flush"][0] - before["flush"][0]
        if on_disk:  # a disk without a volatile cache has none
            assert flushes == pytest.approx(on_disk, rel=0.15, abs=2)
        histogram = recording.histograms[f"block_io.{device}.write"]
        assert histogram.count == metrics[f"block_io.{device}.write.requests"]
        assert 0 < metrics["block_io.p50_ms"] <= metrics["block_io.p99_ms"]
        assert 0 < metrics[f"block_io.{device}.write.p99_ms"] <= 10_000
        assert metrics["block_io.own_requests"] >= 30
        assert metrics["collector.lost_latencies"] == 0
        assert outside.metrics["block_io.requests"] <= 2  # issued inside, ended outside
        assert [name for name in outside.histograms if name != "run_queue"] == [] or (
            outside.metrics["block_io.requests"] > 0
        )


class Loaded:
    """The kernel's map as a table: what cannot be made to happen on this machine's disks."""

    def __init__(self, *rows):
        self.rows = rows

    def lookup(self, *_):
        return None

    def entries(self, *_):
        for device, operation, latencies_us, moved, own in self.rows:
            counts = [0] * BUCKETS
            for each in latencies_us:
                counts[Histogram.bucket(each)] += 1
            words = (*counts, max(latencies_us), moved, own)
            value = b"".join(word.to_bytes(8, "little") for word in words)
            yield device.encode().ljust(28, b"\0") + operation.to_bytes(4, "little"), value


def test_devices_and_operations_are_told_apart_and_added_up():
    latency = Latency(
        Loaded(
            ("vda", 0, [100] * 10, 4096, 3),
            ("vda", 1, [1000], 512, 1),
            ("nvme0n1", 1, [3000], 1024, 0),
            ("vda", 9, [5], 0, 0),  # write zeroes
            ("vda", 5, [7], 0, 0),  # secure erase: rare ones are one
            ("", 3, [9], 77, 0),  # a discard; its disk has just gone
        )
    )

    histograms, metrics = latency.read()

    assert histograms["block_io.vda.read"] == {Histogram.bucket(100): 10}
    assert histograms["block_io.nvme0n1.write"] == {Histogram.bucket(3000): 1}
    assert histograms["block_io.vda.other"] == {Histogram.bucket(5): 1, Histogram.bucket(7): 1}
    assert set(histograms["block_io.unknown.discard"]) == {Histogram.bucket(9)}
    assert metrics["block_io.requests"] == 15
    assert metrics["block_io.own_requests"] == 4
    assert metrics["block_io.read_bytes"] == 4096
    assert metrics["block_io.write_bytes"] == 512 + 1024  # discards move nothing
    assert metrics["block_io.vda.write.p99_ms"] == 1.0
    assert metrics["block_io.p50_ms"] == pytest.approx(0.1, rel=0.19)
    assert metrics["block_io.p99_ms"] == 3.0


def test_a_second_read_holds_only_what_came_since():
    rows = Loaded(("vda", 1, [100, 200], 10, 0))
    latency = Latency(rows)
    latency.read()
    rows.rows = (("vda", 1, [100, 200, 50], 17, 1),)

    histograms, metrics = latency.read()

    assert histograms["block_io.vda.write"] == {Histogram.bucket(50): 1}
    assert metrics["block_io.write_bytes"] == 7
    assert metrics["block_io.own_requests"] == 1
    assert metrics["block_io.vda.write.p99_ms"] == pytest.approx(0.05, rel=0.19)
    assert latency.read()[0] == {"run_queue": {}}
