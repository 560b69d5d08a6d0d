"""Edge, pure: what is told of a build -> the text of its comment on the pull request.

One comment stands for one key. Its first line is hidden and says which build it is of, so that
the next build finds it and an older one leaves it alone. All names in it are anybody's text:
`report.markdown.text` makes them harmless, and addresses are only ever the caller's.
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ci_flame.github.verdict_json import Told, ToldBenchmark, ToldFinding, ToldFunction, importance
from ci_flame.report import markdown, terminal
from ci_flame.report.words import cut, duration, growth, growth_of, interval, plural, share, visible
from ci_flame.verdict import Outcome, severity_of

MODES: Final = ("auto", "always", "on-change", "never")
"""When to comment; see `wanted`."""
MAX_CHARACTERS: Final = 65_536
"""GitHub refuses a longer comment with 422."""
LIMIT_BYTES: Final = 60_000
"""So that it is under MAX_CHARACTERS however they are counted, line ends as two included."""
FINDINGS: Final = 3
"""Told at the top; the others are folded."""
FOLDED: Final = 20
ROWS: Final = 6
BENCHMARKS: Final = 50
NOTES: Final = 10
NOTE: Final = 500
"""Columns of a note; of a finding's words, without its names, as many again."""
_STAMP: Final = re.compile(
    r"<!-- ci-flame:v1 key=(?P<key>[A-Za-z0-9._-]{1,100}) run=(?P<run>[0-9]{1,19})"
    r" attempt=(?P<attempt>[0-9]{1,9}) outcome=(?P<outcome>[a-z-]{1,20}) -->"
)
SEVERAL: Final = "compared with "
"""What is told of a baseline with builds beside it begins with."""
NOTHING: Final = "no baseline: "
"""The same where there is none."""
_ERROR: Final = "error"
_VERDICTS: Final = frozenset({0, 1, 4, 5})
"""Exit codes that a verdict has."""
_TEST: Final = re.compile(r"[\w./-]{1,200}\.py::[\w.:,/ ()\[\]=+-]{1,200}", re.ASCII)
"""The id of a test that can be pasted into any shell."""
_URL: Final = re.compile(r"https?://[\w.:\[\]-]{1,250}/[\w./%~-]{0,1000}", re.ASCII)
_SOURCES: Final = {
    "given": "the baseline that the workflow names",
    "artifact": "its stored run",
    "ancestor": "the nearest commit with a stored run",
    "rerun": "recorded again in the same job",
}


@dataclass(frozen=True, slots=True)
class Stamp:
    """Which build a comment is of: its hidden first line."""

    key: str
    run_id: int
    run_attempt: int
    outcome: str
    """An Outcome, or `error`."""

    def __str__(self) -> str:
        return (
            f"<!-- ci-flame:v1 key={self.key} run={self.run_id}"
            f" attempt={self.run_attempt} outcome={self.outcome} -->"
        )

    @property
    def age(self) -> tuple[int, int]:
        """Return what orders builds: GitHub's runs are numbered in the order they began."""
        return self.run_id, self.run_attempt

    @property
    def rank(self) -> int:
        """Return how bad the outcome is; a build that judged nothing is not known to be better."""
        known = [str(each) for each in Outcome]
        worse = Outcome(self.outcome) if self.outcome in known else Outcome.INCONCLUSIVE
        return severity_of(worse)

    @property
    def told_of_growth(self) -> bool:
        """Tell whether the comment says that a rule was broken."""
        return self.outcome in {Outcome.FAIL, Outcome.WARN}


@dataclass(frozen=True, slots=True)
class Build:
    """What a comment says beside the verdict; every text may be empty: not known."""

    key: str
    run_id: int
    run_attempt: int
    exit_code: int
    commit: str = ""
    """Tip of the pull request."""
    base: str = ""
    """What it was compared with."""
    source: str = ""
    """Where that came from: `artifact`, `ancestor`, `rerun`, `given`, `none`."""
    distance: int = 0
    """First-parent commits between the base commit and what was compared with."""
    told: str = ""
    """The same in words, or why there was nothing."""
    again: str = ""
    """Commit that was recorded in the job for what failed against that; empty: none."""
    page_url: str = ""
    """Address of the page with the flame graphs."""
    report_url: str = ""
    run_url: str = ""
    foreign: bool = False
    """The figures are those of a fork's own build, told by a job that did not measure."""
    why: tuple[str, ...] = ()
    """What failed beside the verdict, or instead of it."""
    docs: str = ""
    """Address of the documentation; empty: not known."""
    conclusion: str = ""
    """How the run ended that the figures are of, in GitHub's word; empty: it has not."""

    @property
    def contradicted(self) -> bool:
        """Tell whether the run that says nothing failed did not end well."""
        return self.conclusion not in {"", "success", "neutral", "skipped"}


