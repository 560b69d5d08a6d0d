"""The GitHub Action: its contract, its steps one by one, and the whole under act."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
STEPS = ACTION["runs"]["steps"]
EXAMPLE = ROOT / "examples" / "library"
BIN = Path(sys.executable).parent


def load(name):
    spec = importlib.util.spec_from_file_location(f"action_{name}", ROOT / "actions" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


check = load("check")
summary = load("summary")


def git(*words, cwd):
    environment = {
        **os.environ,
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "t",
        "GIT_AUTHOR_EMAIL": "t@example.org",
        "GIT_COMMITTER_NAME": "t",
        "GIT_COMMITTER_EMAIL": "t@example.org",
    }
    done = subprocess.run(
        ["git", *words], cwd=cwd, capture_output=True, text=True, check=True, env=environment
    )
    return done.stdout.strip()


# -- the contract ---------------------------------------------------------------------


def documented(heading):
    """The rows of one table of docs/github-action.md: name -> (other cells)."""
    text = (ROOT / "docs" / "github-action.md").read_text(encoding="utf-8")
    section = text.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = re.findall(r"^\| `([\w-]+)` \| (.*) \|$", section, flags=re.MULTILINE)
    return {name: [cell.strip() for cell in cells.split("|")] for name, cells in rows}


def test_page_tells_every_input_with_default_and_meaning():
    told = {
        name: [f"`{each['default']}`" if each["default"] else "", each["description"]]
        for name, each in ACTION["inputs"].items()
    }

    assert documented("Inputs") == told


def test_page_tells_every_output():
    told = {name: [each["description"]] for name, each in ACTION["outputs"].items()}

    assert documented("Outputs") == told


def test_every_input_is_used_and_reaches_scripts_through_the_environment():
    text = yaml.safe_dump(STEPS)

    for name in ACTION["inputs"]:
        assert f"inputs.{name}" in text, name
    for step in STEPS:
        assert "${{" not in step.get("run", ""), step["name"]


def test_inputs_of_the_check_are_options_of_the_command_line():
    done = subprocess.run(
        [sys.executable, "-m", "ci_flame", "check", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )

    for option in ("--baseline", "--policy", "-o, "):
        assert option in done.stdout


def test_the_gate_is_the_last_step_and_everything_before_it_is_published():
    names = [step["name"] for step in STEPS]

    assert names[-1] == "Gate"
    assert names.index("Upload the report") < names.index("Write the job summary") < len(names) - 1


# -- actions/setup/setup.sh -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "code", "told"),
    [
        ("CI_FLAME_SETUP", 2, "input setup is 'x%0A::stop-commands::y%25'; it may be 'auto'"),
        ("CI_FLAME_PYTHON", 3, "'x%0A::stop-commands::y%25' is "),
    ],
)
def test_an_input_of_the_setup_is_no_command_of_the_runner(name, code, told):
    done = subprocess.run(
        ["bash", str(ROOT / "actions" / "setup" / "setup.sh")],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], name: "x\n::stop-commands::y%"},
    )
    lines = done.stdout.splitlines()

    assert done.returncode == code
    assert [line[:30] for line in lines] == ["::error title=ci_flame::" + told[:6]]
    assert told in lines[0]


# -- actions/check.py -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("pytest", ["pytest"]),
        ("pytest -k 'a or b' tests", ["pytest", "-k", "a or b", "tests"]),
        ('pytest "$(touch x)"; rm y', ["pytest", "$(touch x);", "rm", "y"]),  # no shell reads it
        ("pytest\n  -x", ["pytest", "-x"]),
    ],
)
def test_command_is_split_like_a_shell_would(command, words):
    assert check.split(command) == words


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("", "input command is empty; name the command"),
        ("pytest 'x", "cannot be split: No closing quotation; close the quote"),
    ],
)
def test_command_that_cannot_be_split_is_one_annotation(capsys, command, told):
    with pytest.raises(SystemExit) as ended:
        check.split(command)
    lines = capsys.readouterr().out.splitlines()

    assert ended.value.code == 2
    assert len(lines) == 1
    assert lines[0].startswith("::error title=ci_flame::")
    assert told in lines[0]


@pytest.mark.parametrize("word", ["none", "rerun:main", "folder:a/b", "git:v1:runs"])
def test_baseline_that_is_given_is_passed_on(word):
    assert check.resolve(word) == word


@pytest.mark.parametrize("word", ["", "artifact", "Rerun:main", "%0A::error::x"])
def test_baseline_of_another_kind_is_refused(capsys, word):
    with pytest.raises(SystemExit) as ended:
        check.resolve(word)
    told = capsys.readouterr().out

    assert ended.value.code == 2
    assert told.count("\n") == 1
    assert "it may be auto, none, rerun:REV, folder:DIR or git:REV" in told


@pytest.fixture
def history(tmp_path):
    """main: A - B; topic: A - T; HEAD: the merge of topic into main, as GitHub makes it."""
    repository = tmp_path / "repository"
    repository.mkdir()
    git("init", "-q", "-b", "main", cwd=repository)
    commits = {}
    for name in ("A", "B"):
        (repository / name).write_text(name, encoding="utf-8")
        git("add", ".", cwd=repository)
        git("commit", "-qm", name, cwd=repository)
        commits[name] = git("rev-parse", "HEAD", cwd=repository)
        if name == "A":
            git("branch", "topic", cwd=repository)
    git("switch", "-q", "topic", cwd=repository)
    (repository / "T").write_text("T", encoding="utf-8")
    git("add", ".", cwd=repository)
    git("commit", "-qm", "T", cwd=repository)
    git("switch", "-q", "--detach", "main", cwd=repository)
    git("merge", "-q", "--no-ff", "-m", "merge", "topic", cwd=repository)
    return repository, commits


def test_auto_is_the_base_that_was_merged(history, monkeypatch):
    repository, commits = history
    monkeypatch.chdir(repository)

    assert check.resolve("auto") == f"rerun:{commits['B']}"


@pytest.mark.parametrize("depth", [1, 2])
def test_auto_fetches_the_base_of_a_shallow_checkout(history, tmp_path, monkeypatch, depth):
    repository, commits = history
    git("branch", "merged", cwd=repository)
    git("config", "uploadpack.allowAnySHA1InWant", "true", cwd=repository)
    shallow = tmp_path / "shallow"
    words = ["-q", f"--depth={depth}", "--branch", "merged", f"file://{repository}", str(shallow)]
    git("clone", *words, cwd=tmp_path)
    monkeypatch.chdir(shallow)

    assert check.resolve("auto") == f"rerun:{commits['B']}"
    assert git("cat-file", "-t", commits["B"], cwd=shallow) == "commit"


def test_auto_says_what_to_do_when_the_base_cannot_be_fetched(
    history, tmp_path, monkeypatch, capsys
):
    repository, commits = history
    git("branch", "merged", cwd=repository)
    shallow = tmp_path / "shallow"
    git("clone", "-q", "--depth=1", "-b", "merged", f"file://{repository}", str(shallow), cwd="/")
    shutil.rmtree(repository)
    monkeypatch.chdir(shallow)
    with pytest.raises(SystemExit) as ended:
        check.resolve("auto")
    told = capsys.readouterr().out

    assert ended.value.code == 2
    assert f"the base commit {commits['B'][:12]} is not in this shallow checkout" in told
    assert "fetch-depth: 2" in told


def test_auto_in_the_first_commit_has_nothing_to_compare_with(tmp_path, monkeypatch, capsys):
    git("init", "-q", cwd=tmp_path)
    git("commit", "-q", "--allow-empty", "-m", "first", cwd=tmp_path)
    monkeypatch.chdir(tmp_path)

    assert check.resolve("auto") == "none"
    assert "no parent" in capsys.readouterr().out


def test_auto_outside_a_repository_names_the_checkout(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(SystemExit):
        check.resolve("auto")

    assert "run actions/checkout before this action" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ('{"outcome": "fail"}', "fail"),
        ("{}", "error"),
        ("[]", "error"),
        ("{", "error"),
        (None, "error"),
    ],
)
def test_outcome_is_the_verdicts_or_error(tmp_path, text, outcome):
    if text is not None:
        (tmp_path / "verdict.json").write_text(text, encoding="utf-8")

    assert check.outcome_of(tmp_path) == outcome


def test_outputs_cannot_end_their_own_text(tmp_path, monkeypatch):
    file = tmp_path / "output"
    monkeypatch.setenv("GITHUB_OUTPUT", str(file))
    check.publish(exit_code="1", report="a\nEOF\noutcome=pass")
    lines = file.read_text(encoding="utf-8").splitlines()

    assert lines[0].startswith("exit-code<<end-")
    assert lines[1] == "1"
    delimiter = lines[3].split("<<")[1]
    assert lines[4:] == ["a", "EOF", "outcome=pass", delimiter]


def run_check(tmp_path, **inputs):
    output = tmp_path / "github-output"
    done = subprocess.run(
        [sys.executable, str(ROOT / "actions" / "check.py")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], "GITHUB_OUTPUT": str(output), **inputs},
    )
    text = output.read_text(encoding="utf-8") if output.exists() else ""
    pairs = re.findall(r"^([\w-]+)<<(\S+)\n(.*?)\n\2$", text, flags=re.MULTILINE | re.DOTALL)
    return done, {name: value for name, _end, value in pairs}


def test_python_that_is_missing_is_an_outcome_not_a_traceback(tmp_path):
    done, outputs = run_check(tmp_path, CI_FLAME_PYTHON="python9", CI_FLAME_BASELINE="none")

    assert done.returncode == 0
    assert (outputs["outcome"], outputs["exit-code"], outputs["report"]) == ("error", "3", "")
    assert "python9: No such file or directory" in done.stdout
    assert "Traceback" not in done.stderr


def test_a_report_that_was_there_before_is_not_this_builds(tmp_path):
    report = tmp_path / ".ci-flame" / "report"
    report.mkdir(parents=True)
    verdict = {"outcome": "pass", "benchmarks": [{"findings": [finding(1)]}]}
    (report / "verdict.json").write_text(json.dumps(verdict), encoding="utf-8")
    done, outputs = run_check(tmp_path, CI_FLAME_PYTHON="python9", CI_FLAME_BASELINE="none")

    assert (outputs["outcome"], outputs["exit-code"], outputs["report"]) == ("error", "3", "")
    assert "nothing was judged" in done.stdout
    assert "grew by" not in done.stdout


def test_what_a_benchmark_prints_is_no_command_of_the_runner(tmp_path):
    """Everything of the check stands between stop-commands and its random token."""
    (tmp_path / "broken.yml").write_text("version: 2\n", encoding="utf-8")
    done, outputs = run_check(
        tmp_path,
        CI_FLAME_PYTHON=sys.executable,
        CI_FLAME_BASELINE="none",
        CI_FLAME_POLICY="broken.yml",
    )
    lines = done.stdout.splitlines()
    token = re.fullmatch(r"::stop-commands::([0-9a-f]{32})", lines[0])

    assert token is not None
    assert f"::{token[1]}::" in lines
    assert outputs["exit-code"] == "2"
    assert 'broken.yml:1: version "2" is not known' in done.stdout + done.stderr


def finding(number, outcome="fail"):
    return {
        "outcome": outcome,
        "sentence": f"bench: f{number} grew by 20 %, 1 -> 2\nms; limit 10 %",
        "file": "src/a,b.py",
        "line": number,
    }


def test_findings_become_annotations_with_their_place(tmp_path):
    verdict = {"benchmarks": [{"findings": [finding(1), finding(2, "warn")]}]}
    (tmp_path / "verdict.json").write_text(json.dumps(verdict), encoding="utf-8")

    place, tail = "file=src/a%2Cb.py,line=", "grew by 20 %25, 1 -> 2%0Ams; limit 10 %25"
    assert check.annotations(tmp_path) == [
        f"::error title=ci_flame,{place}1::bench: f1 {tail}",
        f"::warning title=ci_flame,{place}2::bench: f2 {tail}",
    ]


@pytest.mark.parametrize(("found", "shown"), [(9, 9), (10, 9)])
def test_annotations_stay_below_the_runners_ten(tmp_path, found, shown):
    verdict = {"benchmarks": [{"findings": [finding(number) for number in range(found)]}]}
    (tmp_path / "verdict.json").write_text(json.dumps(verdict), encoding="utf-8")

    assert len(check.annotations(tmp_path)) == shown


@pytest.mark.parametrize("text", ["", "[]", '{"benchmarks": [{"findings": [{}]}]}'])
def test_verdict_that_cannot_be_read_has_no_annotations(tmp_path, text):
    (tmp_path / "verdict.json").write_text(text, encoding="utf-8")

    assert check.annotations(tmp_path) == []


# -- actions/summary.py ---------------------------------------------------------------


def test_summary_of_usual_length_is_whole_with_a_link():
    text = summary.cut("# verdict\n", "http://127.0.0.1/x")

    assert text == "# verdict\n\n[The whole report](http://127.0.0.1/x)\n"


@pytest.mark.parametrize("extra", [0, 1])
def test_summary_is_cut_at_a_line_beyond_the_limit(extra):
    line = "é" * 49 + "x\n"  # 100 bytes
    text = line * (summary.LIMIT_BYTES // 100) + "y" * extra
    told = summary.cut(text, "")

    assert len(told.encode()) <= summary.LIMIT_BYTES
    assert ("Cut here" in told) is bool(extra)
    assert set(told.split("Cut here")[0].splitlines()) <= {line[:-1], ""}


# -- the whole action, under act ------------------------------------------------------


@pytest.fixture
def pull_request(tmp_path):
    """The example library in a repository; returns a function that runs its workflow in act."""
    repository = tmp_path / "shop"
    shutil.copytree(EXAMPLE, repository, ignore=shutil.ignore_patterns("__pycache__", ".ci-flame"))
    # However busy the machine is that the tests run on.
    policy = repository / "ci-flame.yml"
    policy.write_text(policy.read_text("utf-8").replace("record:\n", "record:\n  busy: 100%\n"))
    git("init", "-q", "-b", "main", cwd=repository)
    git("add", "--all", cwd=repository)
    git("commit", "-qm", "The shop", cwd=repository)
    checkout = tmp_path / "action"
    checkout.mkdir()
    for name in ("action.yml", "pyproject.toml", "README.md", "LICENSE", "NOTICE", "MANIFEST.in"):
        shutil.copy2(ROOT / name, checkout / name)
    for name in ("actions", "tools", "ci_flame"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, checkout / name, ignore=ignored)

    def run():
        event = tmp_path / "event.json"
        event.write_text(json.dumps({"pull_request": {"number": 7}}), encoding="utf-8")
        upload = next(step["uses"] for step in STEPS if "uses" in step)
        workflow = (EXAMPLE / ".github/workflows/hot-paths.yml").read_text(encoding="utf-8")
        ours = re.search(r"uses: (ci-flame/ci-flame@[0-9a-f]{40})", workflow)[1]
        artifacts = tmp_path / "artifacts"
        shutil.rmtree(artifacts, ignore_errors=True)
        home = tmp_path / "home"
        home.mkdir(exist_ok=True)
        done = subprocess.run(
            [
                *(str(BIN / "act"), "pull_request", "--eventpath", str(event)),
                *("--workflows", ".github/workflows/hot-paths.yml", "--json", "--pull=false"),
                *("--platform", "ubuntu-24.04=-self-hosted", "--no-cache-server"),
                *("--action-cache-path", str(tmp_path / "act")),
                *("--local-repository", f"{ours}={checkout}"),
                *("--local-repository", f"{upload}={ROOT / 'tests/stubs/upload-artifact'}"),
                *("--env", f"CI_FLAME_TEST_ARTIFACTS={artifacts}", "--env", "PIP_NO_COMPILE=1"),
            ],
            cwd=repository,
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
            # The steps of host mode see this environment, and nothing else of this machine.
            env={
                "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "HOME": str(home),
                "GIT_PAGER": "cat",
            },
        )
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        return done, lines, artifacts / "ci-flame"

    return repository, run


@pytest.mark.act
@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: host mode records in this machine")
@pytest.mark.parametrize(("patch", "outcome"), [(None, "pass"), ("slower.patch", "fail")])
def test_example_workflow_in_act(pull_request, patch, outcome):
    """Unchanged code passes, the planted growth fails; recorded by eBPF inside the job."""
    repository, run = pull_request
    if patch is None:
        (repository / "NEWS").write_text("Opening hours\n", encoding="utf-8")
    else:
        git("apply", str(EXAMPLE / patch), cwd=repository)
    git("add", "--all", cwd=repository)
    git("commit", "-qm", "A change", cwd=repository)
    done, lines, artifact = run()
    log = "\n".join(str(line.get("msg", "")) for line in lines)
    outputs = {
        line["name"]: line["arg"]
        for line in lines
        if line.get("command") == "set-output" and "name" in line
    }

    assert artifact.is_dir(), log
    verdict = json.loads((artifact / "verdict.json").read_text(encoding="utf-8"))
    assert verdict["outcome"] == outcome, log
    assert verdict["after"]["environment"]["collector"] == "ebpf"
    assert (done.returncode == 0) is (outcome == "pass"), log
    assert outputs.get("outcome") == outcome
    assert {"report.html", "junit.xml", "summary.md"} <= {file.name for file in artifact.iterdir()}
    if patch:
        blamed = [finding["function"] for finding in verdict["benchmarks"][0]["findings"]]
        assert blamed == ["shop.text:significant"]
        assert "shop.text:significant" in (artifact / "summary.md").read_text(encoding="utf-8")
        assert [line for line in lines if line.get("command") == "error"], log
    assert git("status", "--porcelain", cwd=repository) == ""
    assert git("worktree", "list", cwd=repository).count("\n") == 0
