"""Edge: `ci-flame.yml`, flags, markers and the environment -> frozen Config and Policy.

pytest, click and YAML objects stop here. `build` is the one door: it finds and reads the
policy file, then lets flags replace what it says.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final

from ci_flame.config import sampling
from ci_flame.config.baselines import BASE_SIDE_KEYS, BaseSide, base_flags, read_base_side
from ci_flame.config.baselines import BaselineKind as BaselineKind
from ci_flame.config.baselines import BaselineSpec as BaselineSpec
from ci_flame.config.baselines import Rerun as Rerun
from ci_flame.config.baselines import parse_baseline as parse_baseline
from ci_flame.config.baselines import revision as revision
from ci_flame.config.figures import figure
from ci_flame.config.policy_file import (
    MARKER_RULE_FIELDS,
    flag_of,
    parse_part,
    read,
    read_rules,
    read_waivers,
    replace_rules,
    section_of,
    text_of,
    words_of,
)
from ci_flame.config.scripts import Script, loaded, read_scripts
from ci_flame.config.yaml_tree import MAX_BYTES, Node, Scalar, Section, nearest, parse, quote
from ci_flame.errors import PolicyError, UsageError
from ci_flame.policy import Policy
from ci_flame.profile import Mode

POLICY_NAME: Final = "ci-flame.yml"
DEFAULT_BASELINE: Final = Path(".ci-flame/baseline")
"""What `auto` looks for, below the folder of the policy file or where ci_flame was started."""
COLLECTOR_NAMES: Final = ("auto", "ebpf", "bcc", "perf", "py-spy", "bpftrace", "replay")
"""`auto` and the keys of `collect.COLLECTORS`; kept here because that import is heavy."""
POLICY_KEYS: Final = (
    "version", "record", "bpftrace", "baseline", "rules", "waivers", "inconclusive", "overhead",
)  # fmt: skip
BASELINE_KEYS: Final = ("from", "store", "keep", "anchor", "required", *BASE_SIDE_KEYS)
MARKER_RECORD_FIELDS: Final = ("processes", "seconds", "gc")
"""Marker keywords that change the recording of one test, not its policy."""


BUSY: Final = 0.20
BUSY_COMMAND: Final = 0.50


@dataclass(frozen=True, slots=True)
class RecordConfig:
    """How benchmarks are recorded."""

    collector: str = "auto"
    frequency_hz: int = 1999
    processes: int = 5
    seconds: float = 2.0
    """Of benchmark windows, per process and benchmark."""
    round_ms: float = 10.0
    modes: tuple[Mode, ...] = (Mode.ON_CPU,)
    busy: float | None = None
    """Rounds in which others had the CPU for a larger share of the wall time are left out; None:
    `BUSY`, and of commands, whose only round is the whole process, `BUSY_COMMAND`."""
    machine: bool = True
    """Run-queue and block I/O latency are recorded too, where the collector can tell them."""
    replay: Path | None = None
    """Run folder that `collector: replay` reads."""
    confirm: bool = True
    """Record a benchmark that failed once more, and report the second recording."""
    counts: bool = True
    """Bytecodes and calls of one untimed iteration are counted in two processes of each side."""
    timing: bool = True
    """Suspects of a failure are timed call by call when it is recorded once more."""
    until_decided: bool = False
    """Add processes, in at most four looks, until the benchmark is clear or the time is up."""
    max_seconds: float = 120.0
    """Of wall time per benchmark, all sides, where it is recorded until decided."""
    event: str = sampling.DEFAULT_EVENT
    """What perf samples by: `cycles`, `page-faults:u`; the other collectors know the default."""
    call_graph: str = "fp"
    """How perf finds callers: `fp` (frame pointers), `dwarf` or `dwarf,BYTES` of each stack."""
    scripts: tuple[Script, ...] = ()
    """Programs of bpftrace that run beside each benchmark (`bpftrace: scripts:`)."""


@dataclass(frozen=True, slots=True)
class Config:
    """Everything one session was told."""

    record: RecordConfig = field(default_factory=RecordConfig)
    baseline: BaselineSpec = field(default_factory=BaselineSpec)
    keep: int = 10
    """Builds of a store that a verdict reads beside the baseline, and `prune` keeps."""
    anchor: str = ""
    """Revision that growth is also judged since; empty: what the store has pinned as anchor."""
    base: BaseSide = field(default_factory=BaseSide)
    policy: Policy = field(default_factory=Policy)
    out: Path = Path(".ci-flame/run")
    """Where the run is written (`-o` of record, `--flame-out`)."""
    report: Path = Path(".ci-flame/report")
    policy_file: Path | None = None
    quick: bool = False
    """True: one short process per benchmark, for laptops."""


RECORD_KEYS: Final = tuple(each.name for each in fields(RecordConfig) if each.name != "scripts")


# -- the policy file ------------------------------------------------------------------


def find_policy(start: Path) -> Path | None:
    """Return the `ci-flame.yml` of `start` or of a folder above it, up to the git root.

    Outside a repository only `start` itself is looked at: a file of somebody's home
    folder must not judge a project.
    """
    folder = start.resolve()
    candidates = [folder, *folder.parents]
    root = next((i for i, each in enumerate(candidates) if (each / ".git").exists()), 0)
    for each in candidates[: root + 1]:
        if (each / POLICY_NAME).exists():
            return each / POLICY_NAME
        misnamed = each / "ci-flame.yaml"
        if misnamed.exists():
            raise UsageError(
                f"{_shown(misnamed)} is not read: the name is {POLICY_NAME}",
                f"mv {_shown(misnamed)} {_shown(each / POLICY_NAME)}",
            )
    return None


def load(policy_file: Path | None, *, start: Path, today: date | None = None) -> Config:
    """Return what the policy file says, or the defaults where there is none.

    Without `policy_file`, `ci-flame.yml` is looked for from `start` upwards. Raises
    PolicyError with file and line, UsageError where the file cannot be read.
    """
    day = today or datetime.now(UTC).date()
    path = policy_file or find_policy(start)
    if path is None:
        return Config(policy=Policy(today=day))
    config = parse_policy(_read(path), _shown(path), today=day)
    base = path.resolve().parent
    baseline, record = config.baseline, config.record
    if baseline.kind in (BaselineKind.FOLDER, BaselineKind.STORE, BaselineKind.TREE):
        baseline = replace(baseline, value=str(base / baseline.value))
    if record.replay is not None:
        record = replace(record, replay=base / record.replay)
    record = replace(record, scripts=loaded(record.scripts, base))
    return replace(config, baseline=baseline, record=record, policy_file=path)


def _read(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():
            raise UsageError(f"{_shown(path)} is not a file")
        with path.open("rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UsageError(
            f"policy {_shown(path)} cannot be read: {reason}",
            "give the path of the file (--policy; of the action the input policy)",
        ) from None


def _shown(path: Path) -> str:
    """Return the path as the user would write it from here."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)


