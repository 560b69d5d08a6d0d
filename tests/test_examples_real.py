"""Every example, as its README tells: unchanged it passes, patched it fails and names the function.

The README's own commands are run, in a repository of its own, with the real collectors.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ci_flame.collect import COLLECTORS, machine

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
BIN = Path(sys.executable).parent
EBPF = COLLECTORS["ebpf"].obstacle(machine.probe(), python=True)
PERF = COLLECTORS["perf"].obstacle(machine.probe(), python=False)
needs_ebpf = [
    pytest.mark.root,
    pytest.mark.skipif(EBPF is not None, reason=f"eBPF: {EBPF and EBPF.reason}"),
]
needs_perf_and_node = [
    pytest.mark.root,
    pytest.mark.node,
    pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js"),
    pytest.mark.skipif(PERF is not None, reason=f"perf: {PERF and PERF.reason}"),
]
SHORT = {"busy": "100%", "processes": 3, "seconds": 0.5}
"""However busy the machine is, and no longer than the planted growth needs."""
CODES = {"PASS": 0, "FAIL": 1}


def blocks(example, language):
    """The fenced blocks of a README, in order."""
    text = (EXAMPLES / example / "README.md").read_text(encoding="utf-8")
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [block for name, block in found if name == language]


def commands(example):
    """Each command of a README and the verdict that is promised beside it: (words, verdict)."""
    lines = "".join(blocks(example, "sh")).splitlines()
    parts = [re.fullmatch(r"(.*?)(?: +# (PASS|FAIL)\b.*)?", line) for line in lines]
    return [(part[1], part[2] or "") for part in parts]


def pattern(sentence):
    """A sentence of a README as a regular expression; `…` stands for figures."""
    return ".*".join(re.escape(part.strip()) for part in sentence.split("…"))


@pytest.fixture
def project(tmp_path):
    """Returns a function that puts an example into a repository of its own."""

    def make(example):
        folder = tmp_path / example
        ignored = shutil.ignore_patterns("__pycache__", ".ci-flame", "build", "*.so", ".venv")
        shutil.copytree(EXAMPLES / example, folder, ignore=ignored)
        shorten(folder, **SHORT)
        run("git init -q -b main && git add --all && git commit -qm One", folder)
        return folder

    return make


def shorten(folder, **record):
    """Change how an example is recorded, and nothing else."""
    for file in folder.rglob("ci-flame.yml"):
        policy = yaml.safe_load(file.read_text(encoding="utf-8"))
        policy["record"] |= record
        file.write_text(yaml.safe_dump(policy), encoding="utf-8")


def run(line, folder, **variables):
    """Run one line of a README as a user's shell would; pip finds what is installed here."""
    environment = {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "HOME": str(folder.parent),
        "PIP_NO_INDEX": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_AUTHOR_NAME": "t",
        "GIT_AUTHOR_EMAIL": "t@example.org",
        "GIT_COMMITTER_NAME": "t",
        "GIT_COMMITTER_EMAIL": "t@example.org",
        **variables,
    }
    return subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
        env=environment,
    )


def latest_verdict(folder):
    files = sorted(folder.rglob("verdict.json"), key=lambda file: file.stat().st_mtime_ns)
    return json.loads(files[-1].read_text(encoding="utf-8"))


def findings(verdict):
    return [
        finding
        for benchmark in verdict["benchmarks"]
        for finding in benchmark["findings"]
        if finding["outcome"] == "fail"
    ]


