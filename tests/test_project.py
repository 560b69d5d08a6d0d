"""What users install and what developers run: packages, set-up, CI's tally, the README."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOOLS = ROOT / "tools"


def run(*words, cwd=ROOT, env=None):
    return subprocess.run(
        [str(word) for word in words],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
    )


def tracked():
    return [name for name in run("git", "ls-files", "-z").stdout.split("\0") if name]


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """The sdist of the tracked files, and the wheel that is built from that sdist."""
    source = tmp_path_factory.mktemp("source")
    for name in tracked():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, source / name)
    out = tmp_path_factory.mktemp("dist")
    done = run(sys.executable, "-m", "build", "--outdir", out, source)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = out.glob("*.whl")
    (sdist,) = out.glob("*.tar.gz")
    return wheel, sdist


def wheel_names(packages):
    with zipfile.ZipFile(packages[0]) as archive:
        return set(archive.namelist())


def test_wheel_has_all_that_recording_and_reporting_read(packages):
    names = wheel_names(packages)
    package_files = {
        name for name in tracked() if name.startswith("ci_flame/") and (ROOT / name).is_file()
    }

    assert {name for name in names if name.startswith("ci_flame/")} == package_files
    for ending in (".o", ".c", ".h", ".proto", "py.typed"):
        assert any(name.endswith(ending) for name in names), ending


def test_wheel_has_licence_notice_and_nothing_of_the_repository(packages):
    names = wheel_names(packages)
    tops = {name.split("/")[0] for name in names}

    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert any(name.endswith("licenses/NOTICE") for name in names)
    assert {re.sub(r"-[\d.]+\.dist-info$", "", top) for top in tops} == {"ci_flame"}


def test_sdist_leaves_out_the_test_data_of_others(packages):
    with tarfile.open(packages[1]) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]

    assert not [name for name in names if name.startswith("tests/data")]
    assert "ci_flame/py.typed" in names
    assert "LICENSE" in names


def test_wheel_installs_into_a_fresh_environment_and_works_there(packages, tmp_path):
    """The dependencies are this environment's; the code is the wheel's, away from the checkout."""
    home = tmp_path / "venv"
    venv.create(home, with_pip=False, symlinks=True)
    (site,) = (home / "lib").glob("python3.*/site-packages")
    done = run(
        *(sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-qq"),
        *("--no-deps", "--no-index", "--target", site, packages[0]),
    )
    assert done.returncode == 0, done.stderr
    for path in sys.path:
        if path.endswith("site-packages"):
            (site / "dependencies.pth").write_text(f"{path}\n", encoding="utf-8")

    python = home / "bin" / "python"
    where = run(python, "-c", "import ci_flame; print(ci_flame.__file__)", cwd=tmp_path)
    version = run(python, "-m", "ci_flame", "--version", cwd=tmp_path)
    plugin = run(python, "-m", "pytest", "--help", cwd=tmp_path)

    assert Path(where.stdout.strip()).is_relative_to(home), where.stderr
    assert version.returncode == 0, version.stderr
    assert re.search(r"\d+\.\d+\.\d+", version.stdout)
    assert "--flame" in plugin.stdout


def test_dependency_group_prints_what_pip_should_install():
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    done = run(sys.executable, TOOLS / "dependency_group.py", "pyproject.toml", "dev")

    assert done.stdout.split("\n")[:-1] == table["dependency-groups"]["dev"]


@pytest.mark.parametrize(
    ("groups", "told"),
    [
        ('dev = ["a", {include-group = "more"}]\nmore = ["b"]', "a\nb\n"),
        ('more = ["b"]', "no dependency group 'dev'; there are: more"),
        ('dev = [{include-group = "dev"}]', "'dev' includes itself: dev -> dev"),
    ],
)
def test_dependency_group_follows_includes_and_says_what_is_wrong(tmp_path, groups, told):
    (tmp_path / "pyproject.toml").write_text(f"[dependency-groups]\n{groups}\n", encoding="utf-8")
    done = run(sys.executable, TOOLS / "dependency_group.py", tmp_path / "pyproject.toml", "dev")

    assert told in done.stdout + done.stderr


def test_setup_is_instant_when_nothing_changed(tmp_path):
    """With a stamp of the same inputs nothing is installed: pip is not even looked for."""
    copy = tmp_path / "project"
    (copy / "tools").mkdir(parents=True)
    for name in ("tools/setup.sh", "tools/system_packages.sh", "pyproject.toml"):
        shutil.copy2(ROOT / name, copy / name)
    binaries = copy / ".venv" / "bin"
    binaries.mkdir(parents=True)
    (binaries / "ci-flame").write_text("#!/bin/sh\n", encoding="utf-8")
    (binaries / "ci-flame").chmod(0o755)
    sums = [
        run("sh", "-c", f"cksum <{name}", cwd=copy).stdout.strip()
        for name in ("pyproject.toml", "tools/setup.sh")
    ]
    stamp = copy / ".venv" / "ci-flame-run.stamp"
    stamp.write_text(f"{copy} {' '.join(sums)}\n", encoding="utf-8")
    done = run("sh", copy / "tools" / "setup.sh", "run", cwd=tmp_path)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    broken = copy / "pyproject.toml"
    broken.write_text("not toml", encoding="utf-8")
    done = run("sh", copy / "tools" / "setup.sh", "run", cwd=tmp_path)

    assert done.returncode != 0, "another pyproject.toml makes the stamp old"


def test_system_packages_refuses_an_unknown_level():
    done = run("sh", TOOLS / "system_packages.sh", "everything")

    assert done.returncode == 2
    assert "'everything' is not a level; use 'record', 'run' or 'test'" in done.stderr


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become a user without rights")
def test_system_packages_names_what_it_would_install(tmp_path):
    """Without git on PATH and without sudo: the package, and the words to paste."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "id", "grep", "env", "test", "make", "python3", "ldconfig", "apt-get"):
        found = shutil.which(name, path="/usr/bin:/bin:/usr/sbin:/sbin")
        assert found, name
        (tools / name).symlink_to(found)
    script = tmp_path / "system_packages.sh"
    shutil.copy2(TOOLS / "system_packages.sh", script)
    for folder in (tmp_path, *list(tmp_path.parents)[:3]):
        folder.chmod(0o755)
    done = subprocess.run(
        ["/bin/sh", str(script), "run"],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": str(tools)},
        user=65534,
        group=65534,
        extra_groups=[],
        cwd="/",
    )

    assert done.returncode == 1
    assert "missing here: git; installing needs root and 'sudo -n' is refused" in done.stderr
    assert "hint: sudo apt-get install -y git" in done.stderr


