"""Model, pure: what a second recording made of a failure, in words."""

from collections.abc import Sequence

from ci_flame.verdict import Finding, Note, Outcome


def confirmation(
    benchmark: str,
    first: Sequence[Finding],
    second: Outcome,
    *,
    beside: str = "",
    trouble: str = "",
    ancestor: str = "",
) -> Note:
    """Return what a second recording made of a failure; only the second counts.

    `first`: findings of the first; empty where only its baseline was in doubt. `second`: what
    the second recording was judged to be; where that is INCONCLUSIVE it refutes nothing.
    `beside`: the commit that was to be recorded, too; empty: none was. `trouble`: why it could
    not be. `ancestor`: the commit whose run is stored, where `beside` is a later one.
    """
    failed, unclear = second is Outcome.FAIL, second is Outcome.INCONCLUSIVE
    if failed:
        words = "failed in two recordings; the figures are the second's"
    elif not first:
        end = "could not be judged" if unclear else "passed"
        words = f"what failed against the stored baseline alone was recorded once more, and {end}"
    else:
        told = str(first[0]).removeprefix(f"{benchmark}: ")
        end = "could not be judged, and refutes nothing" if unclear else "did not confirm it"
        words = f"a first recording failed, the second {end}: {told.removesuffix('.')}"
    name = "the base commit" if ancestor else "the baseline's commit"
    if trouble:
        words += f"; {name} could not be recorded beside it: {trouble}"
        if ancestor and failed:
            words += (
                f", so that commits between {ancestor[:10]} and the base {beside[:10]} may have"
                " done it"
            )
    elif beside:
        words += f"; {name} {beside[:10]} was recorded beside it"
        if ancestor:
            words += f", and is what counts, not what is stored of {ancestor[:10]}"
    slug = "confirmed" if failed else "not-confirmed"
    return Note(slug, words, benchmark, "" if trouble else beside)
