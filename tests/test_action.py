"""The GitHub Action's contract: action.yml, the actions beside it, their page, what code reads."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
NAMES = ("setup", "record", "baseline", "compare", "comment")
FILES = {
    "": ROOT / "action.yml",
    **{each: ROOT / "actions" / each / "action.yml" for each in NAMES},
}
ACTIONS = {name: yaml.safe_load(file.read_text(encoding="utf-8")) for name, file in FILES.items()}
WHOLE = ACTIONS[""]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGE = (ROOT / "docs" / "github-action.md").read_text(encoding="utf-8")
CODE = [*sorted((ROOT / "ci_flame" / "github").glob("*.py")), ROOT / "ci_flame/cli/github.py"]
NOT_OF_PYTHON = {"CI_FLAME_PYTHON", "CI_FLAME_VENV"}
"""What the shell reads: which interpreter runs the rest."""


def steps(name=""):
    return ACTIONS[name]["runs"]["steps"]


def all_steps():
    return [(name, step) for name in ACTIONS for step in steps(name)]


def documented(heading):
    """The rows of one table of README or page: name -> (other cells)."""
    section = (README + PAGE).split(f"## {heading}\n", 1)[1].split("\n##", 1)[0]
    rows = re.findall(r"^\| `([\w/-]+)` \| (.*) \|$", section, flags=re.MULTILINE)
    return {name: [cell.strip() for cell in cells.split("|")] for name, cells in rows}


# -- the page -------------------------------------------------------------------------


def test_readme_tells_every_input_with_default_and_meaning():
    told = {
        name: [f"`{each['default']}`" if each["default"] else "", each["description"]]
        for name, each in WHOLE["inputs"].items()
    }

    assert documented("Inputs") == told


def test_readme_tells_every_output():
    told = {name: [each["description"]] for name, each in WHOLE["outputs"].items()}

    assert documented("Outputs") == told


def test_page_tells_every_step_with_its_inputs_and_outputs():
    def names(of):
        return ", ".join(f"`{each}`" for each in of)

    told = {
        f"actions/{name}": [
            ACTIONS[name]["description"],
            names(ACTIONS[name]["inputs"]),
            names(ACTIONS[name]["outputs"]),
        ]
        for name in NAMES
    }

    assert documented("Step by step") == told


@pytest.mark.parametrize("name", NAMES)
def test_an_input_or_output_means_the_same_wherever_it_is(name):
    """But for `collector`, `setup`, and what only a recording or a comment has."""
    own = {
        ("setup", "setup"), ("setup", "collector"), ("record", "exit-code"), ("record", "outcome"),
        ("record", "run"), ("compare", "run"), ("compare", "baseline"), ("comment", "github-token"),
    }  # fmt: skip
    for kind in ("inputs", "outputs"):
        for each, told in ACTIONS[name][kind].items():
            if (name, each) in own or each not in WHOLE[kind]:
                continue
            assert told["description"] == WHOLE[kind][each]["description"], each
            assert told.get("default") == WHOLE[kind][each].get("default"), each


def test_each_input_and_output_of_the_whole_is_one_of_a_step():
    """All that the action can do, its steps can do one by one."""
    for kind in ("inputs", "outputs"):
        parts = set().union(*(ACTIONS[name][kind] for name in NAMES))

        assert set(WHOLE[kind]) <= parts


def snippets():
    """The YAML blocks of README and page, whole workflows and lists of steps."""
    found = []
    for page in ("README.md", "docs/github-action.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        blocks = re.findall(r"^```yaml\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
        found += [
            pytest.param(each, id=f"{page}-{number}")
            for number, each in enumerate(blocks)
            if "ci-flame/ci-flame" in each
        ]
    return found


def used(workflow):
    """The steps of a workflow that are ours: (name of the action, its inputs)."""
    for job in workflow["jobs"].values():
        for step in job["steps"]:
            place = re.fullmatch(r"ci-flame/ci-flame(?:/actions/(\w+))?@\S+", step.get("uses", ""))
            if place:
                yield place[1] or "", step.get("with", {})


def as_workflow(text):
    if text.startswith("name:"):
        return text
    head = (
        "name: snippet\non: pull_request\npermissions: {}\n"
        "concurrency:\n  group: snippet-${{ github.ref }}\n  cancel-in-progress: true\n"
        "jobs:\n  one:\n    name: one\n    runs-on: ubuntu-24.04\n"
        "    timeout-minutes: 9\n    permissions:\n"
        "      contents: read # checkout\n    steps:\n"
    )
    return head + text


@pytest.mark.parametrize("text", snippets())
def test_snippets_of_the_documentation_are_workflows_that_no_linter_blames(text, tmp_path, lint):
    """Those of the page are whole or steps of a job; ours are used with inputs that there are."""
    workflow = as_workflow(text)
    file = tmp_path / ".github" / "workflows" / "snippet.yml"
    file.parent.mkdir(parents=True)
    file.write_text(workflow, encoding="utf-8")
    ours = list(used(yaml.safe_load(workflow)))

    assert ours
    for name, given in ours:
        assert set(given) <= set(ACTIONS[name]["inputs"]), name
    code = lint.main(["--root", str(tmp_path), "--only", "zizmor", "--only", "check-jsonschema",
                      "--only", "jactionlint", "--only", "own"])  # fmt: skip
    assert code == 0


@pytest.mark.parametrize(
    "file",
    sorted(ROOT.glob("examples/*/.github/workflows/*.yml")),
    ids=lambda file: str(file.relative_to(ROOT)),
)
def test_workflows_of_the_examples_use_inputs_that_there_are(file):
    ours = list(used(yaml.safe_load(file.read_text(encoding="utf-8"))))

    assert ours
    for name, given in ours:
        assert set(given) <= set(ACTIONS[name]["inputs"]), name


@pytest.fixture
def lint():
    import importlib.util

    spec = importlib.util.spec_from_file_location("lint_github", ROOT / "tools/lint_github.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# -- the steps ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ACTIONS)
def test_every_input_is_used_and_reaches_scripts_through_the_environment(name):
    text = yaml.safe_dump(steps(name))

    for each in ACTIONS[name]["inputs"]:
        assert re.search(rf"inputs\.{each}(?![\w-])", text), each
    for step in steps(name):
        assert "${{" not in step.get("run", ""), step["name"]


def test_each_script_is_the_set_up_or_one_call_of_ci_flame():
    scripts = {step["run"] for _name, step in all_steps() if "run" in step}
    calls = {script for script in scripts if "ci_flame" in script}

    assert all(
        re.fullmatch(r'"\$CI_FLAME_PYTHON" -P -m ci_flame github \w+', each) for each in calls
    )
    assert scripts - calls == {
        '"$GITHUB_ACTION_PATH/actions/setup/setup.sh"',
        '"$GITHUB_ACTION_PATH/setup.sh"',
        '"$GITHUB_ACTION_PATH/../setup/setup.sh"',
    }


def test_the_same_step_is_told_the_same_wherever_it_is():
    """By the variables that it is given; where they come from differs."""
    known = {step["name"]: step for step in steps()}
    others = [step for name, step in all_steps() if name and step["name"] in known]

    assert len(others) >= 7
    for step in others:
        whole = known[step["name"]]
        assert set(step.get("env", {})) <= set(whole.get("env", {})) | NOT_OF_PYTHON, step["name"]
        if "uses" in step:
            assert step["uses"] == whole["uses"]
            assert set(step["with"]) == set(whole["with"])
        elif "ci_flame" in step["run"]:
            assert step["run"] == whole["run"]


def test_the_gate_is_last_and_everything_before_it_is_published():
    assert [step["name"] for step in steps()] == [
        "Set up ci_flame",
        "Find the baseline",
        "Record and compare",
        "Upload the run",
        "Upload the report",
        "Upload the page",
        "Publish",
        "Gate",
    ]
    for name in ("record", "compare"):
        assert steps(name)[-1]["name"] == "Gate"


def test_an_upload_that_fails_does_not_fail_the_build():
    uploads = [step for _name, step in all_steps() if "upload-artifact" in step.get("uses", "")]

    assert len(uploads) == 6
    assert all(step["continue-on-error"] is True for step in uploads)


# -- what the code reads and sets -----------------------------------------------------


def calls(name):
    """All calls of a function of that name in the commands' code."""
    for file in CODE:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and name == (
                node.func.attr if isinstance(node.func, ast.Attribute)
                else getattr(node.func, "id", "")
            ):  # fmt: skip
                yield node