JUNIT = '<testsuites><testsuite name="pytest">{}</testsuite></testsuites>'
PASSED = '<testcase classname="tests.test_a" name="test_b"/>'
SKIPPED = (
    '<testcase classname="tests.test_a" name="test_c">'
    '<skipped type="pytest.skip" message="{}"/></testcase>'
)
XFAILED = '<testcase classname="t" name="d"><skipped type="pytest.xfail" message="x"/></testcase>'
OTHER = PASSED.replace("test_b", "test_c")
REPEATED = '<testcase classname="t" name="e"/>'
FAILED = '<testcase classname="t" name="e"><failure message="no"/><error message="no"/></testcase>'


@pytest.mark.parametrize(
    ("cases", "pytest_exit", "lint_exit", "exit_code", "last"),
    [
        ([PASSED, OTHER], 0, 0, 0, "2 passed, 0 failed"),
        ([PASSED, REPEATED, REPEATED], 0, 0, 0, "2 passed, 0 failed"),
        ([PASSED, REPEATED, FAILED], 1, 0, 1, "1 passed, 1 failed"),
        ([PASSED, XFAILED], 0, 0, 0, "2 passed, 0 failed"),
        ([PASSED, SKIPPED.format("needs root")], 0, 0, 1, "1 passed, 1 failed"),
        ([PASSED, SKIPPED.format("needs Python 3.12 or newer")], 0, 0, 0, "1 passed, 0 failed"),
        (
            [PASSED, SKIPPED.format("no CPython 3.10 is installed here")],
            0,
            0,
            0,
            "1 passed, 0 failed",
        ),
        ([PASSED, FAILED], 1, 0, 1, "1 passed, 1 failed"),
        ([PASSED], 0, 1, 1, "1 passed, 0 failed"),  # lint failed
        ([PASSED], 3, 0, 1, "1 passed, 0 failed"),  # an internal error after the tests
        ([], 5, 0, 1, "0 passed, 0 failed"),  # nothing collected
        ([], 0, 0, 1, "0 passed, 0 failed"),
    ],
)
def test_tally_counts_and_judges(  # noqa: PLR0917 - one row of the table
    tmp_path, cases, pytest_exit, lint_exit, exit_code, last
):
    report = tmp_path / "junit.xml"
    report.write_text(JUNIT.format("".join(cases)), encoding="utf-8")
    words = ("--pytest-exit", pytest_exit, "--lint-exit", lint_exit)
    done = run(sys.executable, TOOLS / "tally.py", report, *words)

    assert (done.returncode, done.stdout.splitlines()[-1]) == (exit_code, last), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("text", [None, "", "<testsuites>"])
