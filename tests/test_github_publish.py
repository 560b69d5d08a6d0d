"""`ci-flame github publish` and `gate`: what GitHub is told; trouble never ends a build."""

import json
import re

import pytest
from fake_github import FakeGitHub
from github_rules import shown
from test_github_comment import BUILD, told
from verdicts import ALL, failing, passing, run, verdict

from ci_flame import report_folder
from ci_flame.cli.github import github as group
from ci_flame.config.terms import Terms
from ci_flame.errors import UsageError
from ci_flame.github import commands, publish
from ci_flame.github.gate import gate
from ci_flame.policy import Policy
from ci_flame.report import markdown

URL = "https://github.com/acme/demo/actions/runs/12"
PULL = {
    "number": 7,
    "base": {"ref": "main", "repo": {"id": 1001, "full_name": "acme/demo"}},
    "head": {"ref": "t", "sha": "b" * 40, "repo": {"id": 1001, "full_name": "acme/demo"}},
}
FORK = {**PULL, "head": {**PULL["head"], "repo": {"id": 5, "full_name": "mallory/demo"}}}


class Step:
    """One job that publishes: its environment, and what came of it."""

    def __init__(self, folder, monkeypatch, capfd, api_url):
        self.folder, self.capfd, self.monkeypatch = folder, capfd, monkeypatch
        for name in ("GITHUB_TOKEN", "CI_FLAME_MATRIX", "GITHUB_REF", "GITHUB_BASE_REF"):
            monkeypatch.delenv(name, raising=False)
        self.given = {
            "GITHUB_EVENT_NAME": "pull_request",
            "GITHUB_EVENT_PATH": str(folder / "event.json"),
            "GITHUB_REPOSITORY": "acme/demo",
            "GITHUB_REPOSITORY_ID": "1001",
            "GITHUB_API_URL": api_url,
            "GITHUB_SERVER_URL": "https://github.com",
            "GITHUB_RUN_ID": "12",
            "GITHUB_RUN_ATTEMPT": "1",
            "GITHUB_JOB": "bench",
            "GITHUB_SHA": "c" * 40,
            "GITHUB_ACTOR": "octocat",
            "GITHUB_OUTPUT": str(folder / "output"),
            "GITHUB_STEP_SUMMARY": str(folder / "summary.md"),
            "CI_FLAME_NAME": "",
            "CI_FLAME_COMMENT": "",
            "CI_FLAME_EXIT_CODE": "1",
            "CI_FLAME_OUTCOME": "fail",
            "CI_FLAME_REPORT": str(folder / "report"),
            "CI_FLAME_PAGE_URL": f"{URL}/artifacts/5",
            "CI_FLAME_REPORT_URL": f"{URL}/artifacts/6",
            "CI_FLAME_BASELINE_SHA": "3f2a9c41d07be8855c1f6ac2b9d31e7740aa91f2",
            "CI_FLAME_BASELINE_SOURCE": "artifact",
            "CI_FLAME_BASELINE_DISTANCE": "0",
        }
        self.event({"pull_request": PULL})

    def event(self, payload):
        (self.folder / "event.json").write_text(json.dumps(payload), "utf-8")

    def report(self, of):
        report_folder.save(
            of, report_folder.Report(None, run(), Terms(Policy())), self.folder / "report"
        )

    def go(self, command="publish", rights="rw", **changes):
        given = {**self.given, "CI_FLAME_GITHUB_TOKEN": rights, **changes}
        for name, value in given.items():
            self.monkeypatch.setenv(name, value)
        code = group.main([command], standalone_mode=False)
        self.log = self.capfd.readouterr().out
        return code or 0

    @property
    def outputs(self):
        text = (self.folder / "output").read_text("utf-8")
        return dict(re.findall(r"(?m)^([a-z-]+)<<(?:\S+)\n(.*)\n", text))

    @property
    def summary(self):
        return (self.folder / "summary.md").read_text("utf-8")

    def lines(self, level):
        """Without the one that names the new benchmark of `ALL["fail"]`."""
        shown = [line for line in self.log.splitlines() if line.startswith(f"::{level} ")]
        return [line for line in shown if "::test_new is new: " not in line]


