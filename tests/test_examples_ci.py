"""The configurations for other CIs: valid by their schema or grammar, and their lines run for real.

Each is put into a repository of its own, cloned as that CI clones it, with that CI's variables.
One line is changed: `doctor --fix` tries one collector, and only says what it would do here.
"""

import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import tree_sitter
import tree_sitter_kotlin
import yaml
from groovy_parser.parser import parse_groovy_content

from ci_flame.collect import COLLECTORS, machine

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
BIN = Path(sys.executable).parent
WHY = COLLECTORS["ebpf"].obstacle(machine.probe(), python=True)
recorded = [
    pytest.mark.root,
    pytest.mark.skipif(WHY is not None, reason=f"eBPF: {WHY and WHY.reason}"),
]
GITLAB = EXAMPLES / "gitlab" / ".gitlab-ci.yml"
BUILDKITE = EXAMPLES / "buildkite" / ".buildkite" / "pipeline.yml"
JENKINS = EXAMPLES / "jenkins" / "Jenkinsfile"
KOTLIN = EXAMPLES / "teamcity" / ".teamcity" / "settings.kts"
REPORT = ".ci-flame/report"
SENTENCE = "test_search.py::test_search: shop.text:significant grew by"
GIT = {
    "GIT_AUTHOR_NAME": "t",
    "GIT_AUTHOR_EMAIL": "t@example.org",
    "GIT_COMMITTER_NAME": "t",
    "GIT_COMMITTER_EMAIL": "t@example.org",
}


