"""Maps of JIT compilers: kept past their end, and never somebody else's file."""

import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from test_cli import call

from ci_flame.collect.perf import maps as perf_maps
from ci_flame.collect.perf.maps import MapKeeper
from ci_flame.collect.process_tree import tree

NOBODY = 65534
NAMES = "1000 20 LazyCompile:*add /app/x.js:1\n"


@contextmanager
def runtime(text, tmp, *, before="", hold=True):
    """A process that writes its map as a runtime does, and tells when it has."""
    code = (
        f"import os, sys\n{before}\n"
        f"open(f'{tmp}/perf-{{os.getpid()}}.map', 'w').write({text!r})\n"
        "print(os.getpid(), flush=True)\n" + ("sys.stdin.read()\n" if hold else "")
    )
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert int(child.stdout.readline()) == child.pid
        yield child
    finally:
        child.stdin.close()
        child.wait(20)
        child.stdout.close()


@contextmanager
def keeping(pids, tmp):
    keeper = MapKeeper(pids, tmp=str(tmp))
    try:
        yield keeper
    finally:
        keeper.close()


@pytest.fixture
def tmp(tmp_path):
    folder = tmp_path / "tmp"
    folder.mkdir()
    return folder


def kept(folder):
    return {each.name: each.read_text() for each in folder.iterdir()}


def test_map_is_kept_when_the_runtime_and_the_file_are_gone(tmp_path, tmp):
    with keeping([], tmp) as keeper, runtime(NAMES, tmp) as child:
        keeper._roots = (child.pid,)
        keeper.start()
        for _ in range(100):
            if keeper._held:
                break
            time.sleep(0.1)
        child.stdin.close()
        child.wait(20)
        (tmp / f"perf-{child.pid}.map").unlink()
        found = kept(keeper.keep([child.pid], tmp_path / "maps"))

    assert found == {f"perf-{child.pid}.map": NAMES}
    assert keeper.refused == ()


def test_map_that_grows_and_one_that_is_exchanged_are_read_whole(tmp_path, tmp):
    with runtime(NAMES, tmp) as child, keeping([child.pid], tmp) as keeper:
        keeper.look()
        place = tmp / f"perf-{child.pid}.map"
        with place.open("a") as more:
            more.write(NAMES)
        assert kept(keeper.keep([], tmp_path / "maps")) == {place.name: NAMES * 2}
        (tmp / "new").write_text(NAMES * 3)
        (tmp / "new").rename(place)
        assert kept(keeper.keep([], tmp_path / "maps")) == {place.name: NAMES * 3}


def test_children_are_found(tmp_path, tmp):
    with runtime(NAMES, tmp) as child, keeping([os.getpid()], tmp) as us:
        assert child.pid in tree([os.getpid()])
        assert f"perf-{child.pid}.map" in kept(us.keep([], tmp_path / "maps"))


def test_process_that_ended_unseen_is_found_by_its_number(tmp_path, tmp):
    with keeping([os.getpid()], tmp) as keeper:
        with runtime(NAMES, tmp, hold=False) as child:
            pass
        assert kept(keeper.keep([child.pid], tmp_path / "maps")) == {f"perf-{child.pid}.map": NAMES}


def write_link(place, secret):
    place.symlink_to(secret)


def write_second_name(place, secret):
    os.link(secret, place)


def write_fifo(place, secret):
    os.mkfifo(place)


def write_old(place, secret):
    place.write_text(NAMES)
    os.utime(place, (1, 1))


def write_foreign(place, secret):
    place.write_text(NAMES)
    os.chown(place, NOBODY, NOBODY)


@pytest.mark.root
@pytest.mark.parametrize(
    ("write", "why"),
    [
        (write_link, "is not a plain file"),
        (write_second_name, "has a second name"),
        (write_fifo, "is not a plain file"),
        (write_old, "is older than the process"),
        (write_foreign, "belongs to user 65534 and the process to user 0"),
    ],
)
def test_what_is_not_the_processes_own_is_not_read(tmp_path, tmp, write, why):
    secret = tmp_path / "secret"
    secret.write_text("1000 20 secret\n")
    with runtime(NAMES, tmp_path) as child:
        place = tmp / f"perf-{child.pid}.map"
        write(place, secret)
        with keeping([child.pid], tmp) as keeper:
            assert kept(keeper.keep([child.pid], tmp_path / "maps")) == {place.name: ""}

    assert keeper.refused == (f"{tmp}/{place.name} {why}: not read",)


@contextmanager
def shell(*words):
    """A shell that says when its first commands are done, and then waits."""
    child = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout.readline() == b"done\n"
        yield child
    finally:
        child.stdin.close()
        child.wait(20)
        child.stdout.close()