@pytest.fixture
def server():
    with FakeGitHub("acme/demo") as github:
        yield github


@pytest.fixture
def step(tmp_path, monkeypatch, capfd, server):
    return Step(tmp_path, monkeypatch, capfd, server.api_url)


# ---- the whole step ----


def test_a_failure_is_annotated_summarised_and_commented(step, server):
    step.report(ALL["fail"])

    assert step.go() == 0

    (error,) = step.lines("error")
    assert error.startswith(
        "::error title=test_checkout%3A shop.parser%3Atokenize,file=src/shop/parser.py,line=88::"
    )
    assert "grew by 25 %25 (21-29 %25)" in error
    assert step.lines("warning") == []
    assert step.summary.startswith("## ❌ ci-flame: FAIL in <code>bench</code> (3 benchmarks: 1 ")
    assert f"[Flame graphs]({URL}/artifacts/5) · [Whole report]({URL}/artifacts/6)" in step.summary
    (comment,) = server.comments
    assert "compared with <code>3f2a9c41d0</code> (its stored run)" in comment["body"]
    assert "commit <code>bbbbbbbbbb</code>" in comment["body"].lower()
    assert step.outputs == {"outcome": "fail", "comment-url": comment["html_url"]}


def test_a_clean_build_is_summarised_and_not_commented(step, server):
    step.report(verdict(passing()))

    assert step.go(CI_FLAME_EXIT_CODE="0", CI_FLAME_OUTCOME="pass") == 0

    assert not re.search(r"(?m)^::(?:error|warning|notice)", step.log)
    assert step.summary.startswith("## ✅ ci-flame: PASS")
    assert server.comments == []
    assert "comment on #7 for bench: none: nothing to tell" in step.log
    assert step.outputs == {"outcome": "pass", "comment-url": ""}


@pytest.mark.parametrize("report", ["", "missing", "broken", "huge"])
def test_a_check_that_judged_nothing_is_said_to_have(step, server, report):
    if report in {"broken", "huge"}:
        step.report(ALL["fail"])
        place = step.folder / "report" / "verdict.json"
        if report == "broken":
            place.write_bytes(b'{"schema_version": 1')
        else:
            with place.open("r+b") as file:
                file.truncate((64 << 20) + 1)  # sparse
    given = {"CI_FLAME_REPORT": str(step.folder / "report") if report else ""}

    assert step.go(CI_FLAME_EXIT_CODE="3", CI_FLAME_OUTCOME="error", **given) == 0

    assert "## 🛑 ci-flame: nothing was judged in <code>bench</code>" in step.summary
    assert "exit code 3" in step.summary
    assert step.outputs["outcome"] == "error"
    assert server.comments == []
    words = {
        "missing": "cannot be read: no such file or directory",
        "broken": "not JSON",
        "huge": "more than 67,108,864 bytes",
    }
    if report:
        assert words[report] in step.lines("warning")[0]
        assert "the verdict was not read" in step.lines("warning")[0]
    else:
        assert step.lines("warning") == []


CRASH = (
    "bench.py::test_parse failed: ZeroDivisionError: division by [zero](http://x)\n"
    "pytest ended with exit code 1, and not because of a hot path\n"
)


def test_a_failing_command_tells_what_failed_and_what_there_is(step, server):
    step.report(verdict(passing()))
    given = {"CI_FLAME_EXIT_CODE": "3", "CI_FLAME_OUTCOME": "error", "CI_FLAME_WHY": CRASH}

    assert step.go(**given, CI_FLAME_COMMENT="always") == 0

    assert step.summary.startswith("## 🛑 ci-flame: the check failed in <code>bench</code>\n")
    assert "PASS" not in step.summary
    assert "Of what was recorded (1 benchmark: 1 pass):" in step.summary
    (comment,) = server.comments
    for text in (step.summary, comment["body"]):
        page = shown(text)
        assert "The check ended with exit code 3:" in text
        assert "bench.py::test_parse failed: ZeroDivisionError" in page.everything
        assert "http://x" not in page.links
    assert step.outputs["outcome"] == "error"
    assert step.go("gate", **given) == 3
    assert step.log == (
        "::error title=ci_flame::bench.py::test_parse failed: ZeroDivisionError: division by"
        " [zero](http://x) (exit code 3); and 1 more: see the job summary\n"
    )