def parse_policy(data: bytes, source: str, *, today: date | None = None) -> Config:
    """Return the Config of a policy's bytes; paths in it are left as they are written."""
    root = parse(data, source)
    if root is None:
        raise PolicyError(source, 1, "the policy is empty", "begin it with version: 1")
    return from_tree(root, today=today)


_SCRIPT_OF: Final = re.compile(r"bpftrace\.([^.*?\[\]]+)\.")
"""The name of a script that a rule's metric spells out; a glob names none."""


def from_tree(root: Node, *, today: date | None = None) -> Config:
    """Return the Config of a policy's tree; PolicyError with file and line."""
    section = section_of(root, "the policy", POLICY_KEYS)
    version = section.entries.get("version")
    if version is None:
        section.fail("version is missing", "begin the policy with version: 1")
    if not isinstance(version, Scalar) or version.text != "1":
        told = quote(text_of(version, "version"))
        version.fail(f"version {told} is not known; this ci_flame reads version 1")
    config = Config(policy=Policy(today=today))
    for key, node in section.entries.items():
        config = _with_key(config, key, node)
    _names_of_scripts(config)
    return config


def _names_of_scripts(config: Config) -> None:
    """Raise PolicyError where a rule limits a script that is not among those of the policy."""
    known = [script.name for script in config.record.scripts]
    for rule in config.policy.rules:
        name = _SCRIPT_OF.match(rule.metric)
        if name is None or not known or name[1] in (*known, "import"):
            continue
        source, _, line = rule.place.rpartition(":")
        message = f"no bpftrace script is called {quote(name[1])}{nearest(name[1], known)}"
        raise PolicyError(source, int(line), message, f"scripts: {', '.join(known)}")


def _with_key(config: Config, key: str, node: Node) -> Config:
    policy = config.policy
    match key:
        case "record" | "bpftrace":
            return replace(config, record=_recorded(config.record, key, node))
        case "baseline":
            section = section_of(node, key, BASELINE_KEYS)
            required = section.entries.get("required")
            if required is not None:
                policy = replace(policy, baseline_required=flag_of(required, "required"))
            base = read_base_side(section)
            config = replace(config, baseline=_baseline(section), base=base, policy=policy)
            return _stored(config, section)
        case "rules":
            return replace(config, policy=replace(policy, rules=read_rules(node)))
        case "waivers":
            return replace(config, policy=replace(policy, waivers=read_waivers(node)))
        case "inconclusive" | "overhead":
            return replace(config, policy=_trusted(policy, key, node))
        case _:
            return config


