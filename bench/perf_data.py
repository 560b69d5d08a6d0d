"""How long reading a perf.data file takes: our reader beside perf script and what reads its text.

    .venv/bin/python bench/perf_data.py [--samples 350000] [--rounds 5] [--keep FOLDER]

Four programs run at once under `perf record -e cpu-clock -g -F 20000`: CPython with `-X perf`
(from tools/pythons.py; else the one that runs this), Java 17 and Node 20 with their maps, and a
C++ program. Then the same file is read, in turns, by:

    perf script        perf script --no-inline > /dev/null: perf's own reader, printing alone
    ci-flame           perf_data.read + profile in this process: a Profile, names and all
    ci-flame process   the same in a new process, imports and start-up included
    perf script text   perf script --no-inline | perf_script.read: a Profile from perf's text
    stackcollapse      perf script --no-inline | stackcollapse-perf.pl, where FLAMEGRAPH_DIR is set
    inferno            flamegraph --perfdata FILE --no-inline: perf script, folding and drawing

The medians of wall and CPU time (children included) are printed, and the share of samples whose
stack is the same by our reader and by perf script. Needs root or perf_event_paranoid <= 1.
"""

import argparse
import mmap
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from ci_flame.formats import perf_data, perf_script
from ci_flame.profile import Profile, Stack
from ci_flame.simplify import clean_frame
from ci_flame.symbols.resolve import Resolver

ROOT = Path(__file__).parent.parent
FIELDS = "comm,pid,tid,time,period,event,ip,sym,dso"
HERTZ = 20_000
SLOW = {"perf script text", "stackcollapse"}
"""Timed once: they take minutes."""
ENVIRONMENT = {**os.environ, "LC_ALL": "C.UTF-8", "PERF_CONFIG": "/dev/null"}
PYTHON = """
import json
def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
class Shop:
    def total(self, n): return sum(self.price(i) for i in range(n))
    def price(self, i): return len(str(i)) * 3
def parse(depth, n): return parse(depth - 1, n) if depth else json.loads(json.dumps({"k": [n] * 9}))
def main():
    while True:
        fib(15); Shop().total(2000); sorted(range(2000), key=lambda v: -v)
        for n in range(50): parse(12, n)
main()
"""
IN_PROCESS = """
import mmap, sys
from ci_flame.formats import perf_data
from ci_flame.symbols.resolve import Resolver
with open(sys.argv[1], "rb") as file:
    data = perf_data.read(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), sys.argv[1])
print(len(perf_data.profile(data, Resolver(data)).stacks))
"""


def record_enough(folder: Path, samples: int) -> Path:
    """Record for as long as that many samples take here; other work on the CPUs may double it."""
    seconds = samples / HERTZ / min(len(os.sched_getaffinity(0)), 4)
    for _ in range(3):
        file = record(folder, seconds)
        content = perf_data.read(file.read_bytes(), file.name)
        if len(content.samples) >= 0.9 * samples:
            break
        seconds *= 1.1 * samples / max(len(content.samples), 1)
    return file


def record(folder: Path, seconds: float) -> Path:
    """Record the four programs together for some seconds."""
    programs = folder / "programs"
    programs.mkdir(exist_ok=True)
    (programs / "shop.py").write_text(PYTHON, encoding="utf-8")
    sources = ROOT / "tests" / "data"
    subprocess.run(["javac", "-d", programs, sources / "jit" / "Shop.java"], check=True)
    compiler = ["c++", "-O1", "-fno-omit-frame-pointer", sources / "perf_data" / "shop.cpp"]
    subprocess.run([*compiler, "-o", programs / "shop"], check=True)
    pythons = sorted((ROOT / "build" / "pythons").glob("3.15/usr/bin/python3.15"))
    python = f"{pythons[0]} -X perf" if pythons else sys.executable
    java = "-XX:+PreserveFramePointer -XX:+UnlockDiagnosticVMOptions -XX:+DumpPerfMapAtExit"
    node = "--perf-basic-prof --interpreted-frames-native-stack"
    lines = [
        f"{python} {programs}/shop.py & a=$!",
        f"java {java} -cp {programs} Shop 2000000000 4 >/dev/null & b=$!",
        f"node {node} {sources}/jit/shop.js 2000000000 4 >/dev/null & c=$!",
        f"{programs}/shop 2000000000 >/dev/null & d=$!",
        f"sleep {seconds:.1f}; kill $a $b $c $d; wait",
        "exit 0",
    ]
    data = folder / "perf.data"
    command = ["perf", "record", "-q", "-e", "cpu-clock", "-g", "-F", str(HERTZ), "-o", str(data)]
    subprocess.run([*command, "--", "sh", "-c", "\n".join(lines)], check=True, env=ENVIRONMENT)
    return data


