"""Where code and data lie: held in place for the interpreter, stirred for everything else."""

import ctypes
import os
import random
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
from synthetic import ENVIRONMENT, SHOP, synthetic_measurement, synthetic_run

from ci_flame.baseline import folder
from ci_flame.diff import differences
from ci_flame.record import layout

_ASK = 0xFFFFFFFF
_NO_RANDOMIZE = 0x0040000
_DESCRIBE = "from ci_flame.record import layout; print(layout.describe())"


def personality():
    return ctypes.CDLL(None).personality(ctypes.c_ulong(_ASK))


def may_be_held():
    """Tell whether this system lets a thread ask for fixed addresses."""
    before = personality()
    with layout.held():
        held = before >= 0 and bool(personality() & _NO_RANDOMIZE)
    return held and not before & _NO_RANDOMIZE


needs_personality = pytest.mark.skipif(
    not may_be_held(), reason="personality(2) is refused here, or addresses are fixed already"
)


def child(code, **variables):
    """Return what a fresh interpreter prints."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **variables},
        capture_output=True, text=True, check=True, timeout=60,
    ).stdout.strip()  # fmt: skip


# -- real processes -------------------------------------------------------------------


@needs_personality
def test_held_processes_lie_alike_and_others_at_random():
    with layout.held():
        one = child(_DESCRIBE)
        two = child(_DESCRIBE, CI_FLAME_PADDING="x" * 4000)  # moves the stack, not the code
    free = child(_DESCRIBE)

    assert one == two
    assert one.startswith("fixed-")
    assert len(one) == len("fixed-") + 8
    assert free == "random"


@needs_personality
def test_held_moves_no_code_of_the_interpreter():
    """The promise itself, by addresses instead of by our own words.

    Debian's python is linked to fixed addresses in any case; its C library is not.
    """
    code = (
        "import ctypes\n"
        "here = ctypes.pythonapi.PyDict_SetItem, ctypes.CDLL('libc.so.6').malloc\n"
        "print(*(ctypes.cast(each, ctypes.c_void_p).value for each in here))"
    )
    with layout.held():
        held = {child(code) for _ in range(3)}
    free = {child(code) for _ in range(3)}

    assert len(held) == 1
    assert len(free) == 3


@needs_personality
def test_the_doctor_tries_it():
    assert layout.permitted()
    assert layout.row() == ("memory layout", "the interpreter can be held in place", "")


@needs_personality
def test_held_is_put_back():
    before = personality()
    with layout.held():
        assert personality() == before | _NO_RANDOMIZE
    assert personality() == before

    with pytest.raises(LookupError), layout.held():
        raise LookupError
    assert personality() == before


@needs_personality
def test_held_is_the_thread_s_own():
    entered, seen = threading.Event(), []
    other = threading.Thread(target=lambda: (entered.wait(10), seen.append(personality())))
    other.start()
    with layout.held():
        entered.set()
        other.join()
        assert personality() & _NO_RANDOMIZE

    assert seen == [personality()]
    assert not seen[0] & _NO_RANDOMIZE


def test_where_it_is_refused_nothing_is_changed(monkeypatch):
    asked = []
    monkeypatch.setattr(layout, "_personality", lambda value: asked.append(value) or -1)
    with layout.held():
        pass

    assert asked == [_ASK]
    assert layout.describe() == "random"
    assert not layout.permitted()
    _, found, cure = layout.row()
    assert found == "random, personality(2) is refused: costs spread more between processes"
    assert "seccomp" in cure


# -- the words ------------------------------------------------------------------------

PYTHON = "555555554000-555555900000 r-xp 0001f000 08:01 42   /usr/bin/python3.11"
LIBC = "7ffff7c28000-7ffff7dbd000 r-xp 00028000 08:01 43   /usr/lib/x86_64-linux-gnu/libc.so.6"
FIXED = layout.described(_NO_RANDOMIZE, f"{PYTHON}\n{LIBC}\n")


@pytest.mark.parametrize(
    ("change", "same"),
    [
        # No function of the interpreter moved.
        ((LIBC, f"{LIBC}\n7ffff7fc1000-7ffff7fc3000 r-xp 00000000 00:00 0   [vdso]"), True),
        ((LIBC, f"{LIBC}\n7ffff7000000-7ffff7001000 r-xp 00000000 08:01 9   /x/_json.so"), True),
        ((LIBC, f"{LIBC}\n7ffff6000000-7ffff6001000 r-xp 00000000 00:00 0"), True),  # a JIT's
        ((LIBC, f"{LIBC}\n555555a00000-555555b00000 rw-p 00000000 00:00 0   [heap]"), True),
        (("/usr/bin/python3.11", "/opt/env/bin/python3.11"), True),  # where the file lies
        (("08:01 42", "08:02 99"), True),
        # One did.
        (("555555554000-555555900000", "555555554000-555555901000"), False),
        (("7ffff7c28000", "7ffff7c27000"), False),
        (("python3.11", "python3.12"), False),
        ((LIBC, f"{LIBC}\n7ffff7a00000-7ffff7b00000 r-xp 0 08:01 44   /lib/libm.so.6"), False),
        ((LIBC, f"{LIBC}\n7ffff7a00000-7ffff7b00000 r-xp 0 08:01 44   /l/ld-linux.so.2"), False),
        (("/usr/bin/python3.11", "/usr/lib/libpython3.11.so.1.0"), False),
    ],
)  # fmt: skip
def test_the_digest_is_of_the_interpreter_s_code(change, same):
    maps = f"{PYTHON}\n{LIBC}\n"
    assert change[0] in maps
    told = layout.described(_NO_RANDOMIZE, maps.replace(*change))

    assert told.startswith("fixed-")
    assert (told == FIXED) is same


@pytest.mark.parametrize(
    ("personality", "fixed"), [(0, False), (0x0400000, False), (0x0040000, True), (0x0440000, True)]
)
def test_only_a_held_process_is_fixed(personality, fixed):
    told = layout.described(personality, f"{PYTHON}\n{LIBC}\n")

    assert told == (FIXED if fixed else "random")


# -- what is stirred ------------------------------------------------------------------


def test_the_padding_is_of_random_length_and_within_a_page():
    lengths = [len(layout.padding()) for _ in range(50)]

    assert len(set(lengths)) > 25
    assert max(lengths) < 4096


def test_the_heap_is_stirred_and_random_left_alone():
    state = random.getstate()
    sizes = {len(layout.stir()) for _ in range(10)}

    assert len(sizes) > 5
    assert max(sizes) <= 10_000  # half of the blocks at most: the others are the holes
    assert random.getstate() == state


@needs_personality
def test_held_processes_still_have_their_data_at_different_places():
    """Without this, five processes would be one measurement, repeated."""
    code = (
        "from ci_flame.record import layout\n"
        "heap = layout.stir()\n"
        "import ctypes\n"
        "libc = ctypes.CDLL(None)\n"
        "libc.getenv.restype = ctypes.c_void_p\n"
        "made = [{n: n} for n in range(5_000)]\n"
        "print(id(made[-1]), libc.getenv(b'PATH'))"
    )
    with layout.held():
        made = [child(code, CI_FLAME_PADDING=layout.padding()).split() for _ in range(4)]

    heaps, variables = (set(places) for places in zip(*made, strict=True))

    assert len(heaps) > 1
    assert len(variables) > 1


# -- what is kept of it ---------------------------------------------------------------


def test_it_is_kept_with_the_run(tmp_path):
    environment = replace(ENVIRONMENT, layout="fixed-0a1b2c3d")
    folder.save(synthetic_run(synthetic_measurement(SHOP), environment=environment), tmp_path / "r")

    assert '"layout": "fixed-0a1b2c3d"' in (tmp_path / "r" / "run.json").read_text()
    assert folder.load(tmp_path / "r").environment == environment


@pytest.mark.parametrize(
    ("before", "after"),
    [("random", "fixed-0a1b2c3d"), ("fixed-0a1b2c3d", "random"), ("fixed-0a1b2c3d", "fixed-1")],
)
def test_runs_that_lie_differently_are_not_compared(before, after):
    one, other = (replace(ENVIRONMENT, layout=each) for each in (before, after))

    assert differences(one, other) == (f"memory layout of the interpreter: {before}, {after}",)
    assert differences(one, one) == ()
