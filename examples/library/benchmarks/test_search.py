"""Index a catalogue and search it, as the shop does after every import."""

from itertools import product

from shop.search import Index

KINDS = ("table", "chair", "shelf with doors", "lamp for the desk", "bed in two sizes")
WOODS = ("oak", "beech", "walnut from the region", "ash", "pine")
STYLES = ("plain", "with drawers", "on castors", "for the garden", "in black and white", "to fold")
CATALOGUE = [
    f"{kind} of {wood}, {style}: one of the classics"
    for kind, wood, style in product(KINDS, WOODS, STYLES)
]


def build_and_search():
    index = Index(CATALOGUE)
    return [index.find(f"{kind} {wood}") for kind in KINDS for wood in WOODS]


def test_search(benchmark):
    found = benchmark(build_and_search)

    assert CATALOGUE[found[0][0]].startswith("table of oak")
