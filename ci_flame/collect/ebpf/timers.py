"""Stage 1, edge: the CPU-clock timers of the eBPF sampler, one per CPU, jittered."""

import os
import random
import struct
import time
from fcntl import ioctl
from pathlib import Path
from typing import Final

from ci_flame.collect.machine import perf_attributes, perf_event_open
from ci_flame.errors import CollectError

_IOC_ENABLE: Final = 0x2400
_IOC_PERIOD: Final = 0x40082404
_IOC_SET_BPF: Final = 0x40042408

JITTER: Final = 0.2
REDRAW_SECONDS: Final = 0.04
_STRATA: Final = 16
_HEADROOM: Final = 1.3


class Timers:
    """The timers of all CPUs; each tick runs one BPF program."""

    def __init__(self, program: int, frequency_hz: int) -> None:
        self._events: list[_Event] = []
        period_ns = round(1e9 / frequency_hz)
        try:
            for cpu in _online_cpus():
                self._events.append(_Event(_open(cpu, period_ns), frequency_hz))
                ioctl(self._events[-1].descriptor, _IOC_SET_BPF, program)
        except BaseException:
            self.close()
            raise
        now = time.monotonic()
        for event in self._events:
            event.start(now)

    def redraw(self) -> None:
        """Draw the next periods where the present ones have been used long enough."""
        now = time.monotonic()
        for event in self._events:
            event.redraw(now)

    def close(self) -> None:
        """Stop them all; may be called twice."""
        while self._events:
            os.close(self._events.pop().descriptor)


def _open(cpu: int, period_ns: int) -> int:
    """Return the descriptor of one CPU's timer, which stands still."""
    descriptor = perf_event_open(perf_attributes(period_ns), -1, cpu)
    if descriptor < 0:
        raise CollectError(
            f"no cpu-clock event on CPU {cpu}: {os.strerror(-descriptor)}",
            "run as root, or see `ci-flame doctor`",
        )
    return descriptor


class _Event:
    """One CPU's timer. Its frequency is redrawn, so that no loop runs in step with it.

    Drawn are frequencies, not periods (the mean of 1/period is not 1/mean period), one from each
    of 16 strata in random order, so that 0.64 s hold the nominal mean almost exactly. Setting a
    period restarts the timer and loses half a period on average: 1 / (2 x interval) is added.
    """

    def __init__(self, descriptor: int, frequency_hz: int) -> None:
        self.descriptor = descriptor
        self._frequency_hz = frequency_hz
        self._draws: list[float] = []
        self._drawn = 0.0
        self._interval = REDRAW_SECONDS

    def start(self, now: float) -> None:
        """Begin to tick."""
        self._drawn = now
        self._set_period()
        ioctl(self.descriptor, _IOC_ENABLE, 0)

    def redraw(self, now: float) -> None:
        """Draw the next period when this one has been used long enough."""
        if now - self._drawn < REDRAW_SECONDS * 0.9:
            return
        self._interval += (now - self._drawn - self._interval) / _STRATA
        self._drawn = now
        self._set_period()

    def _set_period(self) -> None:
        if not self._draws:
            step = 2 * JITTER / _STRATA
            self._draws = [
                1 - JITTER + step * (stratum + random.random())  # noqa: S311 - no secret
                for stratum in range(_STRATA)
            ]
            random.shuffle(self._draws)
        frequency = self._frequency_hz * self._draws.pop() + 0.5 / self._interval
        ioctl(self.descriptor, _IOC_PERIOD, struct.pack("<Q", round(1e9 / frequency)))


def check_rate(frequency_hz: int) -> None:
    """Raise CollectError where the kernel would throttle this frequency."""
    limit = max_sample_rate()
    if limit < frequency_hz * _HEADROOM:
        raise CollectError(
            f"kernel.perf_event_max_sample_rate is {limit}, too low for {frequency_hz} Hz",
            f"sudo sysctl kernel.perf_event_max_sample_rate={max(frequency_hz * 2, 100_000)}",
        )


def max_sample_rate() -> int:
    """Return what the kernel allows at the moment; it lowers the limit itself under load."""
    return int(Path("/proc/sys/kernel/perf_event_max_sample_rate").read_text())


def _online_cpus() -> list[int]:
    cpus: list[int] = []
    for part in Path("/sys/devices/system/cpu/online").read_text().strip().split(","):
        first, _, last = part.partition("-")
        cpus += range(int(first), int(last or first) + 1)
    return cpus