def test_what_failed_beside_a_verdict_is_a_warning(step):
    step.report(ALL["fail"])

    assert step.go(CI_FLAME_WHY=CRASH) == 0

    (warning,) = step.lines("warning")
    assert "besides the verdict: bench.py::test_parse failed: ZeroDivisionError" in warning
    assert step.summary.startswith("## ❌ ci-flame: FAIL in <code>bench</code>")
    assert "Beside the verdict:\n\n- bench.py::test&#95;parse failed: " in step.summary


def test_a_word_that_comment_does_not_know_is_said_after_the_verdict(step, server):
    step.report(ALL["fail"])

    with pytest.raises(UsageError, match="input comment is 'sometimes'"):
        step.go(CI_FLAME_COMMENT="sometimes")

    step.log = step.capfd.readouterr().out
    assert any("grew by 25 %25" in line for line in step.lines("error"))
    assert step.summary.startswith("## ❌ ci-flame: FAIL")
    assert step.outputs["outcome"] == "fail"
    assert server.comments == []


@pytest.mark.parametrize(
    ("name", "given", "link"),
    [
        ("acme/gate", "v1", "https://github.com/acme/gate/blob/v1/docs/policy.md#waivers"),
        ("acme/gate", "", ""),
        ("", "v1", ""),
        ("acme/gate", "v1)](http://x", ""),
    ],
)
def test_a_failure_says_how_to_see_it_again_and_how_to_accept_it(step, server, name, given, link):
    step.report(ALL["fail"])

    assert step.go(GITHUB_ACTION_REPOSITORY=name, GITHUB_ACTION_REF=given) == 0

    (comment,) = server.comments
    for text in (step.summary, comment["body"]):
        page = shown(text)
        again = "ci-flame check --baseline rerun:3f2a9c41d0 -- pytest tests/bench_shop.py::test_"
        assert again in page.everything
        assert [each for each in page.links if "waivers" in each] == [link] * bool(link)
        assert ("waiver (docs/policy.md, Waivers)" in page.text) is not bool(link)
    step.report(verdict(passing()))
    assert step.go(CI_FLAME_EXIT_CODE="0", CI_FLAME_OUTCOME="pass") == 0
    assert "See it again" not in step.summary.rpartition("## ✅")[2]


def test_a_push_has_no_comment_and_asks_nothing(step, server):
    step.report(ALL["fail"])
    step.event({"ref": "refs/heads/main"})

    assert step.go(GITHUB_EVENT_NAME="push") == 0

    assert server.requests == []
    assert step.outputs == {"outcome": "fail", "comment-url": ""}
    assert step.lines("warning") == step.lines("notice") == []


def test_without_a_runner_it_says_what_it_would_set(step):
    step.report(ALL["fail"])
    step.event({})
    names = ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")

    assert step.go(**dict.fromkeys(names, "")) == 0
    assert "outcome=fail" in step.log.splitlines()


# ---- what cannot be published ----


def test_a_token_without_the_right_is_one_warning_with_the_cure(step, server):
    step.report(ALL["fail"])

    assert step.go(rights="ro") == 0

    (warning,) = step.lines("warning")
    assert warning.startswith("::warning title=ci_flame::no comment was written: ")
    assert "; give the job `permissions: {pull-requests: write}`, or set the input" in warning
    assert server.comments == []
    assert step.summary


def test_a_forks_build_is_one_notice(step, server):
    step.report(ALL["fail"])
    step.event({"pull_request": FORK})

    assert step.go(rights="ro") == 0

    assert step.lines("warning") == []
    (notice,) = step.lines("notice")
    assert "from a fork or of Dependabot" in notice
    assert "actions/comment" in notice


