"""Does one stage at a time, as told on standard input; every CPython runs it, with `-S`."""

import asyncio
import ctypes
import hashlib
import os
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

SECONDS = 0.25


def until(work, seconds=SECONDS):
    end = time.process_time() + seconds
    while time.process_time() < end:
        work()


def plain():
    until(lambda: sorted(range(500), key=lambda value: -value))


def squares(count):
    for value in range(count):
        yield value * value


def delegated(count):
    yield from squares(count)


def generators():
    until(lambda: sum(delegated(2000)))


async def step(count):
    total = sum(range(count))
    await asyncio.sleep(0)
    return total


async def gather():
    end = time.process_time() + SECONDS
    while time.process_time() < end:
        await asyncio.gather(*[step(3000) for _ in range(8)])


def coroutines():
    asyncio.run(gather())


def in_thread():
    end = time.thread_time() + SECONDS / 3
    while time.thread_time() < end:
        sum(range(500))


def threads():
    running = [threading.Thread(target=in_thread) for _ in range(3)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


def generated():
    for number in range(20):
        scope = {}
        source = f"def made_{number}():\n    return sum(range(3000))"
        exec(compile(source, "<made>", "exec"), scope)  # noqa: S102 - what is tested
        until(scope[f"made_{number}"], SECONDS / 20)


def hashing():
    until(lambda: hashlib.sha256(b"x" * 1_000_000).digest(), 2 * SECONDS)


def packing():
    until(lambda: zlib.compress(b"abcdefgh" * 50_000), 2 * SECONDS)


def reading():
    with Path("/dev/zero").open("rb", buffering=0) as zero:
        until(lambda: zero.read(1_000_000))


def adding():
    return sum(range(900))


def hashing_a_little():
    return hashlib.sha256(b"x" * 8000).digest()


def ordering():
    return sorted(range(150), key=order)


def order(value):
    return -value


def counting():
    counts = {}
    for letter in "a counted word and another" * 6:
        counts[letter] = counts.get(letter, 0) + 1
    return counts


def climb(height):
    return height and climb(height - 1) + 1


def mixture():
    """Functions that take turns every 20 us or so, which is far below a sampling period."""

    def work():
        adding()
        hashing_a_little()
        ordering()
        counting()
        climb(40)

    until(work, 60.0)  # whoever has seen enough ends it


def großer_λ_name():  # noqa: PLC2401 - what is tested
    return sum(range(3000))


class Snake:
    def метод(self):  # noqa: PLC2401 - what is tested
        return sum(range(3000))


def template():
    return sum(range(3000))


def foreign_names():
    code = template.__code__.replace(co_name="😀", co_qualname="Kopf.😀")
    smiling = type(template)(code, globals())
    snake = Snake()

    def work():
        großer_λ_name()
        snake.метод()
        smiling()

    until(work)


def descend(depth, work):
    if depth:
        descend(depth - 1, work)
    else:
        until(work)


def deep():
    descend(512, lambda: sum(range(5000)))


def too_deep():
    descend(1500, lambda: sum(range(5000)))


def in_child():
    until(lambda: sum(range(1000)), 2 * SECONDS)


def forked():
    pid = os.fork()
    if pid == 0:
        in_child()
        os._exit(0)
    os.waitpid(pid, 0)


def started():
    subprocess.run([sys.executable, "-S", __file__, "in_child"], check=True)


def unshared():
    """A child in a PID namespace of its own; its program's child, too."""
    command = ["unshare", "--pid", "--fork", "--mount-proc"]
    subprocess.run([*command, sys.executable, "-S", __file__, "in_child"], check=True)


def unshared_fork():
    """A child in a PID namespace of its own that goes on with the same program."""
    outer = os.fork()
    if outer == 0:
        if ctypes.CDLL(None).unshare(0x20000000):  # CLONE_NEWPID: for children from now on
            os._exit(1)
        inner = os.fork()
        if inner == 0:
            until(lambda: sum(range(1000)), SECONDS if os.getpid() == 1 else 0)
            os._exit(0)
        os.waitpid(inner, 0)
        os._exit(0)
    assert os.waitpid(outer, 0)[1] == 0


def number():
    return os.getpid()


def subinterpreters():
    """Work in another interpreter of this process, on this thread."""
    try:
        import _interpreters as interpreters  # 3.13 and newer
    except ImportError:
        import _xxsubinterpreters as interpreters
    other = interpreters.create()
    source = f"""
import time
def inside():
    end = time.process_time() + {SECONDS}
    while time.process_time() < end:
        sum(range(1000))
inside()
"""
    interpreters.run_string(other, source)
    interpreters.destroy(other)


def runtime_address():
    """Tell where the runtime begins, whose first words say what the interpreter is."""
    return ctypes.addressof(ctypes.c_char.in_dll(ctypes.pythonapi, "_PyRuntime"))


def nothing():
    return ""


STAGES = {
    each.__name__: each
    for each in (
        *(subinterpreters, runtime_address),
        *(
            plain,
            generators,
            coroutines,
            threads,
            generated,
            hashing,
            packing,
            reading,
            foreign_names,
        ),
        *(
            deep,
            too_deep,
            mixture,
            in_child,
            forked,
            started,
            unshared,
            unshared_fork,
            number,
            nothing,
        ),
    )
}


def main():
    sys.setrecursionlimit(5000)
    if len(sys.argv) > 1:
        STAGES[sys.argv[1]]()
        return
    for line in sys.stdin:
        told = STAGES[line.strip()]()
        print("done", "" if told is None else told, flush=True)  # noqa: T201 - to the test


if __name__ == "__main__":
    main()
