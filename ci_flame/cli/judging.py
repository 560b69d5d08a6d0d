"""Edge: `compare`, `explain` and `gate`: verdicts from what was recorded."""
# ruff: noqa: PLC0415 - stages are imported by the command that needs them: --help stays quick

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from ci_flame.cli.pieces import CHANGED_SINCE, DEFAULT_REPORT, configure, must_be_of_a_store, show
from ci_flame.errors import UsageError


@click.command()
@click.argument("before")
@click.argument("after")
@click.option("--policy", metavar="FILE", help="Policy file; default: ci-flame.yml above.")
@click.option("-o", "--out", metavar="DIR", help=f"Report folder; default {DEFAULT_REPORT}.")
@click.option("--keep", metavar="K", help="store: builds that the verdict reads; default 10.")
@click.option("--anchor", metavar="REV", help="store: growth since this build warns, too.")
@click.option("--changed-since", metavar="REV", help=CHANGED_SINCE)
def compare(
    *,
    before: str,
    after: str,
    policy: str | None,
    out: str | None,
    keep: str | None,
    anchor: str | None,
    changed_since: str | None,
) -> int:
    """Compare two recorded runs; BEFORE may also be git:REV[:PATH] or store:DIR."""
    from ci_flame import pipeline
    from ci_flame.baseline import folder
    from ci_flame.config import parse_baseline
    from ci_flame.pipeline.chosen import find_baseline, tell
    from ci_flame.verdict.absent import is_compared

    config = replace(
        configure(policy, report=out, keep=keep, anchor=anchor, changed_since=changed_since),
        baseline=parse_baseline(before),
    )
    must_be_of_a_store(config, **{"--keep": keep, "--anchor": anchor})
    later = folder.load(Path(after), incomplete_ok=True)
    found = find_baseline(config, later.environment, Path.cwd())
    if found.run is None:
        raise UsageError(f"BEFORE {before}: {found.told}", "give a run folder")
    if found.history is not None:
        tell(found.told, found.notes)
    verdict = pipeline.compare_stored(found.run, later, config, Path.cwd(), found.history)
    show(verdict)
    click.echo(f"ci-flame: {verdict.outcome.value}; {config.report / 'report.html'}", err=True)
    return pipeline.exit_code(
        verdict.outcome, config.policy, compared=is_compared(verdict.benchmarks)
    )


@click.command()
@click.argument("folder", metavar="REPORT")
@click.option("--policy", metavar="FILE", help="Judge by this policy instead of the stored one.")
@click.option("--changed-since", metavar="REV", help="Label findings by git diff REV, here.")
def explain(folder: str, policy: str | None, changed_since: str | None) -> int:
    """Judge again what is in a report folder, and say how it was decided.

    Ends with 0 whatever the verdict: `gate` is the one that fails.
    """
    from ci_flame import pipeline, report_folder

    place = Path(folder)
    stored = report_folder.outcome(place)
    report = report_folder.load(place)
    terms = report.terms
    if policy is not None:
        terms = replace(terms, policy=configure(policy).policy, benchmarks={})
    if changed_since is not None:
        terms = pipeline.unlabelled(terms)
    verdict = pipeline.judge_runs(report.before, report.after, terms, report.history)
    if changed_since is not None:
        labels = pipeline.labels_of(changed_since, report.before, report.after, Path.cwd())
        verdict, terms = pipeline.labelled(verdict, report.after, labels, terms)
    show(verdict)
    for rule in terms.policy.rules:
        click.echo(_rule_line(rule))
    for benchmark, own in sorted(terms.benchmarks.items()):
        for rule in own.rules:
            click.echo(f"{benchmark}: {_rule_line(rule)}")
    again = verdict.outcome.value
    same = "the same" if verdict.outcome is stored else f"the report says {stored.value}"
    click.echo(f"judged again: {again} ({same})")
    return 0


def _rule_line(rule: Any) -> str:  # noqa: ANN401 - policy.Rule, imported only when needed
    limits = [f"max_growth {rule.max_growth}"] if rule.max_growth else []
    if rule.metric:
        limits += [f"max {rule.maximum:g}"] if rule.maximum is not None else []
        told = f"{rule.metric}: {', '.join(limits)}, {rule.severity.value}"
        return f"rule {rule.place or 'default'}: {told}"
    limits += [f"budget {rule.budget}"] if rule.budget else []
    own = ", own cost" if rule.self_only else ", waiting" if rule.mode == "off-cpu" else ""
    return (
        f"rule {rule.place or 'default'}: {' '.join(rule.frames)}{own}: {', '.join(limits)},"
        f" min_impact {rule.min_impact:.2%}, certainty {rule.certainty:.0%}, {rule.severity.value}"
    )


@click.command()
@click.argument("folder", metavar="REPORT")
def gate(folder: str) -> int:
    """End with the exit code of a stored verdict: the last step of a job."""
    from ci_flame import pipeline, report_folder

    outcome = report_folder.outcome(Path(folder))
    code = pipeline.stored_exit_code(Path(folder))
    click.echo(f"ci-flame: {outcome.value}", err=True)
    return code