def test_a_build_of_dependabot_is_one_notice(step, server):
    step.report(ALL["fail"])

    assert step.go(rights="ro", GITHUB_ACTOR="dependabot[bot]") == 0
    assert step.lines("warning") == []
    assert len(step.lines("notice")) == 1


def test_a_fork_whose_token_may_write_is_commented(step, server):
    step.report(ALL["fail"])
    step.event({"pull_request": FORK})

    assert step.go() == 0
    assert len(server.comments) == 1


def test_a_job_without_a_token_says_so_in_the_log(step, server):
    step.report(ALL["fail"])

    assert step.go(rights="") == 0
    assert "no comment: the step has no token (input github-token)" in step.log
    assert step.lines("warning") == []
    assert server.requests == []


@pytest.mark.parametrize("where", ["locked", "gone"])
def test_a_conversation_that_is_closed_is_one_notice(step, server, where):
    step.report(ALL["fail"])
    getattr(server, where).add(7)

    assert step.go() == 0

    (notice,) = step.lines("notice")
    assert "no comment on #7: " in notice
    assert ("the conversation is locked" in notice) is (where == "locked")
    assert step.lines("warning") == []


@pytest.mark.parametrize(("status", "level"), [(404, "notice"), (410, "notice"), (422, "notice"),
                                              (401, "warning"), (403, "warning"),
                                              (500, "warning")])  # fmt: skip
def test_every_refusal_leaves_the_build_alone(step, server, status, level):
    step.report(ALL["fail"])
    server.fault("POST", r".*/issues/7/comments", status=status, times=9)

    assert step.go() == 0

    assert len(step.lines(level)) == 1
    assert len(step.lines("warning")) + len(step.lines("notice")) == 1
    assert step.outputs["outcome"] == "fail"
    assert step.outputs["comment-url"] == ""
    assert step.summary.startswith("## ❌")


def test_a_connection_that_breaks_off_leaves_one_comment_in_the_end(step, server):
    step.report(ALL["fail"])
    server.fault("POST", r".*/issues/7/comments", drop="middle")
    assert step.go() == 0
    assert len(step.lines("warning")) == 1

    assert step.go(GITHUB_RUN_ID="13") == 0
    assert len(server.comments) == 1


def test_a_service_that_is_down_is_one_warning(step, server, monkeypatch):
    monkeypatch.setattr("ci_flame.github.api.TRIES", 1)
    step.report(ALL["fail"])
    server.down()

    assert step.go() == 0
    (warning,) = step.lines("warning")
    assert "did not answer" in warning
    assert step.outputs["outcome"] == "fail"


def test_a_summary_that_cannot_be_written_is_one_warning(step, server):
    step.report(ALL["fail"])

    assert step.go(GITHUB_STEP_SUMMARY=str(step.folder / "no" / "such")) == 0
    assert len(step.lines("warning")) == 1
    assert "the job summary was not written" in step.lines("warning")[0]
    assert len(server.comments) == 1


def test_the_token_is_in_nothing_that_is_written(step, server):
    secret = "ghs_" + "s3cr3t" * 6
    server.tokens[secret] = "read"
    step.report(ALL["fail"])

    assert step.go(rights=secret) == 0

    written = [path.read_bytes() for path in step.folder.rglob("*") if path.is_file()]
    assert secret not in step.log
    assert not any(secret.encode() in data for data in written)
    assert all(each.token == secret for each in server.requests)


@pytest.mark.parametrize("word", ["yes", "Auto", "auto,always", "x" * 1000])
def test_an_input_that_is_no_mode_is_refused(step, word):
    with pytest.raises(UsageError, match="input comment is") as caught:
        step.go(CI_FLAME_COMMENT=word)

    assert caught.value.hint == "it may be auto, always, on-change, never"
    assert len(caught.value.message) < 130


# ---- the summary ----


