"""Edge: the words of rules, waivers and markers -> `Policy`; every figure with its unit.

The same readers serve `ci-flame.yml` (YAML nodes) and `@pytest.mark.flame` (Python
values), so that both mean the same and complain alike.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import date
from decimal import Decimal
from typing import Final, TypeVar

from ci_flame.config import metric_names
from ci_flame.config.yaml_tree import Listing, Node, Scalar, Section, nearest, quote
from ci_flame.errors import UsageError
from ci_flame.policy import EXACT_METRICS, Limit, Policy, Rule, Severity, Waiver
from ci_flame.profile import TOTAL, Mode
from ci_flame.verdict import metric_unit

RULE_KEYS: Final = (
    "frames", "benchmarks", "mode", "max_growth", "min_impact", "budget", "certainty",
    "severity", "self", "metric", "max",
)  # fmt: skip
METRIC_KEYS: Final = ("metric", "max", "max_growth", "benchmarks", "certainty", "severity")
"""Keys of a rule that has a metric: the others are about stacks."""
EXACT_KEYS: Final = (
    "metric", "max", "max_growth", "min_impact", "frames", "self", "benchmarks", "severity",
)  # fmt: skip
"""Keys of a rule on exact counts: they belong to functions, and have no noise."""
WAIVER_KEYS: Final = ("frames", "benchmarks", "until", "reason")
MARKER_RULE_FIELDS: Final = (
    "frames", "max_growth", "min_impact", "budget", "certainty", "severity", "self_only",
)  # fmt: skip
"""`self` cannot be a keyword of a pytest marker, so the marker calls it `self_only`."""
MAX_RULES: Final = 500
MAX_GLOBS: Final = 100
MAX_GLOB: Final = 500
"""Characters; matching is done for every frame, so that a glob must stay small."""

_NS_OF: Final = {"ns": 1, "us": 1_000, "µs": 1_000, "μs": 1_000, "ms": 1_000_000, "s": 10**9}
_SHARE: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s*%", re.ASCII)
_TIME: Final = re.compile(r"(\d{1,18}(?:\.\d{1,9})?)\s*(ns|us|µs|μs|ms|s)", re.ASCII)
_DECIMAL: Final = re.compile(r"\d{1,18}(?:\.\d{1,9})?", re.ASCII)
_WITH_UNIT: Final = re.compile(r"\d+(?:\.\d+)?\s*[^\W\d_%]*%?")
_PLAIN: Final = re.compile(r"\d+(?:\.\d*)?", re.ASCII)
T = TypeVar("T")

_ISO_DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


class _WordError(ValueError):
    """What is wrong with one value, and the cure; the caller knows the place."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


# -- values ---------------------------------------------------------------------------


def parse_share(text: str) -> float:
    """Return 0.1 for `10%`; the percent sign is required."""
    word = text.strip()
    match = _SHARE.fullmatch(word)
    if match:
        return float(Decimal(match[1]) / 100)
    if _PLAIN.fullmatch(word):
        raise _WordError(f"{quote(word)} has no unit", f"write {word}%")
    raise _WordError(f"{quote(word)} is not a share", "write a number and a percent sign: 10%")


def parse_part(text: str) -> float:
    """Return 0.2 for `20%`: a part of a whole, above nothing."""
    share = parse_share(text)
    if not 0 < share <= 1:
        raise _WordError(f"{quote(text)} is outside 0% to 100%", "for example 20%")
    return share


def parse_limit(text: str) -> Limit:
    """Return the limit of `10%`, `2ms` or `5% | 2ms`; raise ValueError for other words."""
    share: float | None = None
    ns: float | None = None
    parts = [part.strip() for part in text.split("|")]
    for part in parts:
        time = _TIME.fullmatch(part)
        if time:
            if ns is not None:
                raise _WordError(f"{quote(text)} has two times", 'one of each at most: "5% | 2ms"')
            ns = float(Decimal(time[1]) * _NS_OF[time[2]])
            continue
        if _PLAIN.fullmatch(part):
            raise _WordError(f"{quote(part)} has no unit", f"write {part}% or {part}ms")
        if not _SHARE.fullmatch(part):
            raise _WordError(
                f"{quote(text)} is not a limit",
                'write 10%, 2ms or "5% | 2ms"; units: %, ns, us, ms, s',
            )
        if share is not None:
            raise _WordError(f"{quote(text)} has two shares", 'one of each at most: "5% | 2ms"')
        share = parse_share(part)
    return Limit(share=share, ns=ns)


def show_limit(limit: Limit) -> str:
    """Return the words that `parse_limit` reads back to exactly this limit."""
    words = []
    if limit.share is not None:
        words.append(show_share(limit.share))
    if limit.ns is not None:
        words.append(f"{Decimal(repr(limit.ns)).normalize():f}ns")
    return " | ".join(words)