def given():
    """Variables that the steps of all actions set."""
    return set().union(*(step.get("env", {}) for _name, step in all_steps()))


def read():
    """Variables that the code reads, besides the token's: GITHUB_TOKEN may stand for it."""
    text = "".join(file.read_text(encoding="utf-8") for file in CODE)
    named = {
        call.args[0].value
        for function in ("given_input", "given_lines", "place")
        for call in calls(function)
        if call.args and isinstance(call.args[0], ast.Constant)
    }
    whole = set(re.findall(r'"(CI_FLAME_[A-Z_]+)"', text))
    return {f"CI_FLAME_{each.upper().replace('-', '_')}" for each in named} | whole


def test_every_variable_of_a_step_is_read_and_every_one_that_is_read_is_set():
    assert given() - NOT_OF_PYTHON == read() - NOT_OF_PYTHON


def test_every_output_that_is_used_is_set():
    """`steps.ID.outputs.NAME` of the YAML against the keywords of `runner.output`."""
    set_here = {
        each.arg.replace("_", "-") for call in calls("output") for each in call.keywords if each.arg
    }
    text = "".join(file.read_text(encoding="utf-8") for file in CODE)
    set_here |= {
        each.replace("_", "-") for each in re.findall(r'^\s+"(\w+)": ', text, re.MULTILINE)
    }
    wanted = {
        found
        for name in ACTIONS
        for found in re.findall(
            r"steps\.(?!upload)[\w-]+\.outputs\.([\w-]+)", FILES[name].read_text(encoding="utf-8")
        )
    }

    assert wanted <= set_here, wanted - set_here