def stamp_of(told: Told | None, build: Build) -> Stamp:
    """Return the first line of this build's comment."""
    outcome = _ERROR if told is None else told.outcome.value
    return Stamp(build.key, build.run_id, build.run_attempt, outcome)


def read_stamp(body: str) -> Stamp | None:
    """Return the first line of a comment as a stamp; None where it is another's."""
    found = _STAMP.fullmatch(body.partition("\n")[0].strip())
    if found is None:
        return None
    return Stamp(found["key"], int(found["run"]), int(found["attempt"]), found["outcome"])


def wanted(mode: str, told: Told | None, exit_code: int, earlier: Stamp | None) -> bool:
    """Return whether this build is to be told in a comment.

    `auto`: where a rule was broken or the verdict ends the build, and to bring an earlier comment
    up to date; `on-change`: also where a function changed within its limit, or a benchmark is
    new; `always`; `never`. A build that judged nothing only updates.
    """
    if mode == "never":
        return False
    if mode == "always" or earlier is not None:
        return True
    if told is None:
        return False
    changed = any(each.changed or each.outcome is not Outcome.PASS for each in told.benchmarks)
    return bool(told.findings or exit_code or (mode == "on-change" and changed))


def render(told: Told | None, build: Build, earlier: Stamp | None = None) -> str:
    """Return the comment; `told` is None where the build judged nothing.

    `earlier`: what the comment said before, so that it can say that a regression is mended.
    """
    blocks = [str(stamp_of(told, build))]
    if told is None:
        blocks += [f"### {stopped(None, build)}", *reasons(None, build)]
    else:
        blocks += _head(told, build, earlier)
        blocks += _findings(told)
        blocks += cures(told, build)
        blocks += _benchmarks(told)
    blocks += foot(told, build)
    whole = "\n\n".join(blocks) + "\n"
    tail = "\n\n".join(("Cut here: the comment would be too long.", *foot(told, build)))
    return markdown.fit(whole, LIMIT_BYTES, tail)


def headline(told: Told, build: Build) -> str:
    """Return the first line without its marks: outcome, check and leg, number of benchmarks."""
    sign = markdown.SIGNS[told.outcome]
    where = f"{told.outcome.value.upper()} in {markdown.code(build.key)}"
    counts = terminal.tally(told.counts)
    if build.contradicted and told.outcome is not Outcome.FAIL:
        return f"❔ ci-flame: {where} ({counts}), in a run that did not pass"
    return f"{sign} ci-flame: {where} ({counts})"


def stopped(told: Told | None, build: Build) -> str:
    """Return the same of a build without a verdict; `told`: what there is of one."""
    what = "nothing was judged" if told is None else "the check failed"
    return f"🛑 ci-flame: {what} in {markdown.code(build.key)}"


def reasons(told: Told | None, build: Build) -> list[str]:
    """Return what failed, where it is no growth; `told`: what there is of a verdict."""
    lines = [f"- {_note(line)}" for line in build.why]
    ended = f"The check ended with exit code {build.exit_code}"
    stands = told is not None and build.exit_code in _VERDICTS
    if stands and not lines:
        return []
    if stands:
        return ["\n".join(("Beside the verdict:\n", *lines))]
    blocks = ["\n".join((f"{ended}:\n", *lines)) if lines else f"{ended}; see the log of its step."]
    if told is not None:
        blocks.append(f"Of what was recorded ({terminal.tally(told.counts)}):")
    return blocks


def cures(told: Told, build: Build) -> list[str]:
    """Return how a failure is seen again at one's own desk, and how growth is let pass."""
    first = next((each for each in told.findings if each.outcome is Outcome.FAIL), None)
    if first is None:
        return []
    test = shlex.quote(first.benchmark) if _TEST.fullmatch(first.benchmark) else ""
    command = f"pytest {test}" if test else "COMMAND"
    spec = f"--baseline rerun:{build.base[:10]} " if build.base else ""
    again = f"<code>ci-flame check {spec}-- {markdown.text(command)}</code>"
    name = f"{build.docs}/policy.md"
    how = f"[waiver]({name}#waivers)" if is_address(name) else "waiver (docs/policy.md, Waivers)"
    meant = f"A {how} in the policy lets it pass, with a reason and a last day."
    return [f"See it again: {again}. Is it meant? {meant}"]