def show_share(share: float) -> str:
    """Return `7%` for 0.07, exactly."""
    return f"{(Decimal(repr(share)) * 100).normalize():f}%"


def _budget(text: str) -> Limit:
    limit = parse_limit(text)
    if limit.share is not None and limit.share > 1:
        raise _WordError(f"{quote(text)} is more than the whole benchmark", "at most 100%")
    if limit.share == 0 or limit.ns == 0:
        raise _WordError(f"{quote(text)}: a budget of nothing", "give the cost that is allowed")
    return limit


def _impact(text: str) -> float:
    if _TIME.fullmatch(text.strip()):
        raise _WordError(
            f"{quote(text)}: min_impact is a share of the benchmark", "write for example 0.5%"
        )
    share = parse_share(text)
    if share > 1:
        raise _WordError(f"{quote(text)} is more than the whole benchmark", "at most 100%")
    return share


def _certainty(text: str) -> float:
    share = parse_share(text)
    if not 0.5 <= share <= 0.999:  # noqa: PLR2004 - the message tells the same figures
        raise _WordError(f"certainty {quote(text)} is outside 50% to 99.9%", "the default is 80%")
    return share


def _metric(text: str) -> str:
    """Return a glob on metrics; a name that no recording can have is refused."""
    word = text.strip()
    if word in EXACT_METRICS:
        return word
    _globs((word,))
    if wrong := metric_names.wrong(word):
        raise _WordError(*wrong)
    return word


def parse_maximum(text: str, metric: str) -> float:
    """Return 5.0 for `5` or, of a metric in ms, `5ms`: in the unit that its name ends with.

    Times may be in any unit: `2s` of a metric in ms is 2000.
    """
    word = text.strip()
    unit = metric_unit(metric)
    if unit == "ms" and (time := _TIME.fullmatch(word)):
        return float(Decimal(time[1]) * _NS_OF[time[2]] / _NS_OF["ms"])
    number = word.removesuffix(unit).strip() if unit else word
    if _DECIMAL.fullmatch(number):
        return float(number)
    shown = f" (or 5 {unit})" if unit else ""
    if _WITH_UNIT.fullmatch(word):
        told = f"is in {unit}" if unit else "is a plain number"
        raise _WordError(f"{quote(text)}: {metric} {told}", f"write for example 5{shown}")
    raise _WordError(f"{quote(text)} is not a number", f"write for example 5{shown}")


def _severity(text: str) -> Severity:
    names = [severity.value for severity in Severity]
    if text not in names:
        raise _WordError(
            f"unknown severity {quote(text)}{nearest(text, names)}", f"one of: {', '.join(names)}"
        )
    return Severity(text)


def _mode(text: str) -> str:
    names = [mode.value for mode in Mode]
    if text not in names:
        raise _WordError(
            f"unknown mode {quote(text)}{nearest(text, names)}", f"one of: {', '.join(names)}"
        )
    return text


def frame_globs(words: tuple[str, ...]) -> tuple[str, ...]:
    """Return frame and path globs without stray blanks; ValueError for what matches nothing."""
    return tuple(_frame_glob(word) for word in _globs(words))


def _globs(words: tuple[str, ...]) -> tuple[str, ...]:
    if not words:
        raise _WordError("no globs", 'write "*" for everything')
    if len(words) > MAX_GLOBS:
        raise _WordError(f"{len(words)} globs; at most {MAX_GLOBS}")
    for word in words:
        if len(word) > MAX_GLOB:
            raise _WordError(f"a glob of {len(word)} characters; at most {MAX_GLOB}")
        if not word.removeprefix("!").strip():
            raise _WordError(f"{quote(word)} is an empty glob", 'write "*" for everything')
    return words


def _frame_glob(word: str) -> str:
    bang, body = ("!", word[1:]) if word.startswith("!") else ("", word)
    segments = [segment.strip() for segment in body.split(";")]
    for segment in segments:
        if not segment:
            raise _WordError(
                f"{quote(word)} has an empty step between semicolons",
                'write "**" for any number of frames',
            )
        if not any(mark in segment for mark in ":*?["):
            raise _WordError(
                f"{quote(segment)} matches no frame: names are module:qualname",
                f"write {quote(segment + ':*')}, or for a native function"
                f" {quote('native:*:' + segment)}",
            )
    return bang + ";".join(segments)


_RULE_PARSERS: Final[Mapping[str, Callable[[str], object]]] = {
    "mode": _mode,
    "max_growth": parse_limit,
    "min_impact": _impact,
    "budget": _budget,
    "certainty": _certainty,
    "severity": _severity,
    "metric": _metric,
}

