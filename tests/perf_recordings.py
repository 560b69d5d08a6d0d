"""Real recordings by `perf record`, and what `perf script` says of them."""

import io
import mmap
import os
import re
import subprocess
from collections import Counter
from pathlib import Path

from ci_flame.formats import perf_data, perf_script
from ci_flame.profile import Profile, Stack
from ci_flame.simplify import clean_frame
from ci_flame.symbols.resolve import Resolver
from ci_flame.symbols.unwind import SampleUnwinder

FIELDS = "comm,pid,tid,time,period,event,ip,sym,dso"
ENVIRONMENT = {**os.environ, "LC_ALL": "C.UTF-8", "PERF_CONFIG": "/dev/null"}


def record(data: Path, *command: str, options: tuple[str, ...] = (), hertz: int = 4999) -> Path:
    """Record a command with perf; its own words go to the error if it fails."""
    perf = ["perf", "record", "-q", "-e", "cpu-clock", "-F", str(hertz), "-g", *options]
    done = subprocess.run(
        [*perf, "-o", str(data), "--", *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=ENVIRONMENT,
    )
    assert done.returncode == 0, done.stderr
    return data


def mapped(file: Path) -> mmap.mmap:
    with file.open("rb") as opened:
        return mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)


def ours(file: Path, event: str = "", **options) -> Profile:
    data = perf_data.read(mapped(file), file.name)
    return perf_data.profile(data, Resolver(data, **options), event, unwind=SampleUnwinder())


def perfs(file: Path, *, fields: str = FIELDS) -> Profile:
    """What `perf script` prints, read by our reader of its text."""
    done = subprocess.run(
        ["perf", "script", "-f", "-i", str(file), "--no-inline", "-F", fields],
        capture_output=True,
        check=True,
        timeout=300,
        env=ENVIRONMENT,
    )
    return perf_script.read(io.StringIO(done.stdout.decode(errors="replace")), file.name)


def counted(profile: Profile) -> Counter[Stack]:
    """Samples by stack, names cleaned as in every run; templates' brackets written alike."""
    stacks: Counter[Stack] = Counter()
    for stack, weight in profile.stacks.items():
        stacks[tuple(map(clean_frame, stack))] += weight.samples
    return stacks


RETURNED = re.compile(r"(?<=[<,])(?:unsigned)?(?:bool|char|int|long|void)(?=v8::)")
"""LLVM's demangler names what the function returns that a template's lambda is written in, GNU's
does not: `find_if<short const*, unsigned int v8::…::AdvanceUntil<…>(…)::{lambda…}>`."""


def without_blanks(stacks: Counter) -> Counter:
    """Return the same samples under names without blanks and returned types."""
    merged = Counter()
    for stack, count in stacks.items():
        merged[RETURNED.sub("", ";".join(map(str, stack)).replace(" ", ""))] += count
    return merged


def agreement(file: Path, *, blanks: bool = True, **options) -> tuple[float, str]:
    """Share of samples with the same stack by both, and the stacks that differ.

    Without `blanks`, C++ names that differ only in them and in `RETURNED` types are the same name:
    LLVM's demangler and GNU's put them elsewhere in templates within templates.
    """
    mine, theirs = counted(ours(file, **options)), counted(perfs(file))
    if not blanks:
        mine, theirs = without_blanks(mine), without_blanks(theirs)
    assert mine.total() == theirs.total()
    told = [
        f"{who} {count}: {stack if isinstance(stack, str) else ';'.join(map(str, stack))}"
        for who, rest in (("ours", mine - theirs), ("perf", theirs - mine))
        for stack, count in rest.most_common(5)
    ]
    return (mine & theirs).total() / theirs.total(), "\n".join(told)