def _recorded(record: RecordConfig, key: str, node: Node) -> RecordConfig:
    if key == "bpftrace":
        return replace(record, scripts=read_scripts(node))
    return replace(_record(section_of(node, key, RECORD_KEYS)), scripts=record.scripts)


def _trusted(policy: Policy, key: str, node: Node) -> Policy:
    """Return the policy with what it says of recordings that cannot be judged or believed."""
    if key == "overhead":
        section = section_of(node, key, ("max",))
        if "max" not in section.entries:
            section.fail("overhead limits nothing", "overhead: {max: 6%}")
        return replace(policy, max_overhead=read(section.entries["max"], "max", parse_part))
    word = text_of(node, key)
    if word not in ("pass", "fail"):
        node.fail(f"inconclusive is pass or fail, not {quote(word)}")
    return replace(policy, inconclusive_fails=word == "fail")


def _stored(config: Config, section: Section) -> Config:
    """Return the config with what the policy says of a store of baselines."""
    for key, read_value in (("keep", _keep), ("anchor", revision)):
        node = section.entries.get(key)
        if node is None:
            continue
        try:
            config = replace(config, **{key: read_value(text_of(node, key), key)})  # type: ignore[arg-type]
        except UsageError as error:
            node.fail(error.message, error.hint)
    return config


def _keep(word: object, shown: str) -> int:
    return int(figure("keep", word, shown))


def _baseline(section: Section) -> BaselineSpec:
    node = section.entries.get("from")
    store = section.entries.get("store")
    if store is not None:
        if node is not None:
            store.fail("from and store both name the baseline", "leave one of them out")
        try:
            return BaselineSpec(BaselineKind.STORE, str(_path(text_of(store, "store"), "store")))
        except UsageError as error:
            store.fail(error.message, error.hint)
    if node is None:
        return BaselineSpec()
    try:
        return parse_baseline(text_of(node, "from"))
    except UsageError as error:
        node.fail(f"from: {error.message}", error.hint)


def _record(section: Section) -> RecordConfig:
    record = RecordConfig()
    for key, node in section.entries.items():
        try:
            record = replace(record, **{key: _record_value(key, node)})  # type: ignore[arg-type]
        except UsageError as error:
            node.fail(error.message, error.hint)
    if record.replay is None and record.collector == "replay":
        section.fail("collector replay needs a run folder", "add replay: DIR")
    return record


def _record_value(key: str, node: Node) -> object:
    match key:
        case "collector" | "event" | "call_graph":
            return _WORDS[key](text_of(node, key))
        case "replay":
            return _path(text_of(node, key), key)
        case "confirm" | "machine" | "counts" | "timing" | "until_decided":
            return flag_of(node, key)
        case "busy":
            return read(node, key, parse_part)
        case "modes":
            return _modes(words_of(node, key))
        case _:
            return figure(key, text_of(node, key), key)


def _collector(name: str) -> str:
    if name not in COLLECTOR_NAMES:
        raise UsageError(
            f"unknown collector {quote(name)}{nearest(name, COLLECTOR_NAMES)}",
            f"one of: {', '.join(COLLECTOR_NAMES)}",
        )
    return name


_WORDS: Final[Mapping[str, Callable[[str], str]]] = {
    "collector": _collector,
    "event": sampling.event,
    "call_graph": sampling.call_graph,
}


def _modes(words: tuple[str, ...], hint: str = "modes: [on-cpu, off-cpu]") -> tuple[Mode, ...]:
    """Return the modes that are named, on-CPU first."""
    known = [mode.value for mode in Mode]
    for word in words:
        if word not in known:
            raise UsageError(f"unknown mode {quote(word)}{nearest(word, known)}", hint)
    if not words:
        raise UsageError("modes is empty", hint)
    return tuple(mode for mode in Mode if mode.value in words)


def _path(word: str, shown: str) -> Path:
    if not word.strip() or "\0" in word or "\n" in word:
        raise UsageError(f"{shown} needs a path, not {quote(word)}")
    return Path(word).expanduser() if word.startswith("~/") else Path(word)


# -- flags ----------------------------------------------------------------------------

