"""A benchmark that `test_record_exact.py` counts under every CPython: prints JSON.

Run with this project's folder as the only argument; needs nothing that is installed.
"""

import asyncio
import json
import sys
import threading

sys.path.insert(0, sys.argv[1])

from ci_flame.record import exact
from ci_flame.symbols.modules import Layout


def tokenize(text):
    words = []
    for word in text.split():
        words.append(word.strip(".,"))  # noqa: PERF401 - 3.12 makes a comprehension inline
    return words


def numbers(count):
    yield from range(count)


def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)


def raises(n):
    try:
        int("x")
    except ValueError:
        return n
    return None


def fails():
    raise KeyError


class Shop:
    def sell(self):
        return [self.price(n) for n in range(3)]

    def price(self, n):
        try:
            fails()
        except KeyError:
            return n


async def inner():
    await asyncio.sleep(0)
    return 1


async def outer():
    return await inner() + await inner()


def everything(text="a b. c, " * 10):
    tokenize(text)
    sum(numbers(5))
    fib(6)
    raises(1)
    sorted([3, 1, 2], key=lambda n: -n)
    Shop().sell()
    loop = asyncio.new_event_loop()
    loop.run_until_complete(outer())
    loop.close()


state = {"runs": 0}


def unsteady():
    state["runs"] += 1
    fib(4 + state["runs"])
    constant()


def constant():
    return sum(range(10))


def in_threads():
    threads = [threading.Thread(target=fib, args=(8,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def forever():
    total = 0
    while total < 30_000_000:
        total += 1


def times_out():
    raise TimeoutError


def never():
    return None


class Driven:
    rounds = ()
    wall_ns = 0


def count(work, within=None):
    counts = exact.Counts(Driven)
    for window in counts.windows():
        with counts.caught():
            try:
                if within is not None:
                    within(window)
                else:
                    window.open()
                    work()
                    window.close()
            finally:
                window.shut()
    return counts.told(Layout({__file__: "counted"}), lambda frame: "ci_flame" in frame.module)


def in_block(window):
    fib(20)
    window.open()
    fib(5)
    window.close()
    fib(20)


def show(told):
    found, made = told
    return {
        "counts": {
            str(frame): [c.calls, c.bytecodes, c.total_calls, c.total_bytecodes]
            for frame, c in found.items()
        },
        "unsteady": sorted(map(str, made.unsteady)),
        "left_out": made.left_out,
        "iterations": made.iterations,
        "python": made.python,
        "hash_seed": made.hash_seed,
    }


def main():
    told = {
        "everything": show(count(everything)),
        "again": show(count(everything)),
        "unsteady": show(count(unsteady)),
        "threads": show(count(in_threads)),
        "block": show(count(never, in_block)),
        "times_out": show(count(times_out)),
    }
    exact.MOST_SECONDS = 0.05
    told["forever"] = show(count(forever))
    exact.MOST_SECONDS = 3.0
    if sys.version_info >= (3, 12):
        for number in range(6):
            assert sys.monitoring.get_tool(number) is None, "an id was not given back"
            sys.monitoring.use_tool_id(number, f"tool {number}")
        told["taken"] = show(count(never))
        sys.monitoring.free_tool_id(1)
        told["free"] = show(count(constant))
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main()