@pytest.mark.parametrize(
    ("example", "blamed", "where"),
    [
        pytest.param("library", "shop.text:significant", ("shop/text.py", 15), marks=needs_ebpf),
        pytest.param(
            "service", "warehouse.stock:Stock.take", ("warehouse/stock.py", 13), marks=needs_ebpf
        ),
        pytest.param(
            "c-extension", "native:_rolling:roll", ("src/rolling.c", 17), marks=needs_ebpf
        ),
        pytest.param(
            "monorepo", "api.prices:convert", ("packages/api/api/prices.py", 7), marks=needs_ebpf
        ),
        pytest.param(
            "node",
            "jit:src/distance.js:distance",
            ("src/distance.js", 1),
            marks=needs_perf_and_node,
        ),
    ],
)
def test_example_does_what_its_readme_says(project, example, blamed, where):
    folder = project(example)
    told = [pattern(line) for block in blocks(example, "") for line in block.splitlines()]
    verdicts = []
    for line, promised in commands(example):
        if promised == "FAIL":
            shorten(folder, confirm=False)  # that a failure is recorded twice has tests of its own
        done = run(line, folder)
        output = done.stdout + done.stderr

        assert done.returncode == CODES.get(promised, 0), f"{line}\n{output}"
        assert "Traceback" not in output
        if not promised:
            continue
        verdict = latest_verdict(folder)
        verdicts.append(verdict["outcome"])
        failed = findings(verdict)
        assert verdict["outcome"] == promised.lower(), output
        assert {each["function"] for each in failed} == ({blamed} if promised == "FAIL" else set())
        if promised == "FAIL":
            assert {(each["where"]["file"], each["where"]["line"]) for each in failed} == {where}
            for each in told:
                assert any(re.fullmatch(each, one["sentence"]) for one in failed), output

    assert {"pass", "fail"} == set(verdicts)
    assert run("git worktree list", folder).stdout.count("\n") == 1


# -- what every example promises ------------------------------------------------------


ALL = ("library", "service", "c-extension", "monorepo", "node")


def test_every_example_is_in_the_list_and_the_other_way_round():
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"\[`([\w-]+)/`\]\(([^)]+)\)", text)

    assert all((EXAMPLES / link).exists() for _, link in listed)
    listed = [name for name, _ in listed]
    assert sorted(listed) == sorted(each.name for each in EXAMPLES.iterdir() if each.is_dir())
    assert set(ALL) <= set(listed)


@pytest.mark.parametrize("example", ALL)
def test_readme_of_an_example_promises_both_verdicts_and_a_sentence(example):
    promised = [verdict for _, verdict in commands(example)]

    assert promised.index("PASS") < promised.index("FAIL")
    assert any("git apply" in line for line, _ in commands(example)[: promised.index("FAIL")])
    assert [block for block in blocks(example, "") if "limit" in block or "may take" in block]


def test_policies_of_the_examples_fail_what_was_not_judged_but_the_one_that_the_readme_names():
    told = " ".join((EXAMPLES / "README.md").read_text(encoding="utf-8").split())
    open_gates = {
        file.parent.name
        for file in EXAMPLES.rglob("ci-flame.yml")
        if yaml.safe_load(file.read_text(encoding="utf-8")).get("inconclusive") != "fail"
    }

    assert open_gates == set(re.findall(r"Only the monorepo's `(\w+)` does without", told))


@pytest.mark.parametrize("example", ALL)
def test_readme_of_an_example_links_what_is_there(example):
    text = (EXAMPLES / example / "README.md").read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]

    assert links
    for link in links:
        assert (EXAMPLES / example / link).exists(), link


@pytest.mark.parametrize(
    "patch",
    [file for name in ALL for file in (EXAMPLES / name).glob("*.patch")],
    ids=lambda file: f"{file.parent.name}-{file.stem}",
)
def test_patch_of_an_example_applies_to_it_and_only_changes_its_sources(patch):
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(patch.parent.parent)}
    for word in ("--check", "--numstat"):  # neither of them changes a file
        done = subprocess.run(
            ["git", "apply", word, str(patch)],
            cwd=patch.parent,
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
    changed = [line.split("\t")[2] for line in done.stdout.splitlines()]

    assert changed
    assert not [file for file in changed if "bench" in file or file.endswith(".yml")]
