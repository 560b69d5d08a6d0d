"""What a collector lost is told, and too much of it is not judged; both sides of the limits."""

from dataclasses import replace

import pytest
from synthetic import SHOP, WAITS, longer, synthetic_measurement, synthetic_waits

from ci_flame.diff import diff_benchmark
from ci_flame.diff.lost import lost_share
from ci_flame.judge import judge_benchmark
from ci_flame.policy import Limit, Policy, Rule
from ci_flame.profile import Mode
from ci_flame.verdict import Outcome

TEN = Policy(rules=(Rule(max_growth=Limit(share=0.10)),))


def losing(measurement, share, mode=Mode.ON_CPU, **metrics):
    """The same recording, of which the collector lost such a share of all."""
    kept = sum(
        each.profiles[mode].samples
        for process in measurement.processes
        for each in process.rounds
        if mode in each.profiles
    )
    gone = share / (1 - share) * kept / len(measurement.processes)
    if mode is Mode.OFF_CPU:
        metrics |= {"collector.lost_waits": gone}
    made = [
        replace(each, lost=gone, metrics={**each.metrics, **metrics})
        for each in measurement.processes
    ]
    return replace(measurement, processes=tuple(made))


def sides(mode, share):
    if mode is Mode.OFF_CPU:
        made = [synthetic_waits(WAITS, seed=1), synthetic_waits(longer(WAITS, "", 1.0), seed=2)]
    else:
        made = [synthetic_measurement(SHOP, seed=seed) for seed in (1, 2)]
    return made[0], losing(made[1], share, mode)


@pytest.mark.parametrize("mode", [Mode.ON_CPU, Mode.OFF_CPU])
@pytest.mark.parametrize(
    ("share", "outcome", "told"),
    [
        (0.0, Outcome.PASS, ""),
        (0.0099, Outcome.PASS, ""),
        (0.0101, Outcome.PASS, "before and 1.0 % after"),
        (0.0499, Outcome.PASS, "before and 5.0 % after"),
        (0.0501, Outcome.INCONCLUSIVE, "before and 5.01 % after; 5.0 % is the most that may be"),
        (0.6, Outcome.INCONCLUSIVE, "before and 60 % after; 5.0 % is the most that may be"),
    ],
)
def test_what_was_lost_is_told_and_much_of_it_not_judged(mode, share, outcome, told):
    got = judge_benchmark(diff_benchmark(*sides(mode, share), mode), TEN, family=1)
    notes = [note.text for note in got.notes if note.slug == "lost"]

    assert got.outcome is outcome
    assert bool(notes) is bool(told)
    if told:
        what = "waits" if mode is Mode.OFF_CPU else "samples"
        assert notes[0].startswith(f"the collector lost 0.0 % of the {what} {told}")


def test_each_mode_has_its_own_losses():
    """Waits are part of `lost`, and what py-spy could not read whole is no loss of a collector."""
    made = synthetic_measurement(SHOP, seed=1)

    assert lost_share(losing(made, 0.25), Mode.ON_CPU) == pytest.approx(0.25)
    assert lost_share(losing(made, 0.25), Mode.OFF_CPU) == 0
    gone = losing(made, 0.25).processes[0].lost
    for name in ("collector.lost_waits", "collector.torn"):
        assert lost_share(losing(made, 0.25, **{name: gone}), Mode.ON_CPU) == 0