# -- valid ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "file"), [("vendor.gitlab-ci", GITLAB), ("vendor.buildkite", BUILDKITE)]
)
@pytest.mark.parametrize("broken", [False, True])
def test_schema_of_the_ci_accepts_the_configuration(tmp_path, schema, file, broken):
    text = file.read_text(encoding="utf-8")
    if broken:  # what the schema would see
        text = text.replace("    script:\n", "    script: 7\n").replace(
            "  script:\n", "  script: 7\n"
        )
        text = text.replace("    commands:\n", "    commands: 7\n    other:\n")
        text = re.sub(r"(script: 7\n)(?:    .*\n)+", r"\1", text)
    copy = tmp_path / file.name
    copy.write_text(text, encoding="utf-8")
    done = subprocess.run(
        [str(BIN / "check-jsonschema"), "--builtin-schema", schema, str(copy)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode == 0) is not broken, done.stdout + done.stderr


def leaves(tree):
    """The words of a parsed Jenkinsfile in order; a token's value is (kind, value, text)."""
    for child in tree.children:
        if hasattr(child, "children"):
            yield from leaves(child)
        elif child.value[-1].strip():
            yield child.value[-1]


def shells(tree):
    """Every `sh 'LINE'` of a parsed Jenkinsfile, in order."""
    return [text[1:-1] for word, text in itertools.pairwise(leaves(tree)) if word == "sh"]


def closures(text):
    """The names of nested closures: `pipeline/stages/stage/steps`, in order."""
    path, names = [], []
    for line in text.splitlines():
        code = re.sub(r"'[^']*'", "''", line).split("//")[0]
        if opened := re.match(r"\s*(\w+).*\{\s*$", code):
            path.append(opened[1])
            names.append("/".join(path))
        elif code.strip() == "}":
            path.pop()
    return names


@pytest.fixture(scope="module")
def jenkinsfile():
    return parse_groovy_content(JENKINS.read_text(encoding="utf-8"))


def test_jenkinsfile_is_groovy_and_a_declarative_pipeline(jenkinsfile):
    names = closures(JENKINS.read_text(encoding="utf-8"))

    assert names[0] == "pipeline"
    assert {each.split("/")[1] for each in names[1:]} == {
        "agent", "options", "environment", "stages", "post"
    }  # fmt: skip
    for stage in (each for each in names if each.endswith("/stage")):
        assert f"{stage}/steps" in names
    assert "pipeline/post/always" in names
    assert len(shells(jenkinsfile)) == 4


@pytest.mark.parametrize(
    ("right", "wrong"),
    [("stage('Hot paths') {\n", "stage('Hot paths')\n"), ("'MINUTES'", "'MINUTES")],
)
def test_the_parser_would_see_a_broken_jenkinsfile(right, wrong):
    text = JENKINS.read_text(encoding="utf-8")
    with pytest.raises(Exception, match="Unexpected"):
        parse_groovy_content(text.replace(right, wrong, 1))


def kotlin(text):
    parser = tree_sitter.Parser(tree_sitter.Language(tree_sitter_kotlin.language()))
    return parser.parse(text.encode()).root_node


@pytest.mark.parametrize(
    ("right", "wrong"), [("", ""), ("script {", "script "), ("steps {", "steps {(")]
)
def test_settings_of_teamcity_are_kotlin(right, wrong):
    text = KOTLIN.read_text(encoding="utf-8")

    assert kotlin(text.replace(right, wrong, 1)).has_error is bool(right)


def test_settings_of_teamcity_name_what_is_there():
    text = KOTLIN.read_text(encoding="utf-8")
    (script,) = re.findall(r'scriptContent = "sh (.*)"', text)
    (rules,) = re.findall(r'artifactRules = "(.*) => .*"', text)

    assert (KOTLIN.parent.parent / script).is_file()
    assert rules == REPORT


@pytest.mark.parametrize(
    "file", sorted(EXAMPLES.rglob("*.sh")), ids=lambda file: str(file.relative_to(EXAMPLES))
)
def test_scripts_have_no_findings_and_may_be_run(file):
    done = subprocess.run(
        [str(BIN / "shellcheck"), str(file)], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout
    assert os.access(file, os.X_OK)


# -- run ------------------------------------------------------------------------------


def git(*words, cwd):
    done = subprocess.run(
        ["git", *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, **GIT},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def change(tmp_path):
    """Returns a function: a repository whose branch `topic` grows or not -> a CI's clone of it."""

    def make(example, *, grows, branch="topic"):
        origin = tmp_path / "origin"
        ignored = shutil.ignore_patterns("__pycache__", ".ci-flame", ".github")
        shutil.copytree(EXAMPLES / "library", origin, ignore=ignored)
        shutil.copytree(EXAMPLES / example, origin, dirs_exist_ok=True)
        policy = yaml.safe_load((origin / "ci-flame.yml").read_text(encoding="utf-8"))
        # However busy the machine is; the growth below is large, so that little shows it.
        policy["record"] = {"busy": "100%", "confirm": False, "processes": 2, "seconds": 0.4}
        (origin / "ci-flame.yml").write_text(yaml.safe_dump(policy), encoding="utf-8")
        git("init", "-q", "-b", "main", cwd=origin)
        git("commit", "-q", "--allow-empty", "-m", "Zero", cwd=origin)
        git("add", "--all", cwd=origin)
        git("commit", "-qm", "One", cwd=origin)
        git("switch", "-qc", "topic", cwd=origin)
        (origin / "NEWS").write_text("Opening hours\n", encoding="utf-8")
        git("add", "--all", cwd=origin)
        git("commit", "-qm", "Two", cwd=origin)
        if grows:
            text = origin / "shop" / "text.py"
            words = 'STOP_WORDS = ["x" * n for n in range(9, 200)] + [*'
            source = text.read_text(encoding="utf-8").replace("STOP_WORDS = frozenset(", words)
            text.write_text(source.replace('with".split())', 'with".split()]'), encoding="utf-8")
            git("commit", "-qam", "Three", cwd=origin)
        git("switch", "-q", "main", cwd=origin)
        clone = tmp_path / "clone"
        # As GitLab and Jenkins do by default: one branch, not deep.
        words = ("-q", "--depth=20", "--single-branch", "--branch", branch, f"file://{origin}")
        git("clone", *words, str(clone), cwd=tmp_path)
        return clone

    return make


AGENT = """#!/bin/sh
# Records what the real buildkite-agent would be told: its words, and what it reads.
echo "$@" >> "$RECORDED.words"
cat >> "$RECORDED.input"
"""


def run(lines, clone, **variables):
    """Run lines as a CI does, in one shell that ends at the first failure."""
    tools = clone.parent / "tools"
    tools.mkdir(exist_ok=True)
    agent = tools / "buildkite-agent"
    agent.write_text(AGENT, encoding="utf-8")
    agent.chmod(0o755)
    script = "\n".join(lines)
    assert script.count("ci-flame doctor --fix") == 1
    script = script.replace("doctor --fix", "doctor --fix --dry-run --collector ebpf")
    return subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", script],
        cwd=clone,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env={
            "PATH": f"{tools}:{BIN}:{os.environ['PATH']}",
            "HOME": str(clone.parent),
            "PIP_NO_INDEX": "1",
            "RECORDED": str(tools / "recorded"),
            **GIT,
            **variables,
        },
    )


def verdict(clone):
    return json.loads((clone / REPORT / "verdict.json").read_text(encoding="utf-8"))


def told(done):
    return done.stdout + done.stderr


def gitlab(job):
    """The settings of a job, with what it extends."""
    jobs = yaml.safe_load(GITLAB.read_text(encoding="utf-8"))
    return {**jobs[jobs[job]["extends"]], **jobs[job]}


def lines_of_gitlab(job):
    return [*gitlab(job)["before_script"], *gitlab(job)["script"]]


@pytest.mark.parametrize("marked", [pytest.param(None, marks=recorded)])
def test_gitlab_fails_a_merge_request_and_finds_its_reports(change, marked):
    clone = change("gitlab", grows=True)
    job = gitlab("hot paths")
    done = run(
        lines_of_gitlab("hot paths"),
        clone,
        CI="true",
        GITLAB_CI="true",
        CI_PIPELINE_SOURCE="merge_request_event",
        CI_MERGE_REQUEST_TARGET_BRANCH_NAME="main",
    )
    reports = {kind: clone / place for kind, place in job["artifacts"]["reports"].items()}

    assert done.returncode == 1, told(done)
    assert "the merge base with main (CI_MERGE_REQUEST_TARGET_BRANCH_NAME)" in told(done)
    assert job["artifacts"]["when"] == "always"
    assert [path for path in job["artifacts"]["paths"] if not (clone / path).exists()] == []
    suites = ET.parse(reports["junit"]).getroot()  # noqa: S314 - written here, just now
    assert SENTENCE in next(each.get("message", "") for each in suites.iter("failure"))
    (problem,) = json.loads(reports["codequality"].read_text(encoding="utf-8"))
    assert SENTENCE in problem["description"]
    assert problem["location"]["path"] == "shop/text.py"
    metrics = reports["metrics"].read_text(encoding="utf-8")
    assert metrics.endswith("# EOF\n")


@pytest.mark.parametrize("marked", [pytest.param(None, marks=recorded)])
def test_gitlab_keeps_builds_of_the_default_branch_and_compares_with_them(change, marked):
    variables = {"CI": "true", "GITLAB_CI": "true", "CI_FLAME_STORE": "1"}
    clone = change("gitlab", grows=True, branch="main")
    lines = lines_of_gitlab("hot paths, stored")
    main = {"CI_COMMIT_BRANCH": "main", "CI_DEFAULT_BRANCH": "main"}
    first = run(lines, clone, **variables, **main)
    git("fetch", "-q", "origin", "topic", cwd=clone)
    git("switch", "-q", "--detach", "FETCH_HEAD", cwd=clone)
    merge = {"CI_DEFAULT_BRANCH": "main", "CI_MERGE_REQUEST_TARGET_BRANCH_NAME": "main"}
    second = run(lines, clone, **variables, **merge)

    assert first.returncode == 0, told(first)
    assert second.returncode == 1, told(second)
    assert "recorded beside" not in told(second)  # half the time: the base is in the store
    listed = json.loads(run_listing(clone))
    assert len(listed["builds"]) == 1


def run_listing(clone):
    words = [str(BIN / "ci-flame"), "baseline", "list", "--json"]
    return subprocess.run(words, cwd=clone, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("grows", "style", "code"),
    [
        pytest.param(True, "error", 1, marks=recorded),
        pytest.param(False, "success", 0, marks=recorded),
    ],
)
def test_buildkite_annotates_before_it_fails(change, grows, style, code):
    clone = change("buildkite", grows=grows)
    (step,) = yaml.safe_load(BUILDKITE.read_text(encoding="utf-8"))["steps"]
    text = "\n".join(step["commands"])
    assert "$" not in text.replace("$$", "")  # the upload would read it
    done = run(
        text.replace("$$", "$").splitlines(),
        clone,
        CI="true",
        BUILDKITE="true",
        BUILDKITE_PULL_REQUEST_BASE_BRANCH="main",
    )
    words = (clone.parent / "tools" / "recorded.words").read_text(encoding="utf-8").split()
    annotation = (clone.parent / "tools" / "recorded.input").read_text(encoding="utf-8")

    assert done.returncode == code, told(done)
    assert words == ["annotate", "--style", style, "--context", "ci-flame"]
    assert ("shop.text:significant" in annotation) is grows
    assert len(annotation.encode()) < 1 << 20
    assert list(clone.glob(step["artifact_paths"][0]))


@pytest.mark.parametrize("marked", [pytest.param(None, marks=recorded)])
def test_jenkins_runs_its_steps_and_publishes_what_they_leave(change, jenkinsfile, marked):
    clone = change("jenkins", grows=True)
    done = run(
        shells(jenkinsfile),
        clone,
        CI="true",
        JENKINS_URL="http://127.0.0.1/",
        CHANGE_TARGET="main",
    )
    text = JENKINS.read_text(encoding="utf-8")
    (junit,) = re.findall(r"testResults: '(.*?)'", text)
    (archived,) = re.findall(r"artifacts: '(.*?)'", text)

    assert done.returncode == 1, told(done)
    assert "the merge base with main (CHANGE_TARGET)" in told(done)
    assert SENTENCE in (clone / junit).read_text(encoding="utf-8")
    assert (clone / archived.removesuffix("**") / "static.html").is_file()


@pytest.mark.parametrize("marked", [pytest.param(None, marks=recorded)])
def test_teamcity_reads_service_messages_in_the_output(change, marked):
    clone = change("teamcity", grows=True)
    script = (clone / ".teamcity" / "hot-paths.sh").read_text(encoding="utf-8")
    done = run(script.splitlines(), clone, TEAMCITY_VERSION="2024.03")
    messages = re.findall(r"^##teamcity\[(\w+) .*\]$", done.stdout, flags=re.MULTILINE)

    assert done.returncode == 1, told(done)
    assert {"testFailed", "buildProblem"} & set(messages), done.stdout
    assert "buildStatisticValue" in messages


@pytest.mark.parametrize("marked", [pytest.param(None, marks=recorded)])
def test_the_shell_alone_is_enough_for_any_ci(change, marked):
    clone = change("shell", grows=False)
    git("fetch", "-q", "origin", "main", cwd=clone)
    script = (EXAMPLES / "shell" / "hot-paths.sh").read_text(encoding="utf-8")
    base = git("rev-parse", "FETCH_HEAD", cwd=clone)
    done = run([f"set -- {shlex.quote(base)}", *script.splitlines()], clone)

    assert done.returncode == 0, told(done)
    assert verdict(clone)["outcome"] == "pass"
    assert verdict(clone)["before"]["commit"] == base
