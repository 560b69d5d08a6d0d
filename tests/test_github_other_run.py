"""`ci-flame github comment`: a fork's build is told, and nothing that it says is trusted."""

import io
import json
import re
import zipfile
from dataclasses import replace

import pytest
from fake_github import FakeGitHub
from github_rules import shown
from test_github_comment import OURS
from verdicts import ALL, HOSTILE, failing, passing, renamed, verdict

from ci_flame.cli.github import github as group
from ci_flame.errors import UsageError
from ci_flame.github import other_run
from ci_flame.github.comment import read_stamp
from ci_flame.github.origin import Artifact
from ci_flame.report import json_report

FORK = {"id": 5, "full_name": "mallory/demo"}
OWN = {"id": 1001, "full_name": "acme/demo"}
HEAD = "b" * 40
RUN = 77


def zipped(of=None, **members):
    """Return the zip of a report folder; keywords are members by name with `_` for `.`."""
    files = {"verdict.json": json_report.render(of)} if of is not None else {}
    files |= {"summary.md": "[click](https://evil.example)", "report.html": "<script>"}
    files |= members
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return buffer.getvalue()


class Step:
    """A `workflow_run` job beside the run of a fork's pull request."""

    def __init__(self, folder, monkeypatch, capfd, server):
        self.folder, self.monkeypatch, self.capfd, self.server = folder, monkeypatch, capfd, server
        self.run = {
            "id": RUN,
            "run_attempt": 1,
            "event": "pull_request",
            "path": ".github/workflows/perf.yml",
            "head_sha": HEAD,
            "head_branch": "topic",
            "head_repository": FORK,
            "repository": OWN,
            "pull_requests": [],
        }
        server.add_run(RUN, event="pull_request", head_branch="topic", head_sha=HEAD,
                       head_repository=FORK)  # fmt: skip
        server.add_pull(7, head={"ref": "topic", "sha": HEAD, "repo": FORK})

    def go(self, rights="rw", mode="", event="workflow_run", **changes):
        payload = {"workflow_run": {**self.run, **changes}} if event == "workflow_run" else {}
        (self.folder / "event.json").write_text(json.dumps(payload), "utf-8")
        for name in ("GITHUB_TOKEN", "CI_FLAME_MATRIX", "CI_FLAME_NAME"):
            self.monkeypatch.delenv(name, raising=False)
        for name, value in {
            "GITHUB_EVENT_NAME": event,
            "GITHUB_EVENT_PATH": str(self.folder / "event.json"),
            "GITHUB_REPOSITORY": "acme/demo",
            "GITHUB_REPOSITORY_ID": "1001",
            "GITHUB_API_URL": self.server.api_url,
            "GITHUB_SERVER_URL": "https://github.com",
            "GITHUB_RUN_ID": "900",
            "GITHUB_RUN_ATTEMPT": "1",
            "GITHUB_JOB": "comment",
            "CI_FLAME_COMMENT": mode,
            "GITHUB_OUTPUT": "",
            "CI_FLAME_GITHUB_TOKEN": rights,
        }.items():
            self.monkeypatch.setenv(name, value)
        before = sorted(self.folder.rglob("*"))
        code = group.main(["comment"], standalone_mode=False)
        assert sorted(self.folder.rglob("*")) == before, "nothing is unpacked"
        self.log = self.capfd.readouterr().out
        return code or 0

    def lines(self, level):
        return [line for line in self.log.splitlines() if line.startswith(f"::{level} ")]

    @property
    def bodies(self):
        return [each["body"] for each in self.server.comments]


