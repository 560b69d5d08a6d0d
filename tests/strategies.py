"""Hypothesis strategies for the model: odd names and figures, but runs that may exist."""

from hypothesis import strategies as st

from ci_flame.profile import (
    Environment,
    Frame,
    Histogram,
    Kind,
    Measurement,
    Mode,
    Place,
    Process,
    Profile,
    Round,
    Run,
    Unit,
    Weight,
)
from ci_flame.profile.counts import Count, Counting
from ci_flame.profile.timing import Timed, Timing

TEXT = st.text(
    st.characters(exclude_categories=["Cs"]) | st.sampled_from(":;%[]() \n\t<>./é漢"),
    min_size=1,
    max_size=12,
)
"""Anything that UTF-8 can carry, with the characters that formats give a meaning to."""
PLAIN = st.from_regex(r"[a-zA-Zé_<][abcXYZ_.019<>é]{0,8}", fullmatch=True)
"""Names as languages have them."""
INT64 = st.integers(0, 2**63 - 1)
SMALL = st.integers(0, 50)


def frames(text=TEXT):
    return st.one_of(
        st.builds(Frame, text, text | st.just(""), st.just(Kind.PYTHON)),
        st.builds(Frame, text, text | st.just(""), st.just(Kind.NATIVE)),
        st.builds(Frame, text, st.just(""), st.just(Kind.KERNEL)),
        st.builds(Frame, text, st.just(""), st.just(Kind.JIT)),
        st.builds(Frame, text.map("[{}]".format), st.just(""), st.just(Kind.MARK)),
    )


@st.composite
def stacks(draw, text=TEXT):
    """Stacks of a few frames each, from a small pool, so that they share frames."""
    pool = draw(st.lists(frames(text), min_size=1, max_size=5, unique=True))
    return draw(
        st.lists(
            st.lists(st.sampled_from(pool), min_size=1, max_size=6).map(tuple),
            max_size=6,
            unique=True,
        )
    )


@st.composite
def profiles(draw, unit=None, iterations=None, text=TEXT):
    found = draw(stacks(text))
    return Profile(
        {stack: Weight(draw(SMALL), draw(INT64)) for stack in found},
        unit or draw(st.sampled_from(Unit)),
        iterations or draw(st.integers(1, 1000)),
    )


@st.composite
def rounds(draw, units):
    iterations = draw(st.integers(1, 10**9))
    modes = draw(st.sets(st.sampled_from(Mode)))
    return Round(
        iterations=iterations,
        cpu_ns=draw(INT64),
        wall_ns=draw(INT64),
        run_delay_ns=draw(INT64),
        references=draw(st.dictionaries(TEXT, st.lists(INT64, max_size=3).map(tuple), max_size=2)),
        profiles={
            mode: draw(profiles(units[mode], draw(st.just(iterations) | st.integers(1, 9))))
            for mode in modes
        },
        dropped=draw(st.just("") | TEXT),
        steal_ns=draw(INT64),
    )


def counts():
    some = INT64 | st.none()
    return st.builds(Count, INT64, some, some, some)


def countings():
    return st.builds(
        Counting,
        python=PLAIN,
        hash_seed=PLAIN,
        iterations=SMALL,
        left_out=st.just("") | TEXT,
        unsteady=st.frozensets(frames(), max_size=2),
    )


@st.composite
def timings(draw):
    rounds = draw(st.integers(0, 3))
    column = st.lists(INT64, min_size=rounds, max_size=rounds).map(tuple)
    positive = st.lists(st.integers(1, 1 << 40), min_size=rounds, max_size=rounds).map(tuple)
    return Timing(
        draw(positive),
        draw(st.dictionaries(TEXT, column, max_size=2)),
        draw(st.dictionaries(frames(), st.builds(Timed, column, column), max_size=2)),
        draw(st.dictionaries(frames(), TEXT, max_size=2)),
        draw(INT64),
        draw(INT64),
    )


@st.composite
def processes(draw, units):
    return Process(
        rounds=tuple(draw(st.lists(rounds(units), max_size=3))),
        kept=draw(INT64),
        lost=draw(INT64),
        expected=draw(INT64),
        truncated=draw(INT64),
        unrooted=draw(INT64),
        counts=draw(st.dictionaries(frames(), counts(), max_size=2)),
        counting=draw(st.none() | countings()),
        timing=draw(st.none() | timings()),
        metrics=draw(
            st.dictionaries(TEXT, st.floats(allow_nan=False, allow_infinity=False), max_size=2)
        ),
        histograms=draw(
            st.dictionaries(
                TEXT, st.dictionaries(SMALL, INT64, max_size=3).map(Histogram), max_size=2
            )
        ),
        warm_up_ns=draw(INT64),
        settled=draw(st.booleans()),
        notes=tuple(draw(st.lists(TEXT, max_size=2))),
    )


@st.composite
def measurements(draw, benchmark):
    units = {mode: draw(st.sampled_from(Unit)) for mode in Mode}
    done = tuple(draw(st.lists(processes(units), max_size=2)))
    seen = [
        frame
        for process in done
        for each in process.rounds
        for profile in each.profiles.values()
        for stack in profile.stacks
        for frame in stack
    ]
    placed = draw(st.lists(st.sampled_from(seen), max_size=4)) if seen else []
    placed += draw(st.lists(frames(), max_size=2))
    return Measurement(
        benchmark=benchmark,
        processes=done,
        root=draw(st.none() | frames()),
        places={frame: Place(draw(TEXT), draw(st.integers(0, 10**6))) for frame in placed},
    )


@st.composite
def runs(draw):
    ids = draw(st.lists(TEXT, max_size=3, unique=True))
    environment = Environment(
        *(draw(TEXT) for _ in range(2)),
        draw(INT64),
        *(draw(st.just("") | TEXT) for _ in range(4)),
        draw(INT64),
        draw(TEXT),
    )
    return Run(
        environment=environment,
        measurements=tuple(draw(measurements(benchmark)) for benchmark in ids),
        commit=draw(st.just("") | TEXT),
        dirty=draw(st.booleans()),
        time=draw(st.just("") | TEXT),
        complete=draw(st.booleans()),
    )