def read(file: Path) -> Profile:
    """Read a recording as the collector and `ci-flame import` do."""
    with file.open("rb") as opened:
        content = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    data = perf_data.read(content, file.name)
    return perf_data.profile(data, Resolver(data))


def script(file: Path, *fields: str) -> list[str]:
    """Return perf script's command line."""
    return ["perf", "script", "-i", str(file), "--no-inline", *fields]


def read_text(file: Path) -> Profile:
    """Read what perf script prints."""
    command = script(file, "-F", FIELDS)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, errors="replace", env=ENVIRONMENT
    ) as running:
        return perf_script.read(running.stdout or (), file.name)


def run(command: list[str], **options: object) -> None:
    """Run a program for its time alone."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": ENVIRONMENT}
    subprocess.run(command, check=True, **{**quiet, **options})  # type: ignore[call-overload]


def candidates(file: Path, folder: Path) -> dict[str, Callable[[], object]]:
    """Return what is timed, by name."""
    found: dict[str, Callable[[], object]] = {
        "perf script": lambda: run(script(file)),
        "ci-flame": lambda: read(file),
        "ci-flame process": lambda: run([sys.executable, "-c", IN_PROCESS, str(file)], cwd=ROOT),
        "perf script text": lambda: read_text(file),
    }
    flamegraph = os.environ.get("FLAMEGRAPH_DIR")
    if flamegraph:
        collapse = f"{' '.join(script(file))} | {flamegraph}/stackcollapse-perf.pl"
        found["stackcollapse"] = lambda: run(["sh", "-c", collapse])
    inferno = shutil.which("flamegraph", path=str(Path(sys.executable).parent))
    if inferno:
        drawn = ["--perfdata", str(file), "--no-inline", "-o", str(folder / "inferno.svg")]
        found["inferno"] = lambda: run([inferno, *drawn], cwd=folder)
    return found


def clocks() -> tuple[float, float]:
    """Return wall and CPU seconds; CPU with that of children that have ended."""
    times = os.times()
    return time.perf_counter(), sum(times[:4])


def counted(profile: Profile) -> Counter[Stack]:
    """Return the samples of each stack, names cleaned as in every run."""
    stacks: Counter[Stack] = Counter()
    for stack, weight in profile.stacks.items():
        stacks[tuple(map(clean_frame, stack))] += weight.samples
    return stacks


def main() -> None:
    """Record, time in turns, print."""
    parser = argparse.ArgumentParser(description="time readers of perf.data")
    parser.add_argument("--samples", type=int, default=350_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keep", type=Path, help="folder for the recording; used again if there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ci-flame-bench-") as temporary:
        folder = (options.keep or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "perf.data"
        if not file.exists():
            record_enough(folder, options.samples)
        mine = counted(read(file))
        theirs = counted(read_text(file))
        depth = sum(len(stack) * many for stack, many in mine.items()) / mine.total()
        print(
            f"{mine.total():,} samples, {file.stat().st_size / 1e6:.0f} MB,"
            f" {len(mine):,} different stacks, {depth:.1f} frames in the middle of all"
        )
        programs = Counter[str]()
        for stack, many in mine.items():
            programs[str(stack[0])] += many
        print(", ".join(f"{name} {many:,}" for name, many in programs.most_common(6)))
        same = (mine & theirs).total() / theirs.total()
        print(f"same stack as perf script's: {same:.3%} of samples")
        times: dict[str, list[tuple[float, float]]] = {}
        timed = candidates(file, folder)
        for number in range(options.rounds):
            for name, call in timed.items():
                if number and name in SLOW:
                    continue
                before = clocks()
                call()
                after = clocks()
                times.setdefault(name, []).append((after[0] - before[0], after[1] - before[1]))
        yardstick = statistics.median(wall for wall, _ in times["perf script"])
        yard_cpu = statistics.median(cpu for _, cpu in times["perf script"])
        print(
            f"{'':18}{'wall s':>8}{'ratio':>8}{'CPU s':>8}{'ratio':>8}   median of {options.rounds}"
        )
        for name, each in times.items():
            wall = statistics.median(wall for wall, _ in each)
            cpu = statistics.median(cpu for _, cpu in each)
            print(f"{name:18}{wall:8.2f}{wall / yardstick:8.2f}{cpu:8.2f}{cpu / yard_cpu:8.2f}")


if __name__ == "__main__":
    main()
