"""The power bench: how often the gate cries wolf, and what it finds.

    python -m bench.power record --hours 8      disjoint real recordings, resumable
    python -m bench.power compare               their verdicts, and those of the peers
    python -m bench.power report                tables, curves and docs/power.md

`make power` does all three, `make power QUICK=1` a smoke version of them in five minutes.
"""
