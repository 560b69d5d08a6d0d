"""Stage 1, edge: whose turn it is: the sides' processes alternate in random, balanced order.

A machine that drifts, or has a neighbour every so often, then does so for both sides.
"""

import random


def order(before: int, after: int, seed: str) -> tuple[str, ...]:
    """Return which side each further process is of: pairs in random order, then what is left.

    `order(2, 2, …)` is for example `after before before after`; the same for the same seed.
    Each side comes first in half of the pairs, so that a machine that drifts steadily treats
    both alike; which pairs those are is chance.
    """
    draw = random.Random(seed)  # noqa: S311 - an order, not a secret
    pairs = min(before, after)
    firsts = ["before", "after"] * (pairs // 2)
    if pairs % 2:
        firsts.append(draw.choice(("before", "after")))
    draw.shuffle(firsts)
    sides: list[str] = []
    for first in firsts:
        sides += (first, "after" if first == "before" else "before")
    return (*sides, *["before"] * (before - pairs), *["after"] * (after - pairs))
