"""`tools/lint_github.py`: our files are clean, and each tool sees what it is there for."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOOL = ROOT / "tools" / "lint_github.py"


def load():
    spec = importlib.util.spec_from_file_location("lint_github", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


lint = load()
NEEDS_NODE = pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
TOOLS = [
    pytest.param(name, marks=[pytest.mark.node, NEEDS_NODE] if name == "languageservice" else [])
    for name in lint.TOOLS
]


@pytest.fixture
def copy(tmp_path):
    """All that is looked at, elsewhere, to be spoilt."""
    for name in lint.found((*lint.ACTIONS, *lint.WORKFLOWS), ROOT):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tmp_path / name)
    return tmp_path


def test_all_of_our_actions_and_workflows_are_looked_at():
    named = {
        name
        for name in subprocess.run(
            ["git", "ls-files", "-z", "*.yml"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.split("\0")
        if name.endswith("/action.yml") or name == "action.yml" or "/workflows/" in f"/{name}"
    }

    assert set(lint.found((*lint.ACTIONS, *lint.WORKFLOWS), ROOT)) >= named
    assert {f"actions/{name}/action.yml" for name in ("setup", "record", "compare")} <= named


@pytest.mark.parametrize("tool", TOOLS)
def test_nothing_is_found_in_our_files(tool, capsys):
    code = lint.main(["--only", tool])

    assert code == 0, capsys.readouterr().out
    assert f"{tool}: no finding in " in capsys.readouterr().out


ACTION = "action.yml"
GATE = "run: '\"$CI_FLAME_PYTHON\" -P -m ci_flame github gate'"
DEFECTS = [
    # what an input says becomes a part of the script
    ("zizmor", ACTION, GATE, "run: exit ${{ inputs.command }}", "template-injection"),
    # skipped with one line of warning, were the collection not strict
    ("zizmor", ACTION, "steps:\n", "stairs:\n", "action.yml"),
    ("zizmor", ".github/workflows/ci.yml", "permissions: {}\n", "", "excessive-permissions"),
    ("check-jsonschema", ACTION, "      shell: bash\n", "", "action.yml::$.runs"),
    ("check-jsonschema", ACTION, "icon: activity", "icon: fire", "activity"),
    ("check-jsonschema", ".github/workflows/ci.yml", "runs-on:", "run-on:", "run-on"),
    ("jactionlint", ACTION, "steps.check.outputs.outcome", "steps.chk.outputs.outcome", "chk"),
    ("jactionlint", ACTION, "inputs.policy", "inputs.polcy", "polcy"),
    ("jactionlint", "actions/record/action.yml", "overwrite: true", "over: true", "over"),
    ("languageservice", ACTION, "      shell: bash\n", "", "Required property is missing: shell"),
    (
        "languageservice",
        ".github/workflows/ci.yml",
        "contents: read # checkout",
        "contents: perhaps",
        "Unexpected value 'perhaps'",
    ),
    ("own", ACTION, "@bbbca2ddaa5d8feaa63e36b76fdaad77386f024f # v7.0.0", "@v7", "pin it by"),
    ("own", "actions/record/action.yml", " # v7.0.0", "", "pin it by"),
]


@pytest.mark.parametrize(
    ("tool", "file", "defect", "told"),
    [
        pytest.param(
            row[0],
            row[1],
            row[2:4],
            row[4],
            marks=[pytest.mark.node, NEEDS_NODE] if row[0] == "languageservice" else [],
        )
        for row in DEFECTS
    ],
)
def test_each_tool_sees_what_it_is_there_for(copy, capsys, tool, file, defect, told):  # noqa: PLR0917 - fixtures and one row
    old, new = defect
    text = (copy / file).read_text(encoding="utf-8")
    assert old in text
    (copy / file).write_text(text.replace(old, new, 1), encoding="utf-8")
    code = lint.main(["--root", str(copy), "--only", tool])
    out = capsys.readouterr().out

    assert code == 1
    assert f"{tool}: found in " in out
    assert told in out
    assert file in out


def test_a_folder_without_actions_is_no_clean_one(tmp_path, capsys):
    assert lint.main(["--root", str(tmp_path)]) == 2
    assert "there is no action.yml and no workflow" in capsys.readouterr().err


def test_a_tool_that_is_missing_is_said(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))

    assert lint.main(["--only", "zizmor"]) == 2
    assert "zizmor is not installed; run: make setup" in capsys.readouterr().err


def test_the_program_ends_with_what_it_found(copy):
    (copy / "action.yml").write_text("name: x\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, TOOL, "--root", copy, "--only", "check-jsonschema"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
    )

    assert done.returncode == 1
    assert "'runs' is a required property" in done.stdout