def test_the_links_are_below_the_headline_and_nothing_is_lost():
    text = markdown.render(ALL["fail"])
    of = told(ALL["fail"])
    whole = publish.summary(text, of, of, BUILD, 10**6)
    lines = whole.splitlines()

    counts = text.splitlines()[0].partition("(")[2]
    assert lines[0] == f"## ❌ ci-flame: FAIL in <code>bench&#95;3.12</code> ({counts}"
    assert lines[2].startswith("See it again: <code>ci-flame check ")
    assert lines[4].startswith("[Flame graphs](")
    assert lines[6].startswith("<sub>Commit <code>")
    assert whole.endswith(text.partition("\n\n")[2].rstrip("\n") + "\n")
    assert len(shown(whole).links) == 3


@pytest.mark.parametrize("size", [999_000, 1_000_000, 1_048_576])
def test_a_summary_stays_under_githubs_limit_with_what_is_there_already(step, size):
    step.report(verdict(failing()))
    place = step.folder / "report" / "summary.md"
    text = place.read_text("utf-8")
    place.write_text(text + "\nline\n" * ((size - len(text.encode())) // 6), "utf-8")
    (step.folder / "summary.md").write_text("x" * 30_000 + "\n\n", "utf-8")

    assert step.go() == 0

    assert len(step.summary.encode()) < commands.MAX_SUMMARY
    assert "[Flame graphs](" in step.summary
    assert step.summary.rstrip().endswith("The report has all of it._")


def test_a_verdict_without_its_summary_is_told_all_the_same(step, server):
    step.report(ALL["fail"])
    (step.folder / "report" / "summary.md").unlink()

    assert step.go() == 0
    assert step.summary.startswith("## ❌ ci-flame: FAIL in <code>bench</code> (3 benchmarks: 1 ")
    assert "[Flame graphs](" in step.summary
    assert len(step.lines("warning")) == 1


# ---- the gate ----


@pytest.mark.parametrize(
    ("code", "outcome", "expected", "words"),
    [
        ("0", "pass", 0, ""),
        ("0", "warn", 0, ""),
        ("1", "fail", 1, "a hot path grew past its limit (exit code 1); see the job summary"),
        ("4", "no-baseline", 4, "no benchmark had anything to be compared with, and the policy"),
        ("4", "error", 4, "(baseline: {required: true}) (exit code 4); see the log of the step"),
        ("4", "warn", 4, "no benchmark had anything to be compared with"),  # by a budget
        ("5", "inconclusive", 5, "could not be judged, and the policy fails on that (exit code 5)"),
        ("3", "error", 3, "nothing could be recorded, or the command failed (exit code 3)"),
        ("2", "error", 2, "an input, the policy or the command line is wrong (exit code 2)"),
        ("130", "error", 130, "it was cancelled (exit code 130)"),
        ("7", "", 7, "the check ended so (exit code 7); see the log of the step"),
        ("", "", 3, "nothing could be recorded, or the command failed (exit code 3)"),
        ("-1", "fail", 3, "(exit code 3)"),
        ("256", "fail", 3, "(exit code 3)"),
        ("255", "fail", 255, "(exit code 255)"),
        ("1\n0", "fail", 3, "(exit code 3)"),
        ("٣", "fail", 3, "(exit code 3)"),
        ("0x0", "pass", 3, "(exit code 3)"),
    ],
)
def test_the_gate_ends_with_the_exit_code_of_the_check(code, outcome, expected, words):
    number, why = gate(code, outcome)

    assert number == expected
    assert words in why
    assert bool(why) is bool(number)


def test_the_gate_is_one_error_line(step):
    code = step.go("gate", CI_FLAME_EXIT_CODE="1", CI_FLAME_OUTCOME="fail")

    assert code == 1
    assert step.log == (
        "::error title=ci_flame::a hot path grew past its limit (exit code 1);"
        " see the job summary\n"
    )
    assert step.go("gate", CI_FLAME_EXIT_CODE="0", CI_FLAME_OUTCOME="pass") == 0
    assert step.log == ""