def _head(told: Told, build: Build, earlier: Stamp | None) -> list[str]:
    blocks = [f"### {headline(told, build)}", *reasons(told, build)]
    if build.contradicted and told.outcome is not Outcome.FAIL:
        blocks.append(
            "GitHub says of the run that uploaded this verdict:"
            f" {markdown.text(build.conclusion)}. Another job of it may have failed, or the verdict"
            " is not to be trusted: see the build."
        )
        return blocks
    if earlier is not None and earlier.told_of_growth and not told.findings:
        is_mended = told.outcome is Outcome.PASS
        now = "It is mended." if is_mended else "This build cannot tell whether it is mended."
        blocks.append(f"An earlier build of this pull request found that a hot path grew. {now}")
    elif told.outcome is Outcome.PASS:
        blocks.append("No hot path grew past its limit.")
    if told.outcome in {Outcome.INCONCLUSIVE, Outcome.NO_BASELINE}:
        blocks += _reason(told)
    return blocks


def _reason(told: Told) -> list[str]:
    """Return why there is no verdict, in the words of the first note of those concerned."""
    concerned = [each for each in told.benchmarks if each.outcome is told.outcome]
    notes = [note for each in concerned for note in each.notes] or list(told.notes)
    return [f"{_note(notes[0])}."] if notes else []


def _findings(told: Told) -> list[str]:
    """Return the most important sentences, the way to the first function, its benchmark's table."""
    found = told.findings
    if not found:
        return []
    several = len({finding.benchmark for finding in found}) > 1
    blocks = [_sentence(finding, named=several) for finding in found[:FINDINGS]]
    first = found[0]
    benchmark = next(each for each in told.benchmarks if first in each.findings)
    if not several:
        blocks[0] += f" In {markdown.code(first.benchmark)}{_mode(first.mode)}."
    blocks += _strip(first, benchmark)
    blocks += _table(benchmark)
    folded = found[FINDINGS:]
    if folded:
        lines = [f"- {_sentence(finding, named=several)}" for finding in folded[:FOLDED]]
        if len(folded) > FOLDED:
            lines.append(f"- and {plural(len(folded) - FOLDED, 'finding')} more in the report")
        blocks.append(_folded(f"{plural(len(folded), 'finding')} more", lines))
    return blocks


def _sentence(finding: ToldFinding, *, named: bool) -> str:
    sign = markdown.SIGNS[finding.outcome]
    told = markdown.sentence(finding.benchmark, finding.function, finding.sentence, 2 * NOTE)
    where = f" In {markdown.code(finding.benchmark)}{_mode(finding.mode)}." if named else ""
    return f"{sign} {told}{where}"


def _mode(mode: str) -> str:
    return "" if mode == "on-cpu" else f" ({markdown.text(mode)})"


def _strip(finding: ToldFinding, benchmark: ToldBenchmark) -> list[str]:
    """Draw the way to the function; nothing where its boxes are not known."""
    total = benchmark.total
    if not finding.costs or total is None or total.after_ns <= 0:
        return []
    rows = [("[total]", 1.0, growth(total))]
    rows += [
        (name, after / total.after_ns, growth_of(before, after))
        for name, (before, after) in zip(finding.path, finding.costs, strict=True)
    ]
    return ["\n".join(markdown.strip(rows)).rstrip("\n")]


def _table(benchmark: ToldBenchmark) -> list[str]:
    """Return the functions of a benchmark that changed, those of its findings first of all."""
    of_stacks = [finding for finding in sorted(benchmark.findings, key=importance) if finding.path]
    of_stacks.reverse()  # of several on one function the worst counts
    blamed = {finding.function: finding for finding in of_stacks}
    signs = {finding.function: markdown.SIGNS[finding.outcome] for finding in of_stacks}
    # Of what broke a rule it is the very figure of the sentence.
    rows = [ToldFunction(name, of.change) for name, of in blamed.items()]
    about = {name: terminal.about(of.under, own=of.own) for name, of in blamed.items()}
    rows += [each for each in benchmark.changed if each.function not in blamed]
    rows = [each for each in rows if not each.function.startswith("[")]
    if not rows:
        return []
    lines = [
        "| function | before | after | growth | 90 % interval | share |",
        "|:--|--:|--:|--:|--:|--:|",
        *(
            _row(each, signs.get(each.function, ""), about.get(each.function, ""))
            for each in rows[:ROWS]
        ),
    ]
    if len(rows) > ROWS:
        more = plural(len(rows) - ROWS, "function").replace(" ", markdown.NO_BREAK)
        lines.append(f"| and {more} more | | | | | |")
    return ["\n".join(lines)]