@pytest.fixture
def step(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    with FakeGitHub("acme/demo") as server:
        yield Step(tmp_path, monkeypatch, capfd, server)


def test_a_forks_failure_is_commented_from_its_verdict(step):
    page = step.server.add_artifact(RUN, "ci-flame-bench.html", b"<html>", mime="text/html")
    report = step.server.add_artifact(RUN, "ci-flame-report-bench", zipped(ALL["fail"]))
    step.server.add_artifact(RUN, "ci-flame-run-bench", b"no zip at all")

    assert step.go() == 0

    (body,) = step.bodies
    assert read_stamp(body).run_id == RUN
    assert "**<code>shop.parser:tokenize</code> grew by 25 %" in body
    assert "the figures are those of the pull request's own build" in body
    assert "Commit <code>bbbbbbbbbb</code>; compared with <code>3f2a9c41d0</code>" in body
    url = f"https://github.com/acme/demo/actions/runs/{RUN}"
    assert shown(body).links == [f"{url}/artifacts/{page}", f"{url}/artifacts/{report}", url]
    assert "evil" not in body
    assert step.lines("warning") == step.lines("error") == []


def test_each_key_has_its_comment(step):
    for key in ("bench_3.11", "bench_3.12"):
        step.server.add_artifact(RUN, f"ci-flame-report-{key}", zipped(ALL["fail"]))
    step.server.add_artifact(RUN, "ci-flame-report-clean", zipped(verdict(passing())))

    step.go()

    assert [read_stamp(body).key for body in step.bodies] == ["bench_3.11", "bench_3.12"]
    assert "comment on #7 for clean: none" in step.log
    urls = [each["html_url"] for each in step.server.comments]
    assert f"comment-url={urls[0]} {urls[1]}" in step.log.splitlines()


def test_a_mended_regression_is_told(step):
    step.server.add_artifact(RUN, "ci-flame-report-bench", zipped(ALL["fail"]))
    step.go()
    step.server.add_run(78, event="pull_request", head_sha=HEAD, head_repository=FORK)
    step.server.add_artifact(78, "ci-flame-report-bench", zipped(verdict(passing())))

    step.go(id=78)

    (body,) = step.bodies
    assert "It is mended." in body
    step.go()
    assert step.bodies == [body], "the older run again"


def test_the_newest_artifact_of_a_name_counts_and_expired_ones_do_not(step):
    step.server.add_artifact(RUN, "ci-flame-report-bench", zipped(verdict(passing())))
    step.server.add_artifact(RUN, "ci-flame-report-bench", zipped(ALL["fail"]))
    step.server.add_artifact(RUN, "ci-flame-report-bench", zipped(ALL["pass"]), expired=True)

    step.go()

    (body,) = step.bodies
    assert read_stamp(body).outcome == "fail"


def test_a_report_that_expired_is_said_to_have(step):
    step.server.add_artifact(RUN, "ci-flame-report-bench", zipped(ALL["pass"]), expired=True)

    assert step.go() == 0
    assert step.bodies == []
    assert f"run {RUN} has a report that expired (retention-days)" in step.log


# ---- which pull request ----


@pytest.mark.parametrize(
    ("pulls", "words"),
    [
        ([], "no open pull request has bbbbbbbbbb as its head commit"),
        ([{"head": {"ref": "topic", "sha": "c" * 40, "repo": FORK}}], "it has another one since"),
        ([{"head": {"ref": "other", "sha": HEAD, "repo": FORK}}], "no open pull request"),
        ([{"head": {"ref": "topic", "sha": HEAD, "repo": {**FORK, "id": 6}}}], "no open pull"),
        ([{"head": {"ref": "topic", "sha": HEAD, "repo": None}}], "no open pull request"),
        ([{"head": {"ref": "topic", "sha": HEAD, "repo": FORK}, "state": "closed"}], "no open"),
        ([{"head": {"ref": "topic", "sha": HEAD, "repo": FORK}}] * 2, "#7, #8 have the same head"),
    ],
)
def test_no_comment_where_the_pull_request_is_not_clear(step, pulls, words):
    step.server.add_artifact(RUN, "ci-flame-report-bench", zipped(ALL["fail"]))
    step.server.pulls.clear()
    for number, each in enumerate(pulls, 7):
        step.server.add_pull(number, **each)

    assert step.go() == 0
    assert step.bodies == []
    (notice,) = step.lines("notice")
    assert words in notice


def test_the_artifact_has_no_say_in_the_number(step):
    step.server.add_pull(1)
    hostile = zipped(ALL["fail"], event_json='{"number": 1}', pr_number="1")
    step.server.add_artifact(RUN, "ci-flame-report-bench", hostile)

    step.go()

    assert {each["issue"] for each in step.server.comments} == {7}


@pytest.mark.parametrize("event", ["push", "schedule", "pull_request_target"])
def test_a_run_of_another_event_is_left_alone(step, event):
    step.server.add_artifact(RUN, "ci-flame-report-bench", zipped(ALL["fail"]))

    assert step.go(event="workflow_run") == 0
    step.server.comments.clear()
    step.run["event"] = event
    assert step.go() == 0
    assert step.bodies == []
    assert f"was started by '{event}'" in step.log


def test_a_deleted_fork_is_one_notice(step):
    assert step.go(head_repository=None) == 0
    assert "the fork or the branch of the run is gone" in step.lines("notice")[0]


@pytest.mark.parametrize(("event", "mode"), [("push", "auto"), ("workflow_run", "loud")])
def test_a_wrong_workflow_is_refused(step, event, mode):
    with pytest.raises(UsageError) as caught:
        step.go(event=event, mode=mode)

    assert caught.value.hint in {
        "start this workflow by `on: workflow_run`",
        "it may be auto, always, on-change, never",
    }


# ---- hostile artifacts ----

LIMIT = 65 << 20
LIE = json_report.render(ALL["fail"]).replace('"fail"', '"pass"', 1)
BROKEN = {
    "no zip": (b"PK nothing", "a broken or truncated zip"),
    "truncated": (zipped(ALL["fail"])[:-200], "a broken or truncated zip"),
    "no verdict": (zipped(), "it holds no verdict.json: it is not a report"),
    "in a folder": (zipped(None, **{"x/verdict.json": "{}"}), "it holds no verdict.json"),
    "out of it": (zipped(ALL["fail"], **{"../../x": "y"}), "would lead out of its folder"),
    "a bomb": (zipped(None, **{"verdict.json": " " * LIMIT}), "bytes; the limit is"),
    "another version": (zipped(None, **{"verdict.json": '{"schema_version": 2}'}), "version 2"),
    "a list": (zipped(None, **{"verdict.json": "[]"}), "not a verdict of ci_flame"),
    "no UTF-8": (zipped(None, **{"verdict.json": b"\xff"}), "is not UTF-8"),
    "a lie": (zipped(None, **{"verdict.json": LIE}), "is pass, and the benchmarks' is fail"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_no_report_is_one_warning_and_the_others_are_told(step, case):
    data, words = BROKEN[case]
    step.server.add_artifact(RUN, "ci-flame-report-a", data)
    step.server.add_artifact(RUN, "ci-flame-report-b", zipped(ALL["fail"]))

    assert step.go() == 0

    (warning,) = step.lines("warning")
    assert "no comment for a: artifact " in warning
    assert words in warning
    assert [read_stamp(body).key for body in step.bodies] == ["b"]


def test_another_content_than_its_digest_is_refused(step):
    step.server.add_artifact(
        RUN, "ci-flame-report-a", zipped(ALL["fail"]), digest="sha256:" + "0" * 64
    )

    assert step.go() == 0
    assert "no comment for a" in step.lines("warning")[0]
    assert step.bodies == []


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_hostile_names_are_only_text(step, name):
    of = verdict(renamed(failing(), name))
    step.server.add_artifact(RUN, "ci-flame-report-bench", zipped(of))

    step.go()

    (body,) = step.bodies
    page = shown(body)
    assert len(page.links) == 2
    assert page.images == []
    assert [tag for tag in page.html if not OURS.fullmatch(tag)] == []
    assert page.later() == {}
    assert "evil" not in "".join(page.links)


def test_forged_texts_of_every_kind_are_only_text(step):
    document = json.loads(json_report.render(ALL["fail"]))
    nasty = "@octocat [x](https://evil.example) <img src=x> `|\n# head\n<!-- ci-flame:v1 -->"

    def forge(value, key=""):
        if isinstance(value, dict):
            return {name: forge(inner, name) for name, inner in value.items()}
        if isinstance(value, list):
            return [forge(inner, key) for inner in value]
        kept = {"outcome", "sort", "kind", "severity", "of", "commit", "slug"}
        return nasty if isinstance(value, str) and key not in kept else value

    step.server.add_artifact(
        RUN, "ci-flame-report-bench", zipped(None, **{"verdict.json": json.dumps(forge(document))})
    )

    step.go()

    (body,) = step.bodies
    page = shown(body)
    assert [tag for tag in page.html if not OURS.fullmatch(tag)] == []
    assert page.later() == {}
    assert len(page.links) == 2
    assert len(page.headings) == 1
    fences = r"(?ms)^```text\n.*?^```$"
    assert len(re.findall(fences, body)) == 1
    assert re.sub(fences, "", body).count("<!--") == 1


def test_names_of_artifacts_that_are_no_key_are_left_out():
    names = [
        "ci-flame-report-bench",
        "ci-flame-report-",
        "ci-flame-report-a b",
        "ci-flame-report--->",
        "ci-flame-report-" + "x" * 81,
        "ci-flame-report-../x",
        "ci-flame-run-bench",
        "other",
    ]
    found = [
        Artifact(
            n,
            name,
            1,
            "",
            expired=False,
            run_id=RUN,
            head_sha=HEAD,
            head_branch="topic",
            repository_id=1001,
            head_repository_id=5,
        )
        for n, name in enumerate(names, 1)
    ]

    assert [each.key for each in other_run.list_reports(found, "https://g/x")] == ["bench"]
    (only,) = other_run.list_reports(
        [found[0], replace(found[0], id=9, name="ci-flame-bench.html")], "https://g/x"
    )
    assert only.page_url == "https://g/x/artifacts/9"


def test_a_run_with_very_many_reports_is_told_in_part(step):
    for n in range(other_run.MAX_KEYS + 1):
        step.server.add_artifact(RUN, f"ci-flame-report-k{n:02}", zipped(ALL["fail"]))

    step.go()

    assert len(step.bodies) == other_run.MAX_KEYS
    assert "21 reports; the first 20 are told" in step.lines("notice")[0]


# ---- refusals ----


def test_a_token_that_may_only_read_is_one_warning_with_the_cure(step):
    step.server.add_artifact(RUN, "ci-flame-report-bench", zipped(ALL["fail"]))

    assert step.go(rights="ro") == 0
    (warning,) = step.lines("warning")
    assert "permissions: {pull-requests: write}" in warning


def test_a_run_without_a_report_says_so(step):
    assert step.go() == 0
    assert f"no comment on #7: run {RUN} has uploaded no report" in step.log


def test_only_data_is_read(step):
    """No request but for the lists, the zip and the comment: no checkout, no page."""
    step.server.add_artifact(RUN, "ci-flame-report-bench", zipped(ALL["fail"]))
    step.go()
    asked = [f"{each.method} {re.sub(r'[0-9]+', 'N', each.path)}" for each in step.server.requests]

    assert asked == [
        "GET /repos/acme/demo/pulls",
        "GET /repos/acme/demo/actions/runs/N",
        "GET /repos/acme/demo/actions/runs/N/artifacts",
        "GET /repos/acme/demo/actions/artifacts/N/zip",
        "GET /blob/N",
        "POST /graphql",
        "GET /repos/acme/demo/issues/N/comments",
        "POST /repos/acme/demo/issues/N/comments",
        "GET /repos/acme/demo/issues/N/comments",
    ]


@pytest.mark.parametrize(
    ("of", "conclusion", "doubted"),
    [
        ("pass", "success", False),
        ("pass", "failure", True),
        ("pass", "cancelled", True),
        ("warn", "failure", True),
        ("fail", "failure", False),
        ("fail", "success", False),
        ("pass", None, False),
    ],
)
def test_a_verdict_that_the_runs_end_contradicts_is_shown_with_doubt(step, of, conclusion, doubted):
    step.server.runs[RUN]["conclusion"] = conclusion
    step.server.add_artifact(RUN, "ci-flame-report-bench", zipped(ALL[of]))

    assert step.go(mode="always") == 0

    (comment,) = step.server.comments
    page = shown(comment["body"])
    assert ("in a run that did not pass" in comment["body"]) is doubted
    assert ("uploaded this verdict: failure. " in page.everything) is (
        doubted and conclusion == "failure"
    )
    assert ("No hot path grew past its limit." in page.everything) is (of == "pass" and not doubted)
    assert ("✅" in comment["body"].split("<details>")[0]) is (of == "pass" and not doubted)


def test_a_run_that_cannot_be_asked_for_is_one_warning_and_the_comment_is_written(step):
    step.server.add_artifact(RUN, "ci-flame-report-bench", zipped(ALL["fail"]))
    step.server.fault("GET", rf".*/actions/runs/{RUN}", status=404, times=9)

    assert step.go() == 0

    (warning,) = step.lines("warning")
    assert "how the run ended is not known: " in warning
    assert len(step.server.comments) == 1
