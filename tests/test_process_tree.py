"""Processes and what they have started: real ones, and /proc as other kernels have it."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci_flame.collect import process_tree
from ci_flame.collect.process_tree import is_alive, tree

WAYS = ["the kernel's lists", "everybody's parent"]


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    """Both ways to children, on the real /proc."""
    if request.param == WAYS[0]:
        assert process_tree._lists_children(Path("/proc")), "this kernel has no such lists"
    else:
        monkeypatch.setattr(process_tree, "_lists_children", lambda _proc: False)
    return request.param


@contextlib.contextmanager
def running(code, *words):
    """A Python process that has said `ready`, ended with all that it has started."""
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", code, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process, process.stdout.readline().split()
        finally:
            os.killpg(process.pid, signal.SIGKILL)


FAMILY = """
import os, sys, threading
def child(work):
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        found = work()
        os.write(write, f"{os.getpid()} {found}".encode())
        while True:
            sys.stdin.read()
            threading.Event().wait(60)
    return os.read(read, 64).decode()
told = []
thread = threading.Thread(target=lambda: told.append(child(lambda: "")))  # started by a thread
thread.start()
thread.join()
told.append(child(lambda: child(lambda: "")))  # child and grandchild
print(*told, flush=True)
sys.stdin.read()
"""


def test_children_of_all_threads_and_their_children_are_found(way):
    with running(FAMILY) as (process, told):
        by_thread, child, grandchild = map(int, told)

        found = tree([process.pid])
        assert set(found) == {process.pid, by_thread, child, grandchild}
        assert found[0] == process.pid
        assert found.index(child) < found.index(grandchild)
        assert tree([child, process.pid, child]) == (
            *(child, process.pid, grandchild),
            by_thread,
        )
        assert tree([grandchild]) == (grandchild,)


@pytest.mark.parametrize("limit", [0, 1, 3, 4, 5])
def test_the_number_is_bounded(way, limit):
    with running(FAMILY) as (process, told):
        assert len(tree([process.pid], limit=limit)) == min(limit, 1 + len(told))


def test_who_has_ended_is_left_out(way):
    """Also one that still waits for its parent to take note: it has a number, and no children."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    with subprocess.Popen(["true"]) as waiting:
        os.waitid(os.P_PID, waiting.pid, os.WEXITED | os.WNOWAIT)

        assert Path(f"/proc/{waiting.pid}").is_dir()
        assert tree([gone.pid, waiting.pid]) == ()
        assert not is_alive(gone.pid)
        assert not is_alive(waiting.pid)


LEADERLESS = """
import ctypes, os, threading
def go_on():
    if os.fork() == 0:
        threading.Event().wait(60)
    print("ready", flush=True)
    threading.Event().wait(60)
threading.Thread(target=go_on, daemon=True).start()
ctypes.CDLL(None).syscall(60, 0)  # exit of this thread alone
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the number of a system call")
def test_a_process_without_its_first_thread_lives(way):
    with running(LEADERLESS) as (process, _told):
        deadline = time.monotonic() + 10
        while process_tree.stat_words(process.pid)[0] != "Z" and time.monotonic() < deadline:
            time.sleep(0.01)
        assert process_tree.stat_words(process.pid)[0] == "Z"

        assert is_alive(process.pid)
        if way == WAYS[0]:  # the kernel tells the child's parent to be the thread's process
            assert len(tree([process.pid])) == 2


def processes(folder, parents, ended=(), *, lists):
    """A /proc where `parents` tells each process's parent."""
    for pid, parent in parents.items():
        place = folder / str(pid)
        state = "Z" if pid in ended else "S"
        (place / "task" / str(pid)).mkdir(parents=True)
        # A name may have brackets and spaces of its own.
        (place / "stat").write_text(f"{pid} (a) b) {state} {parent} {'0 ' * 15}1 0\n")
        if lists:
            mine = [str(each) for each, above in parents.items() if above == pid]
            (place / "task" / str(pid) / "children").write_text(" ".join(mine) + " ")
    if lists:
        (folder / "thread-self").mkdir()
        (folder / "thread-self" / "children").write_text("")
    (folder / "uptime").write_text("1 1\n")
    return folder


@given(
    above=st.lists(st.integers(0, 30), max_size=30),
    roots=st.lists(st.integers(1, 35), max_size=4),
    ended=st.sets(st.integers(1, 30), max_size=5),
)
def test_both_ways_find_the_same(tmp_path_factory, above, roots, ended):
    # Each process has one that began before it as its parent, 0 is nobody.
    parents = {pid: min(parent, pid - 1) for pid, parent in enumerate(above, 1)}
    found = []
    for lists in (True, False):
        folder = tmp_path_factory.mktemp("proc")
        found.append(tree(roots, proc=processes(folder, parents, ended, lists=lists)))

    def lives_below(pid):
        while pid in parents and pid not in ended:
            if pid in roots:
                return True
            pid = parents[pid]
        return False

    assert found[0] == found[1]
    assert set(found[0]) == {pid for pid in parents if lives_below(pid)}
    assert len(set(found[0])) == len(found[0])


@pytest.mark.parametrize("lists", [True, False])
@pytest.mark.parametrize("text", ["", "x", "7 (name", "7 (name) ", "7 (name) Z", "7 (n) Z 1 x"])
def test_a_stat_that_is_cut_off_is_of_nobody(tmp_path, text, lists):
    folder = processes(tmp_path, {7: 0, 8: 7}, lists=lists)
    (folder / "7" / "stat").write_text(text)

    assert tree([7, 8], proc=folder) == (8,)


@pytest.mark.parametrize("lists", [True, False])
def test_a_circle_ends(tmp_path, lists):
    assert tree([1], proc=processes(tmp_path, {1: 2, 2: 1}, lists=lists)) == (1, 2)