def test_commands_of_the_steps_are_there():
    asked = {
        step["run"].split()[-1] for _name, step in all_steps() if "ci_flame" in step.get("run", "")
    }
    done = subprocess.run(
        [sys.executable, "-m", "ci_flame", "github", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    there = set(re.findall(r"^  (\w+) ", done.stdout.split("Commands:")[1], flags=re.MULTILINE))

    # `setup` is called by setup.sh
    assert asked | {"setup"} == there


# -- actions/setup/setup.sh -----------------------------------------------------------

SETUP = ROOT / "actions" / "setup" / "setup.sh"


@pytest.mark.parametrize(
    ("name", "code", "told"),
    [
        ("CI_FLAME_SETUP", 2, "input setup is 'x%0A::stop-commands::y%25'; it may be 'auto'"),
        ("CI_FLAME_PYTHON", 3, "'x%0A::stop-commands::y%25' is "),
    ],
)
def test_an_input_of_the_setup_is_no_command_of_the_runner(name, code, told):
    done = subprocess.run(
        ["bash", str(SETUP)],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], name: "x\n::stop-commands::y%"},
    )
    lines = done.stdout.splitlines()

    assert done.returncode == code
    assert [line[:30] for line in lines] == ["::error title=ci_flame::" + told[:6]]
    assert told in lines[0]


@pytest.mark.parametrize(
    ("python", "code", "told"),
    [
        (sys.executable, 0, ""),
        (sys._base_executable, 3, f"'{sys._base_executable}' has no ci_flame, and input setup is"),
        ("/nowhere/python3", 3, "'/nowhere/python3' is not to be found (input python): "),
    ],
)
def test_without_a_setup_what_is_missing_has_a_name(tmp_path, python, code, told):
    done = subprocess.run(
        ["bash", str(SETUP)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "CI_FLAME_PYTHON": python, "CI_FLAME_SETUP": "none"},
    )

    assert (done.returncode, done.stderr) == (code, "")
    assert done.stdout.removeprefix("::error title=ci_flame::").startswith(told)
    assert len(done.stdout.splitlines()) == bool(told)


def test_a_python_that_takes_no_packages_is_one_annotation_with_the_cure(tmp_path):
    """pip's own words are in the log above it; the script ends there."""
    python = tmp_path / "python3"
    python.write_text(
        '#!/bin/sh\n[ "$2" = pip ] && echo "error: externally-managed-environment" >&2 && exit 1\n'
        f'exec {sys.executable} "$@"\n',
        encoding="utf-8",
    )
    python.chmod(0o755)
    done = subprocess.run(
        ["bash", str(SETUP)],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], "CI_FLAME_PYTHON": str(python)},
    )

    assert done.returncode == 3
    assert "externally-managed-environment" in done.stderr
    told = done.stdout.splitlines()[-1]
    assert told.startswith(
        f"::error title=ci_flame::pip could not install ci_flame into '{python}'"
    )
    assert "put actions/setup-python before this action" in told
