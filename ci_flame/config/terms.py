"""Edge: what a verdict was judged by, and its file in the report folder (`policy.json`).

The file holds the policy in the words of `ci-flame.yml`, with everything resolved, so that
`ci-flame explain` judges again exactly as the build did.

Schema history:
1  first version
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final

from ci_flame import config
from ci_flame.config.policy_file import show_limit, show_share
from ci_flame.config.yaml_tree import from_value
from ci_flame.errors import CiFlameError, FormatError, PolicyError
from ci_flame.policy import Policy, Rule, Waiver
from ci_flame.verdict import Note
from ci_flame.verdict.located import Located
from ci_flame.verdict.touch import Spot, Touch, Touched

SCHEMA_VERSION: Final = 1
MAX_CHARACTERS: Final = 64_000_000


def _no_policies() -> Mapping[str, Policy]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Terms:
    """The policy of a build, and what else its verdict depends on."""

    policy: Policy
    benchmarks: Mapping[str, Policy] = field(default_factory=_no_policies)
    """Benchmarks whose marker replaces rules -> their whole policy."""
    family: int | None = None
    """Benchmarks selected in the build; None: those that both runs have."""
    note: Note | None = None
    """Why there is nothing to compare with."""
    notes: tuple[Note, ...] = ()
    """What else was said of the before side: how it was chosen, what it lacks."""
    touched: Touched | None = None
    """What the diff since the baseline did to the functions; None: not asked, or not known."""
    located: Located | None = None
    """Where files lie in the repository; None: not known."""

    def policy_of(self, benchmark: str) -> Policy:
        """Return the policy that one benchmark is judged by."""
        return self.benchmarks.get(benchmark, self.policy)


def encode(terms: Terms) -> str:
    """Return the text of `policy.json`."""
    document = {
        "schema_version": SCHEMA_VERSION,
        "family": terms.family,
        "note": terms.note and _encode_note(terms.note),
        "notes": [_encode_note(each) for each in terms.notes],
        "touched": terms.touched and _encode_touched(terms.touched),
        "located": terms.located and _encode_located(terms.located),
        "judged_by": _encode(terms.policy),
        "benchmarks": {name: _encode(policy) for name, policy in sorted(terms.benchmarks.items())},
    }
    return json.dumps(document, indent=1) + "\n"


def decode(text: str, source: str) -> Terms:
    """Return the terms of a `policy.json`; FormatError for anything else."""
    if len(text) > MAX_CHARACTERS:
        raise FormatError(source, f"{len(text)} characters; at most {MAX_CHARACTERS}")
    try:
        document = json.loads(text)
        version = document["schema_version"]
        if version != SCHEMA_VERSION:
            raise FormatError(
                source, f"has format {version!r}, this ci_flame reads {SCHEMA_VERSION}"
            )
        note = document["note"]
        family = document["family"]
        if not (family is None or (isinstance(family, int) and family >= 0)):
            raise FormatError(source, f"a family of {family!r} benchmarks")
        return Terms(
            policy=_decode(document["judged_by"], source),
            benchmarks={
                str(name): _decode(each, source) for name, each in document["benchmarks"].items()
            },
            family=family,
            note=note and _decode_note(note),
            notes=tuple(map(_decode_note, document.get("notes", ()))),
            touched=_decode_touched(document.get("touched")),
            # Reports of before files were looked for have none.
            located=_decode_located(document.get("located")),
        )
    except CiFlameError as error:
        raise (
            FormatError(source, error.message.removeprefix(f"{source}: "))
            if isinstance(error, PolicyError)
            else error
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FormatError(source, f"not the policy of a report ({type(error).__name__})") from None


def _encode_note(note: Note) -> dict[str, str]:
    told = {"slug": note.slug, "text": note.text, "benchmark": note.benchmark}
    return told | {"commit": note.commit} if note.commit else told


def _decode_note(note: Mapping[str, object]) -> Note:
    commit = str(note.get("commit", ""))
    return Note(str(note["slug"]), str(note["text"]), str(note["benchmark"]), commit)


def _encode_touched(touched: Touched) -> dict[str, object]:
    return {
        "since": touched.since,
        "spots": {
            name: [spot.how.value, spot.file, spot.line, spot.told]
            for name, spot in sorted(touched.spots.items())
        },
        "files": sorted(touched.files),
        "dependencies": list(touched.dependencies),
        "native": sorted(touched.native),
        "unlined": sorted(touched.unlined),
    }


def _decode_touched(stored: Mapping[str, Any] | None) -> Touched | None:
    if stored is None:
        return None
    return Touched(
        since=str(stored["since"]),
        spots={
            str(name): Spot(Touch(how), str(file), int(line), str(told))
            for name, (how, file, line, told) in stored["spots"].items()
        },
        files=frozenset(map(str, stored["files"])),
        dependencies=tuple(map(str, stored["dependencies"])),
        native=frozenset(map(str, stored["native"])),
        # Reports of before there were line tables have none.
        unlined=frozenset(map(str, stored.get("unlined", ()))),
    )


def _encode_located(located: Located) -> dict[str, object]:
    return {
        "files": dict(sorted(located.files.items())),
        "benchmarks": located.benchmarks,
        "policies": dict(sorted(located.policies.items())),
    }


def _decode_located(stored: Mapping[str, Any] | None) -> Located | None:
    if stored is None:
        return None
    files = {str(file): str(path) for file, path in stored["files"].items()}
    policies = {str(file): str(path) for file, path in stored["policies"].items()}
    return Located(files, str(stored["benchmarks"]), policies)


def _encode(policy: Policy) -> dict[str, object]:
    words: dict[str, object] = {
        "version": 1,
        "baseline": {"required": policy.baseline_required},
        "inconclusive": "fail" if policy.inconclusive_fails else "pass",
        "overhead": {"max": show_share(policy.max_overhead)},
        "rules": [_rule(rule) for rule in policy.rules],
    }
    if policy.waivers:
        words["waivers"] = [_waiver(waiver) for waiver in policy.waivers]
    return {
        "policy": words,
        "places": [rule.place for rule in policy.rules] + [w.place for w in policy.waivers],
        "false_failures_per_build": policy.false_failures_per_build,
        "today": policy.today.isoformat() if policy.today else None,
    }


def _rule(rule: Rule) -> dict[str, object]:
    if rule.metric:
        return _metric_rule(rule)
    words: dict[str, object] = {
        "frames": list(rule.frames),
        "benchmarks": list(rule.benchmarks),
        "mode": rule.mode,
        "min_impact": show_share(rule.min_impact),
        "certainty": show_share(rule.certainty),
        "severity": rule.severity.value,
        "self": rule.self_only,
    }
    for name, limit in (("max_growth", rule.max_growth), ("budget", rule.budget)):
        if limit is not None:
            words[name] = show_limit(limit)
    return words


def _metric_rule(rule: Rule) -> dict[str, object]:
    words: dict[str, object] = {
        "metric": rule.metric,
        "benchmarks": list(rule.benchmarks),
        "severity": rule.severity.value,
    }
    if rule.is_exact:
        words |= {"frames": list(rule.frames), "min_impact": show_share(rule.min_impact)}
        if rule.metric != "calls":
            words["self"] = rule.self_only
    else:
        words["certainty"] = show_share(rule.certainty)
    if rule.maximum is not None:
        words["max"] = f"{Decimal(repr(rule.maximum)):f}"
    if rule.max_growth is not None:
        words["max_growth"] = show_limit(rule.max_growth)
    return words


def _waiver(waiver: Waiver) -> dict[str, object]:
    return {
        "frames": list(waiver.frames),
        "benchmarks": list(waiver.benchmarks),
        "until": waiver.until.isoformat(),
        "reason": waiver.reason,
    }


def _decode(document: Mapping[str, object], source: str) -> Policy:
    day = document["today"]
    rate = document["false_failures_per_build"]
    places = document["places"]
    read = config.from_tree(from_value(document["policy"], source)).policy
    if not (isinstance(rate, float) and 0 < rate < 1):
        raise ValueError("rate")
    if not isinstance(places, list) or len(places) != len(read.rules) + len(read.waivers):
        raise ValueError("places")
    count = len(read.rules)
    named = zip(read.rules, places[:count], strict=True)
    waived = zip(read.waivers, places[count:], strict=True)
    return replace(
        read,
        rules=tuple(replace(rule, place=str(place)) for rule, place in named),
        waivers=tuple(replace(waiver, place=str(place)) for waiver, place in waived),
        false_failures_per_build=rate,
        today=date.fromisoformat(str(day)) if day else None,
    )
