"""Model, pure: what a self-test found out, its JSON, and the sentence above all of it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from ci_flame.errors import FormatError
from ci_flame.self_test import choosing
from ci_flame.verdict import limit_text, percent

VERSION: Final = 1
"""1: the first."""


@dataclass(frozen=True, slots=True)
class Same:
    """One comparison of identical code."""

    outcome: str
    """The gate's: `pass`, `fail`, … after its confirming recording, where there was one."""
    confirmed: bool = False
    """The first look failed and a second recording was made."""
    accused: tuple[str, ...] = ()
    """The sentences of what failed, in the last look."""
    visible: float | None = None
    """Smallest growth that it would have seen in functions over 5 %."""
    why: str = ""
    """Why it was not judged."""


@dataclass(frozen=True, slots=True)
class Planted:
    """A slow-down in one function, and what the gate said of it."""

    function: str
    own_share: float
    share: float
    calls: float
    """Per iteration."""
    turns: int
    """Of the loop, in each call."""
    growth: float
    """What was planted, from the loop's cost and the function's; 0.2 = 20 %."""
    found: bool
    """The gate failed, and named this function."""
    outcome: str
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    """The gate's own estimate of the growth, with its 90 % interval."""
    limit: float | None = None
    visible: float | None = None
    """Smallest growth that it would have seen in this function."""
    accused: tuple[str, ...] = ()
    """Other functions that failed, callers of the function left out."""
    looks: int = 1


@dataclass(frozen=True, slots=True)
class Tested:
    """One benchmark."""

    benchmark: str
    seconds: float
    """Of the benchmark on each side of a comparison."""
    processes: int
    same: tuple[Same, ...] = ()
    planted: tuple[Planted, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()
    """Functions that nothing was planted into, and why."""
    skipped: str = ""
    """Why the benchmark was not tested, or not to its end."""
    limit: float | None = None
    """The lowest limit of growth of the benchmark's functions."""
    took_s: float = 0.0

    @property
    def visible(self) -> float | None:
        """The worst of its comparisons: what the gate is sure to see in functions over 5 %."""
        seen = [each.visible for each in self.same if each.outcome != "inconclusive"]
        if not seen or any(each is None for each in seen):
            return None
        return max(each for each in seen if each is not None)

    @property
    def recommended(self) -> float | None:
        """The limit to have: the smallest usual one that the recording can see, or what it is.

        A higher one than it is would gain nothing: noise fails no build at any limit, and growth
        that is seen would pass.
        """
        limit = choosing.recommended(self.visible)
        if limit is None or self.limit is None:
            return limit if self.limit is None else self.limit
        return min(limit, self.limit)

    def seconds_for(self, growth: float) -> float | None:
        """Seconds a side that it would take to see so much growth; None: too many."""
        return choosing.seconds_for(growth, self.visible, self.seconds)

    @property
    def can_fail(self) -> bool:
        """Tell whether the gate found a planted growth in it."""
        return any(each.found for each in self.planted)

    @property
    def false_failures(self) -> int:
        """Comparisons of identical code that failed."""
        return sum(each.outcome == "fail" for each in self.same)

    @property
    def judged(self) -> int:
        """Comparisons of identical code that had a verdict."""
        return sum(each.outcome != "inconclusive" for each in self.same)


@dataclass(frozen=True, slots=True)
class SelfTest:
    """A whole suite."""

    benchmarks: tuple[Tested, ...]
    took_s: float = 0.0
    notes: tuple[str, ...] = ()
    ended: int = 0
    """pytest's exit code."""

    @property
    def planted(self) -> tuple[Planted, ...]:
        """All slow-downs that were planted."""
        return tuple(p for each in self.benchmarks for p in each.planted)

    @property
    def found(self) -> int:
        """Slow-downs that the gate found."""
        return sum(each.found for each in self.planted)

    @property
    def can_fail(self) -> bool:
        """Tell whether growth was planted and found in every benchmark that was tested."""
        tested = [each for each in self.benchmarks if not each.skipped]
        return bool(tested) and all(each.can_fail for each in tested)

    @property
    def judged(self) -> int:
        """Comparisons of identical code."""
        return sum(each.judged for each in self.benchmarks)

    @property
    def false_failures(self) -> int:
        """Comparisons of identical code that failed."""
        return sum(each.false_failures for each in self.benchmarks)

    @property
    def good(self) -> bool:
        """Tell whether the gate can fail, and did not on identical code."""
        return self.can_fail and self.judged > 0 and not self.false_failures

    @property
    def headline(self) -> str:
        """One sentence with the figures."""
        return f"{self._power()}, {'and' if self._alike() else 'but'} {self._calm()}"

    def _alike(self) -> bool:
        return self.can_fail == (self.judged > 0 and not self.false_failures)

    def _power(self) -> str:
        many = len(self.planted)
        if not many:
            return "nothing was planted: this gate was not shown to fail"
        told = f"{self.found} of {many} planted slow-downs {'was' if many == 1 else 'were'} found"
        if self.can_fail:
            return f"this gate can fail ({told})"
        blind = [
            each.benchmark for each in self.benchmarks if not each.skipped and not each.can_fail
        ]
        where = f" in {blind[0]}" + (f" and {len(blind) - 1} more" if len(blind) > 1 else "")
        return f"this gate was not seen to fail{where} ({told})"

    def _calm(self) -> str:
        many = self.judged
        if not many:
            return "identical code was not judged"
        end = percent(choosing.upper_end(self.false_failures, many))
        told = f"{self.false_failures} of {many} comparisons failed; 95 % sure of under {end} %"
        if self.false_failures:
            return f"it failed on identical code ({told})"
        return f"would not have failed on identical code ({told})"


def limit_words(share: float | None) -> str:
    """Return `10 %`, or `none`."""
    return limit_text(share=share)


def encode(test: SelfTest) -> str:
    """Return the JSON of a self-test; derived figures are in it, too."""
    told: dict[str, Any] = {"version": VERSION, "good": test.good, "headline": test.headline}
    told |= {"took_s": round(test.took_s, 1), "notes": list(test.notes)}
    told |= {"false_failures": test.false_failures, "comparisons": test.judged}
    told["benchmarks"] = [
        asdict(each)
        | {
            "visible": each.visible,
            "recommended_limit": each.recommended,
            "seconds_for_5_percent": each.seconds_for(choosing.WANTED),
        }
        for each in test.benchmarks
    ]
    return json.dumps(told, indent=1, ensure_ascii=False) + "\n"


def encode_one(tested: Tested) -> str:
    """Return one benchmark's figures, as pytest leaves them for the command."""
    return json.dumps(asdict(tested), ensure_ascii=False)


def decode_one(text: str, source: str) -> Tested:
    """Read one benchmark's figures; FormatError by name."""
    try:
        told = json.loads(text)
        parts: Mapping[str, Sequence[Mapping[str, Any]]] = told
        return Tested(
            **{
                **told,
                "same": tuple(Same(**_tuples(each)) for each in parts["same"]),
                "planted": tuple(Planted(**_tuples(each)) for each in parts["planted"]),
                "refused": tuple((str(name), str(why)) for name, why in told["refused"]),
            }
        )
    except (ValueError, TypeError, KeyError) as error:
        raise FormatError(source, f"not the figures of a benchmark: {error}") from None


def _tuples(told: Mapping[str, Any]) -> dict[str, Any]:
    return {**told, "accused": tuple(told["accused"])}
