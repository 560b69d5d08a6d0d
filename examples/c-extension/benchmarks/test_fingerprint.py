"""Fingerprint a document of 130 kB, as for each one that comes in."""

from fingerprint import KEPT, alike, fingerprint

WORDS = ("passage", "share", "document", "long", "of", "the", "rolling", "hash", "is", "a")
TEXT = " ".join(WORDS[(number * number // 7) % len(WORDS)] for number in range(24_000))


def test_fingerprint(flame):
    found = flame(fingerprint, TEXT)

    assert len(found) == KEPT
    assert alike(found, fingerprint(TEXT[: len(TEXT) // 2 * 2])) == 1