FLAGS: Final = (
    "out", "report", "baseline", "collector", "frequency", "processes", "seconds", "quick",
    "replay", "mode", "event", "call_graph", "keep", "anchor", "setup", "changed_since",
    "until_decided", "max_seconds",
)  # fmt: skip
"""Keys of `flags` in `build`; None or a missing key leaves what the file says."""
_FLAG_FIELDS: Final = {
    "frequency": "frequency_hz",
    "processes": "processes",
    "seconds": "seconds",
    "max_seconds": "max_seconds",
}


def build(
    *,
    policy_file: str | Path | None,
    start: Path,
    flags: Mapping[str, object],
    prefix: str = "--",
    today: date | None = None,
) -> Config:
    """Return the Config of one session: the policy file, then the flags on top of it.

    `flags` has plain values (text, numbers, booleans, paths) under the names in `FLAGS`;
    `prefix` is how the user wrote them (`--flame-` under pytest), for messages.
    """
    unknown = set(flags) - set(FLAGS)
    if unknown:
        raise ValueError(f"no such flags: {', '.join(sorted(unknown))}")
    given = {name: value for name, value in flags.items() if value is not None}
    file = None if policy_file is None else _path(str(policy_file), f"{prefix}policy")
    config = load(file, start=start, today=today)
    record = _record_flags(config.record, given, prefix)
    config = replace(config, record=record, quick=bool(given.get("quick")))
    if "baseline" in given:
        config = replace(config, baseline=parse_baseline(str(given["baseline"])))
    if "keep" in given:
        config = replace(config, keep=_keep(given["keep"], f"{prefix}keep"))
    if "anchor" in given:
        config = replace(config, anchor=revision(str(given["anchor"]), f"{prefix}anchor"))
    config = replace(config, base=base_flags(config.base, given, prefix))
    for name in ("out", "report"):
        if name in given:
            folder = _path(str(given[name]), f"{prefix}{name}")
            config = replace(config, **{name: folder})  # type: ignore[arg-type]
    return config


def _record_flags(record: RecordConfig, given: Mapping[str, object], prefix: str) -> RecordConfig:
    if given.get("quick"):
        record = replace(record, processes=1, seconds=1.0)
    for name, key in _FLAG_FIELDS.items():
        if name in given:
            number = figure(key, given[name], f"{prefix}{name}")
            record = replace(record, **{key: number})  # type: ignore[arg-type]
    decided = record.until_decided or bool(given.get("until_decided"))
    record = replace(record, until_decided=decided)
    if given.get("mode"):
        words = given["mode"]
        chosen = tuple(map(str, words)) if isinstance(words, list | tuple) else (str(words),)
        modes = _modes(chosen, f"{prefix}mode on-cpu {prefix}mode off-cpu")
        record = replace(record, modes=modes)
    if "collector" in given:
        record = replace(record, collector=_collector(str(given["collector"])))
    if "event" in given:
        record = replace(record, event=sampling.event(str(given["event"])))
    if "call_graph" in given:
        record = replace(record, call_graph=sampling.call_graph(str(given["call_graph"])))
    if "replay" in given:
        folder = _path(str(given["replay"]), f"{prefix}replay")
        record = replace(record, replay=folder, collector="replay")
    if record.collector == "replay" and record.replay is None:
        raise UsageError("collector replay needs a run folder", f"add {prefix}replay DIR")
    return record


# -- markers --------------------------------------------------------------------------


def marker_rules(policy: Policy, keywords: Mapping[str, object], benchmark: str) -> Policy:
    """Return the policy of one test: its marker's fields replace those of the file's rules.

    `keywords` are those of `@pytest.mark.flame(...)`; the ones that concern the recording
    are passed over. Raises UsageError that names the test.
    """
    _allow_marker(keywords, benchmark)
    chosen = {name: keywords[name] for name in MARKER_RULE_FIELDS if name in keywords}
    return replace_rules(policy, chosen, benchmark)


def marker_record(
    record: RecordConfig, keywords: Mapping[str, object], benchmark: str
) -> RecordConfig:
    """Return how one test is recorded, from its marker's `processes` and `seconds`."""
    _allow_marker(keywords, benchmark)
    for name in ("processes", "seconds"):
        if name in keywords:
            shown = f"marker of {benchmark}: {name}"
            number = figure(name, keywords[name], shown)
            record = replace(record, **{name: number})  # type: ignore[arg-type]
    return record


def _allow_marker(keywords: Mapping[str, object], benchmark: str) -> None:
    known = (*MARKER_RULE_FIELDS, *MARKER_RECORD_FIELDS)
    for name in keywords:
        if name not in known:
            raise UsageError(
                f"marker of {benchmark}: unknown field {quote(name)}{nearest(name, known)}",
                f"the marker knows: {', '.join(known)}",
            )
