"""The timers' own arithmetic; what they sample is in `test_collect_ebpf.py`."""

import struct

from ci_flame.collect.ebpf import timers

TURN_S = 0.04


def test_the_period_is_redrawn_around_the_nominal_one(monkeypatch):
    """In 64 turns no two are alike, all are within 20 %, and their mean is the nominal one."""
    periods = []
    monkeypatch.setattr(
        timers, "ioctl", lambda _file, _request, value: value and periods.append(value)
    )
    event = timers._Event(-1, 1999)
    event.start(0.0)
    for turn in range(1, 64):
        event.redraw(turn * TURN_S - 0.01)  # too early: nothing is drawn
        event.redraw(turn * TURN_S)
    lost = 0.5 / TURN_S  # setting a period costs half of one
    frequencies = [1e9 / struct.unpack("<Q", each)[0] - lost for each in periods]

    assert len(frequencies) == 64
    assert len(set(frequencies)) > 60
    assert all(0.8 * 1999 - 1 <= each <= 1.2 * 1999 + 1 for each in frequencies)
    assert min(frequencies) < 0.85 * 1999
    assert max(frequencies) > 1.15 * 1999
    assert abs(sum(frequencies) / 64 - 1999) < 0.01 * 1999