# -- nodes ----------------------------------------------------------------------------


def text_of(node: Node, name: str) -> str:
    """Return the words of a scalar; lists, mappings and nothing are refused."""
    if not isinstance(node, Scalar):
        node.fail(f"{name} takes one value, not a {_kind(node)}")
    if node.kind == "null":
        node.fail(f"{name} has no value", f"give one, or leave {name} out")
    return node.text


def read(node: Node, name: str, parse: Callable[[str], T]) -> T:
    """Parse the words of a scalar; what is wrong with them is told at its line."""
    text = text_of(node, name)
    try:
        return parse(text)
    except _WordError as error:
        node.fail(f"{name}: {error.message}", error.hint)


def flag_of(node: Node, name: str) -> bool:
    """Return the truth of `true` or `false`."""
    text = text_of(node, name)
    if text.lower() not in {"true", "false"}:
        node.fail(f"{name} is true or false, not {quote(text)}")
    return text.lower() == "true"


def words_of(node: Node, name: str) -> tuple[str, ...]:
    """Return one word or a list of words as a tuple."""
    items = node.items if isinstance(node, Listing) else (node,)
    return tuple(text_of(item, name) for item in items)


def section_of(node: Node, name: str, keys: tuple[str, ...]) -> Section:
    """Return a mapping that has no other keys than these."""
    if not isinstance(node, Section):
        node.fail(f"{name} takes keys ({', '.join(keys)}), not a {_kind(node)}")
    node.allow(name, keys)
    return node


def _kind(node: Node) -> str:
    return {Scalar: "single value", Listing: "list", Section: "mapping"}[type(node)]


def _items(node: Node, name: str) -> tuple[Node, ...]:
    if not isinstance(node, Listing):
        node.fail(f"{name} takes a list", f"begin each of the {name} with a dash")
    if not node.items:
        node.fail(f"{name} is empty", f"leave {name} out for the default")
    if len(node.items) > MAX_RULES:
        node.fail(f"{len(node.items)} {name}; at most {MAX_RULES}")
    return node.items


def _words(
    node: Node, name: str, check: Callable[[tuple[str, ...]], tuple[str, ...]]
) -> tuple[str, ...]:
    words = words_of(node, name)
    try:
        return check(words)
    except _WordError as error:
        node.fail(f"{name}: {error.message}", error.hint)


def read_rules(node: Node) -> tuple[Rule, ...]:
    """Return the rules of the list under `rules:`."""
    return tuple(_rule(item) for item in _items(node, "rules"))


def _rule(node: Node) -> Rule:
    section = section_of(node, "a rule", RULE_KEYS)
    rule = Rule(place=f"{section.source}:{section.line}")
    for key, value in section.entries.items():
        if key != "max":
            rule = _with_key(rule, key, value)
    if rule.metric or "max" in section.entries:
        return _metric_rule(rule, section)
    if rule.max_growth is None and rule.budget is None:
        section.fail("the rule limits nothing", "give it max_growth: 10% or budget: 30%")
    if rule.self_only and rule.mode == Mode.OFF_CPU:
        section.entries["self"].fail(
            "self: true has no meaning with mode: off-cpu: a function waits in what it calls",
            "leave self out",
        )
    return rule


def _metric_rule(rule: Rule, section: Section) -> Rule:
    """Return a rule about a metric; what is about stacks has no place in it."""
    given = section.entries
    if not rule.metric:
        given["max"].fail("max limits a metric, and the rule names none", "add metric: NAME")
    known, why = (EXACT_KEYS, "counts have no noise") if rule.is_exact else (METRIC_KEYS, "")
    for key, node in given.items():
        if key not in known:
            about = why if key == "certainty" else "it is about stacks"
            node.fail(
                f"{key} has no meaning with metric {quote(rule.metric)}: {about}",
                f"a rule with this metric knows: {', '.join(known)}",
            )
    if "max" in given:
        maximum = read(given["max"], "max", lambda text: parse_maximum(text, rule.metric))
        rule = replace(rule, maximum=maximum)
    limit = rule.max_growth
    if limit is not None and (limit.share is None or limit.ns is not None):
        given["max_growth"].fail(
            "max_growth of a metric is a share", "for example max_growth: 50%, or max: 5"
        )
    if limit is None and rule.maximum is None:
        section.fail("the rule limits nothing", "give it max: 5 or max_growth: 50%")
    if rule.is_exact:
        return _exact_rule(rule, section)
    return rule


def _exact_rule(rule: Rule, section: Section) -> Rule:
    """Return a rule on counts; without frames it is about the benchmark as a whole."""
    paths = [glob for glob in rule.frames if ";" in glob]
    if paths:
        section.entries["frames"].fail(
            f"{quote(paths[0])} is a path: {rule.metric} are counted by function",
            "name the function alone",
        )
    if rule.metric == "calls" and rule.self_only:
        section.entries["self"].fail("self has no meaning with calls", "leave self out")
    return rule if "frames" in section.entries else replace(rule, frames=(str(TOTAL),))