def _row(of: ToldFunction, sign: str, about: str) -> str:
    change = of.total
    return markdown.row(
        markdown.named(of.function, sign) + markdown.text(about),
        duration(change.before_ns),
        duration(change.after_ns),
        growth(change),
        interval(change),
        share(change.after_share),
    )


def _benchmarks(told: Told) -> list[str]:
    """Return all benchmarks and notes, folded."""
    blocks = []
    worst_first = sorted(told.benchmarks, key=lambda each: -severity_of(each.outcome))
    if worst_first:
        lines = ["| | benchmark | before | after | growth |", "|:--|:--|--:|--:|--:|"]
        lines += [_benchmark(each) for each in worst_first[:BENCHMARKS]]
        if len(worst_first) > BENCHMARKS:
            lines.append(
                f"| | and {plural(len(worst_first) - BENCHMARKS, 'benchmark')} more | | | |"
            )
        number = sum(told.counts.values())
        blocks.append(
            _folded("The benchmark" if number == 1 else f"All {number:,} benchmarks", lines)
        )
    # One note may be said of every benchmark.
    notes = list(dict.fromkeys((*told.notes, *(n for b in worst_first for n in b.notes))))
    if notes:
        lines = [f"- {_note(note)}" for note in notes[:NOTES]]
        if len(notes) > NOTES:
            lines.append(f"- and {plural(len(notes) - NOTES, 'note')} more in the report")
        blocks.append(_folded(plural(len(notes), "note"), lines))
    return blocks


def _benchmark(each: ToldBenchmark) -> str:
    sign = f"{markdown.SIGNS[each.outcome]} {each.outcome.value}"
    name = f"{markdown.code(each.benchmark)}{_mode(each.mode)}"
    if each.total is None:
        return f"| {sign} | {name} | | | |"
    before, after = duration(each.total.before_ns), duration(each.total.after_ns)
    return f"| {sign} {markdown.row(name, before, after, growth(each.total))}"


def _note(told: str) -> str:
    return markdown.text(cut(visible(told), NOTE))


def _folded(title: str, lines: Sequence[str]) -> str:
    body = "\n".join(lines)
    return f"<details><summary>{title}</summary>\n\n{body}\n\n</details>"


def foot(told: Told | None, build: Build) -> list[str]:
    """Return the links, and what was compared with what."""
    links = (
        ("Flame graphs", build.page_url),
        ("Whole report", build.report_url),
        ("This build", build.run_url),
    )
    shown = [f"[{name}]({url})" for name, url in links if is_address(url)]
    said = []
    if build.commit:
        said.append(f"commit {_commit(build.commit)}")
    compared = told is not None and any(each.total is not None for each in told.benchmarks)
    if compared and build.told.startswith(SEVERAL):
        said.append(markdown.text(cut(visible(build.told), NOTE)) + _since(build))
    elif compared and build.base:
        said.append(f"compared with {_commit(build.base)}{_origin(build)}{_since(build)}")
    elif told is not None and not compared:
        why = build.told.removeprefix(NOTHING) if build.told.startswith(NOTHING) else ""
        reason = f": {markdown.text(cut(visible(why), NOTE))}" if why else ""
        said.append(f"there was nothing to compare with{reason}")
    if told is not None and told.collector:
        said.append(f"recorded with {markdown.text(told.collector)}")
    if build.foreign:
        said.append("the figures are those of the pull request's own build")
    line = "; ".join(said)
    foot = [f"<sub>{line[0].upper()}{line[1:]}.</sub>"] if line else []
    return [" · ".join(shown), *foot] if shown else foot


def _origin(build: Build) -> str:
    source = _SOURCES.get(build.source, "")
    if build.source == "ancestor" and build.distance:
        source += f", {plural(build.distance, 'commit')} before the base"
    return f" ({source})" if source else ""


def _since(build: Build) -> str:
    """Return since when growth was judged, where that is not the base commit."""
    since = ""
    if build.source == "ancestor" and build.distance:
        commits = "commit" if build.distance == 1 else f"{build.distance:,} commits"
        since = f", so that growth of the {commits} between is judged, too"
    again = f"; what failed is compared with {_commit(build.again)}, recorded in the same job"
    return since + (again if build.again else "")


def _commit(sha: str) -> str:
    return markdown.code(sha[:10])


def is_address(url: str) -> bool:
    """Return whether an address can stand in a Markdown link as it is."""
    return bool(_URL.fullmatch(url))
