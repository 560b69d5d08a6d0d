"""Edge: can this gate fail, and would it have failed on identical code? Asked of a suite itself.

pytest ─ hooks ─ suite ─┬─ the same code on both sides ───────────── judge ─┐
                        └─ the same code, and planted ─ live ─ loops ─ judge ┴─ findings ─ words
"""