@pytest.mark.root
def test_map_of_a_process_of_another_user_is_its_own(tmp_path, tmp):
    tmp.chmod(0o777)
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o755)
    script = f"echo 1 2 theirs > {tmp}/perf-$$.map; echo done; read word"
    user = f"--reuid={NOBODY} --regid={NOBODY} --clear-groups".split()
    with (
        shell("setpriv", *user, "sh", "-c", script) as child,
        keeping([child.pid], tmp) as keeper,
    ):
        found = kept(keeper.keep([], tmp_path / "maps"))

    assert found == {f"perf-{child.pid}.map": "1 2 theirs\n"}
    assert keeper.refused == ()


@pytest.mark.parametrize(("limit", "cut"), [(len(NAMES), False), (len(NAMES) - 1, True)])
def test_size_is_limited(tmp_path, tmp, monkeypatch, limit, cut):
    monkeypatch.setattr(perf_maps, "MAX_MAP", limit)
    with runtime(NAMES, tmp) as child, keeping([child.pid], tmp) as keeper:
        found = kept(keeper.keep([], tmp_path / "maps"))

    assert found == {f"perf-{child.pid}.map": NAMES[:limit]}
    assert ("its last names are missing" in "".join(keeper.refused)) == cut


def test_all_maps_together_are_limited(tmp_path, tmp, monkeypatch):
    monkeypatch.setattr(perf_maps, "MAX_ALL", len(NAMES) + 5)
    with (
        runtime(NAMES, tmp) as one,
        runtime(NAMES, tmp) as two,
        keeping([one.pid, two.pid], tmp) as keeper,
    ):
        found = kept(keeper.keep([], tmp_path / "maps"))

    assert sorted(map(len, found.values())) == [5, len(NAMES)]
    assert len(keeper.refused) == 1


def test_number_of_maps_is_limited(tmp_path, tmp, monkeypatch):
    monkeypatch.setattr(perf_maps, "MAX_MAPS", 1)
    with (
        runtime(NAMES, tmp) as one,
        runtime(NAMES, tmp) as two,
        keeping([one.pid, two.pid], tmp) as keeper,
    ):
        found = kept(keeper.keep([], tmp_path / "maps"))

    assert len(found) == 1
    assert keeper.refused == ("maps of more than 1 processes, the limit",)


@pytest.mark.root
def test_container_has_a_tmp_and_a_number_of_its_own(tmp_path):
    """Its process 1 writes /tmp/perf-1.map into a file system that nobody else sees."""
    script = "mount -t tmpfs none /tmp && echo 1 2 inside > /tmp/perf-$$.map; echo done; read word"
    spaces = ("--mount", "--pid", "--fork", "--mount-proc")
    with shell("unshare", *spaces, "sh", "-c", script) as child:
        (inner,) = set(tree([child.pid])) - {child.pid}
        with keeping([child.pid], perf_maps.TMP) as keeper:
            found = kept(keeper.keep([], tmp_path / "maps"))

    assert found == {f"perf-{inner}.map": "1 2 inside\n"}


needs_perf = pytest.mark.skipif(shutil.which("perf") is None, reason="perf is not installed")
SPIN = "i=0; while [ $i -lt 1500000 ]; do i=$((i+1)); done"


@pytest.mark.root
@needs_perf
def test_what_was_not_read_is_told(tmp_path):
    """A link in the place of the map: the recording goes on, and the user reads why."""
    script = f"ln -s /dev/null /tmp/perf-$$.map; {SPIN}; rm /tmp/perf-$$.map"
    told = call(
        "record", "--collector", "perf", "--repeat", "1", "-o", tmp_path / "run",
        "--name", "link", "--", "sh", "-c", script, check=0,
    ).stderr  # fmt: skip

    (line,) = (line for line in told.splitlines() if ".map" in line)
    assert re.fullmatch(r"ci-flame: /tmp/perf-\d+\.map is not a plain file: not read", line)


@pytest.mark.root
@needs_perf
def test_what_was_not_read_of_a_live_process_is_told_once(tmp_path):
    script = f"ln -s /dev/null /tmp/perf-$$.map; echo done; while :; do {SPIN}; done"
    child = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE)
    link = Path(perf_maps.TMP) / f"perf-{child.pid}.map"
    try:
        assert child.stdout.readline() == b"done\n"
        told = call(
            "record", "--collector", "perf", "--pid", child.pid, "--duration", "3s",
            "-o", tmp_path / "run", "--name", "link", check=0,
        ).stderr  # fmt: skip
    finally:
        child.kill()
        child.wait(20)
        child.stdout.close()
        link.unlink()

    assert told.splitlines().count(f"ci-flame: {link} is not a plain file: not read") == 1
