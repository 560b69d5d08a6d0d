"""Hypothesis strategies for recordings with known truth; `synthetic.py` makes them."""

from hypothesis import strategies as st
from synthetic import Noise, synthetic_measurement

from ci_flame.profile import Frame, Kind

_NAMES = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters=";:[]*?!"),
    min_size=1,
    max_size=12,
)
NAMED_FRAMES = st.one_of(
    st.builds(Frame, _NAMES, _NAMES),
    st.builds(Frame, _NAMES, _NAMES, st.just(Kind.NATIVE)),
    st.builds(Frame, _NAMES, st.just(""), st.just(Kind.KERNEL)),
    st.builds(Frame, _NAMES, st.just(""), st.just(Kind.JIT)),
)
"""Frames whose names have nothing that a glob gives a meaning to."""

_LEAVES = st.lists(st.sampled_from("abcdefgh"), min_size=0, max_size=4)


@st.composite
def costs(draw, functions: int = 8):
    """Return true own costs by folded stack, all under one root, recursion included."""
    paths = draw(st.lists(_LEAVES, min_size=1, max_size=functions, unique_by=tuple))
    return {
        ";".join(["m:root", *(f"m:{name}" for name in path)]): draw(st.floats(50.0, 5000.0))
        for path in paths
    }


NOISES = st.builds(
    Noise,
    machine=st.floats(0.0, 0.3),
    drift=st.floats(0.0, 0.1),
    misfit=st.floats(0.0, 0.1),
    function=st.floats(0.0, 0.05),
    dispersion=st.floats(0.2, 3.0),
)


@st.composite
def measurements(draw, truth=None):
    """Return a small recording of two to five processes."""
    return synthetic_measurement(
        draw(costs()) if truth is None else truth,
        processes=draw(st.integers(2, 5)),
        rounds=draw(st.integers(1, 6)),
        seconds=draw(st.floats(0.3, 2.0)),
        seed=draw(st.integers(0, 2**31)),
        noise=draw(NOISES),
        references=draw(st.sampled_from([(), ("core",), ("core", "memory")])),
    )