def test_tally_without_a_whole_report_fails(tmp_path, text):
    report = tmp_path / "junit.xml"
    if text is not None:
        report.write_text(text, encoding="utf-8")
    words = ("--pytest-exit", 2, "--lint-exit", 0)
    done = run(sys.executable, TOOLS / "tally.py", report, *words)

    assert done.returncode == 1
    assert "no test report" in done.stdout
    assert done.stdout.splitlines()[-1] == "0 passed, 1 failed"


def test_readme_shows_everything_in_its_first_40_lines():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:40]
    top = "\n".join(lines)

    assert lines[0] == "# ci_flame"
    for wanted in (
        "![",
        "grew by",
        "pip install ci-flame",
        "def test_",
        "uses: ",
        "ci-flame check",
    ):
        assert wanted in top, wanted
    assert "How it decides" in top


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", *sorted(p.name for p in (ROOT / "docs").glob("*.md"))]
)
def test_links_between_pages_lead_somewhere(page):
    file = ROOT / page if (ROOT / page).is_file() else ROOT / "docs" / page
    text = re.sub(r"```.*?```", "", file.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text)
    missing = [
        target
        for target in targets
        if not target.startswith(("http://", "https://")) and not (file.parent / target).exists()
    ]

    assert missing == []


def test_notice_names_each_vendored_work():
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")

    for word in ("profile.proto", "Google", "Dual BSD/GPL"):
        assert word in notice
    if (ROOT / "tests" / "data" / "flamegraph").is_dir():
        assert "CDDL" in notice
        assert any((ROOT / "tests" / "data" / "flamegraph").glob("*NOTICE*"))


def test_every_bpf_source_carries_its_licence():
    sources = sorted((ROOT / "ci_flame" / "collect" / "bpf").glob("*.[ch]"))
    without = [
        file.name
        for file in sources
        if "SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause"
        not in file.read_text(encoding="utf-8")[:500]
    ]

    assert sources
    assert without == []


def test_no_text_of_the_project_names_a_machine_path():
    """A path of someone's home or checkout in a tracked text would be of no use to anyone."""
    found = []
    pattern = re.compile(rb"(?<![\w.-])/(?:root|work)/\w")
    for name in tracked():
        if name.startswith(("tests/", "ci_flame/collect/bpf/")) or not (ROOT / name).is_file():
            continue
        found += [
            f"{name}: {match.group().decode()}"
            for match in pattern.finditer((ROOT / name).read_bytes())
        ]

    assert found == []


def test_changelog_has_unreleased_on_top():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## (.+)$", text, flags=re.MULTILINE)

    assert sections[0] == "Unreleased"
