"""Stage 6, pure: a self-test -> the lines of a terminal."""

from collections.abc import Iterator

from ci_flame.self_test import choosing
from ci_flame.self_test.figures import Planted, Same, SelfTest, Tested, limit_words
from ci_flame.verdict import percent


def render(test: SelfTest) -> str:
    """Return everything that a self-test says, the sentence first."""
    return "\n".join(lines(test)) + "\n"


def lines(test: SelfTest) -> Iterator[str]:
    """Return it line by line."""
    yield test.headline
    for each in test.benchmarks:
        yield ""
        yield from benchmark(each)
    for note in test.notes:
        yield ""
        yield f"note: {note}"


def benchmark(tested: Tested, *, planted_too: bool = True) -> Iterator[str]:
    """Return the lines of one benchmark; the first is its name."""
    each_s = tested.seconds / tested.processes
    yield f"{tested.benchmark} ({tested.processes} x {each_s:g} s a side)"
    for each in tested.same:
        yield f"  identical code   {_same(each)}"
    for slow in tested.planted if planted_too else ():
        yield f"  planted          {planted(slow)}"
        if slow.accused:
            yield f"                   innocent, and accused with it: {', '.join(slow.accused)}"
    for name, why in tested.refused:
        yield f"  not planted      {name}: {why}"
    if tested.skipped:
        yield f"  not tested       {tested.skipped}"
    yield from (f"  {line}" for line in advice(tested))


def _same(each: Same) -> str:
    if each.why:
        return f"not judged: {each.why}"
    told = f"{each.outcome}{' after a second recording' if each.confirmed else ''}"
    return "; ".join((told, *each.accused))


def planted(each: Planted) -> str:
    """Return what was planted into one function, and what the gate said."""
    what = f"+{percent(each.growth)} % of {each.function} ({percent(each.own_share)} % own cost)"
    estimate = ""
    if each.estimate is not None:
        ends = ""
        if each.low is not None and each.high is not None:
            ends = f" ({percent(each.low, decimals=0)} to {percent(each.high, decimals=0)} %)"
        sign = "+" if each.estimate >= 0 else ""
        estimate = f", measured {sign}{percent(each.estimate)} %{ends}"
    if each.found:
        twice = " and confirmed" if each.looks > 1 else ""
        return f"{what}: found{twice}{estimate}"
    why = "" if each.limit is None else f"; limit {limit_words(each.limit)}"
    if each.limit is None:
        why = "; no rule limits its growth in percent"
    seen = f", visible from {percent(each.visible)} % on" if each.visible is not None else ""
    second = " (the second recording did not confirm it)" if each.looks > 1 else ""
    return f"{what}: NOT found{second}{estimate}{why}{seen}"


def advice(tested: Tested) -> Iterator[str]:
    """Return what the recording is good for, and what a lower limit would cost."""
    if not tested.judged:
        return
    a_side = f"{tested.seconds:g} s a side"
    if tested.visible is None:
        yield f"what it can see  nothing below +900 % in {a_side}: record longer"
        return
    yield (
        f"what it can see  growth of {percent(tested.visible)} % or more in functions over 5 %"
        f" (4 times of 5), in {a_side}"
    )
    limit = tested.recommended
    words = f"no limit below 100 % in {a_side}" if limit is None else limit_words(limit)
    if tested.limit is not None:
        words += ", as it is" if limit == tested.limit else f"; now {limit_words(tested.limit)}"
    yield f"recommended      {words}"
    for growth in sorted({choosing.WANTED, limit or choosing.WANTED}, reverse=True):
        if growth < tested.visible:
            told = f"to see {limit_words(growth)}"
            yield f"{told:<15}  {_price(tested, growth)}"


def _price(tested: Tested, growth: float) -> str:
    """Return what recording must be to see so much growth."""
    seconds = tested.seconds_for(growth)
    if seconds is None:
        return "more than a hundred times as long: not by recording longer"
    processes = max(2, round(seconds / tested.seconds * tested.processes))
    return f"about {seconds:.0f} s a side, in {processes} processes"