def _with_key(rule: Rule, key: str, node: Node) -> Rule:
    if key == "frames":
        return replace(rule, frames=_words(node, key, frame_globs))
    if key == "benchmarks":
        return replace(rule, benchmarks=_words(node, key, _globs))
    if key == "self":
        return replace(rule, self_only=flag_of(node, key))
    value = read(node, key, _RULE_PARSERS[key])
    return replace(rule, **{key: value})  # type: ignore[arg-type]


def read_waivers(node: Node) -> tuple[Waiver, ...]:
    """Return the waivers of the list under `waivers:`."""
    return tuple(_waiver(item) for item in _items(node, "waivers"))


def _waiver(node: Node) -> Waiver:
    section = section_of(node, "a waiver", WAIVER_KEYS)
    for key in ("frames", "until", "reason"):
        if key not in section.entries:
            section.fail(f"the waiver has no {key}", "a waiver needs frames, until and reason")
    reason = text_of(section.entries["reason"], "reason").strip()
    if not reason:
        section.entries["reason"].fail("reason is empty", "say why, for whoever finds it later")
    benchmarks = section.entries.get("benchmarks")
    return Waiver(
        frames=_words(section.entries["frames"], "frames", frame_globs),
        until=read(section.entries["until"], "until", _date),
        reason=reason,
        benchmarks=("*",) if benchmarks is None else _words(benchmarks, "benchmarks", _globs),
        place=f"{section.source}:{section.line}",
    )


def _date(text: str) -> date:
    if not _ISO_DATE.fullmatch(text):
        raise _WordError(f"{quote(text)} is not a date", "write year-month-day: 2027-01-31")
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise _WordError(f"{quote(text)}: {error}", "write year-month-day: 2027-01-31") from None


# -- markers --------------------------------------------------------------------------


def replace_rules(policy: Policy, fields: Mapping[str, object], benchmark: str) -> Policy:
    """Return the policy of one test: the marker's fields replace those of the file's rules.

    `fields` are the keywords of `@pytest.mark.flame(...)` that name rule fields
    (`MARKER_RULE_FIELDS`). `max_growth` replaces the limit of the rules that limit growth,
    `budget` that of the rules that have a budget; where there is none, a rule is added.
    """
    if not fields:
        return policy
    place = f"marker of {benchmark}"
    values = {name: _marker_value(name, value, place) for name, value in fields.items()}
    limits = {name: values.pop(name) for name in ("max_growth", "budget") if name in values}
    figures = tuple(rule for rule in policy.rules if rule.metric)
    rules = [
        replace(rule, place=place, **_fitting(rule, values))  # type: ignore[arg-type]
        for rule in policy.rules
        if not rule.metric
    ]
    for name, limit in limits.items():
        if any(getattr(rule, name) is not None for rule in rules):
            rules = [
                replace(rule, **{name: limit}) if getattr(rule, name) is not None else rule  # type: ignore[arg-type]
                for rule in rules
            ]
            continue
        if name == "budget" and "frames" not in values:
            raise UsageError(
                f"{place}: budget names no frames",
                'add for example frames="shop.render:*", or frames="[total]" for the benchmark',
            )
        rules.append(replace(Rule(place=place), **{name: limit}, **values))  # type: ignore[arg-type]
    return replace(policy, rules=(*dict.fromkeys(rules), *figures))


def _fitting(rule: Rule, values: Mapping[str, object]) -> dict[str, object]:
    """Return the values that mean something to a rule: waiting has no own cost."""
    return {
        name: value
        for name, value in values.items()
        if not (name == "self_only" and rule.mode == Mode.OFF_CPU)
    }


def _marker_value(name: str, value: object, place: str) -> object:
    try:
        if name == "frames":
            words = value if isinstance(value, list | tuple) else (value,)
            return frame_globs(tuple(_marker_text(name, word) for word in words))
        if name == "self_only":
            return _marker_flag(value)
        return _RULE_PARSERS[name](_marker_text(name, value))
    except _WordError as error:
        raise UsageError(f"{place}: {name}: {error.message}", error.hint) from None


def _marker_flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise _WordError(f"{quote(repr(value))} is neither True nor False")
    return value


def _marker_text(name: str, value: object) -> str:
    if isinstance(value, str):
        return value
    unit = "%" if name != "frames" else ""
    cure = f'write {name}="{value}{unit}"' if isinstance(value, int | float) else ""
    raise _WordError(f"{quote(repr(value))} is not text", cure)
