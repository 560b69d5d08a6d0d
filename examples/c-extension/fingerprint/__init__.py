"""Fingerprints of documents: two that share long passages share many of them."""

from fingerprint._rolling import hashes

WIDTH = 32
STEP = 64
KEPT = 64


def fingerprint(text, kept=KEPT):
    """Return the `kept` smallest hashes of the passages of a text, sorted."""
    return sorted(set(hashes(text.encode(), WIDTH, STEP)))[:kept]


def alike(one, other):
    """Return the share of fingerprints that two texts have in common: 0 to 1."""
    mine, theirs = set(one), set(other)
    return len(mine & theirs) / max(1, min(len(mine), len(theirs)))
