"""A benchmark that `test_targeted.py` times under every CPython: prints JSON.

Run with the folders of this project and of PyYAML as arguments.
"""

import asyncio
import json
import sys
import threading
import time

sys.path[:0] = sys.argv[1:]

from ci_flame.config import RecordConfig  # noqa: E402 - found by the line above
from ci_flame.profile import Frame, Kind  # noqa: E402
from ci_flame.record import reference, rounds, targeted  # noqa: E402
from ci_flame.record.clocks import Clocks  # noqa: E402
from ci_flame.symbols.modules import Layout  # noqa: E402


def spin(ns):
    """Use so much CPU time of this thread."""
    end = time.thread_time_ns() + ns
    while time.thread_time_ns() < end:
        pass


def leaf():
    spin(200_000)


def caller():
    leaf()
    leaf()
    spin(100_000)


def recursive(n):
    spin(100_000)
    if n:
        recursive(n - 1)


def numbers():
    for n in range(3):
        spin(100_000)
        yield n


def nested():
    yield from numbers()


async def inner():
    spin(100_000)
    await asyncio.sleep(0)
    spin(100_000)


async def outer():
    await asyncio.gather(inner(), inner())


def raises():
    spin(100_000)
    raise KeyError


def caught():
    try:
        raises()
    except KeyError:
        spin(100_000)


def thrown():
    try:
        yield
    except KeyError:
        spin(100_000)
        yield 1


def often():
    return 1


def anew():
    scope = {"spin": spin}
    source = "def made():\n spin(100_000)\nmade()"
    exec(compile(source, __file__, "exec"), scope)  # noqa: S102 - as templates are run


def everything():
    caller()
    recursive(3)
    list(nested())
    caught()
    stopped = thrown()
    next(stopped)
    stopped.throw(KeyError)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(outer())
    loop.close()


def in_threads():
    threads = [threading.Thread(target=leaf) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def many():
    for _ in range(5000):
        often()
    leaf()


def fails():
    state["calls"] += 1
    if state["calls"] > state["most"]:
        raise TimeoutError
    leaf()


state = {"calls": 0, "most": 1 << 60}


def time_it(work, names, iterate=None):
    suspects = [each if isinstance(each, Frame) else Frame(each, "timed") for each in names]
    plan = RecordConfig(seconds=0.06, round_ms=4, busy=1.0)
    clocks = Clocks(references=lambda: {reference.KINDS[0]: (100_000,)})

    class Silent:
        def set_phase(self, phase):
            pass

    state.update(calls=0, most=1 << 60)
    iterate = iterate or rounds.repeat(work)
    driven = rounds.drive(iterate, rounds.Window(Silent(), clocks), plan, 1, clocks=clocks)
    state.update(calls=0, most=10)
    timed = targeted.Targeted(suspects, driven, Layout({__file__: "timed"}))
    for look in timed.looks():
        with timed.caught(), rounds.undisturbed(look, gc_on=False):
            iterate(1, look)
    with timed.caught(), timed.timed() as clock:
        if clock is not None:
            window = rounds.Window(clock, clocks)
            timed.take(rounds.drive(iterate, window, targeted.plan(plan), 1, clocks=clocks))
    return timed.told()


def show(timing):
    rounds_of = sum(timing.iterations) or 1
    return {
        "functions": {
            frame.function: [sum(each.calls) / rounds_of, sum(each.ns) / rounds_of]
            for frame, each in timing.functions.items()
        },
        "rounds": len(timing.iterations),
        "references": sorted(timing.references),
        "left_out": {str(frame): why for frame, why in timing.left_out.items()},
        "event_ns": timing.event_ns,
    }


def with_block(iterations, window):
    for _ in range(iterations):
        leaf()
        window.open()
        leaf()
        window.close()
        leaf()


def entered(iterations, window):
    for _ in range(iterations):
        opens(window)


def opens(window):
    window.open()
    leaf()
    window.close()


def main():
    four = [["caller", "leaf", "recursive", "numbers"], ["nested", "inner", "raises", "thrown"]]
    native = Frame("memcpy", "libc", Kind.NATIVE)
    told = {
        "monitors": sys.version_info >= (3, 12),
        "first": show(time_it(everything, four[0])),
        "second": show(time_it(everything, four[1])),
        "threads": show(time_it(in_threads, ["leaf"])),
        "many": show(time_it(many, ["often", "leaf"])),
        "anew": show(time_it(anew, ["made", "spin"])),
        "block": show(time_it(None, ["leaf"], with_block)),
        "entered": show(time_it(None, ["opens", "leaf"], entered)),
        "fails": show(time_it(fails, ["leaf"])),
        "native": show(time_it(leaf, [native, "never", "leaf"])),
        "nobody": time_it(leaf, []),
    }
    if sys.version_info >= (3, 12):
        for number in range(6):
            assert sys.monitoring.get_tool(number) is None, "an id was not given back"
            sys.monitoring.use_tool_id(number, f"tool {number}")
        told["taken"] = show(time_it(leaf, ["leaf"]))
    json.dump(told, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
