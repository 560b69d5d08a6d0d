"""tools/pythons.py: find the interpreters that tests run under, fetch what is missing."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from interpreters import NEWER, ROOT, interpreter, pythons_tool

TOOL = ROOT / "tools" / "pythons.py"
MINOR = f"3.{sys.version_info.minor}"


def run(*words, env=None):
    return subprocess.run(
        [sys.executable, TOOL, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env=env,
        stdin=subprocess.DEVNULL,
    )


def test_what_is_here_is_listed_with_its_full_version():
    done = run("--list")
    listed = dict(line.split("\t") for line in done.stdout.splitlines())

    assert (done.returncode, done.stderr) == (0, "")
    for version, path in listed.items():
        told = subprocess.run([path, "--version"], capture_output=True, text=True, check=True)
        assert told.stdout == f"Python {version}\n"
    for version in NEWER:
        if interpreter(version):
            assert any(full.startswith(f"{version}.") for full in listed)


@pytest.mark.parametrize("version", ["3", "3.x", "2.7", "../3.14", "3.141"])
def test_what_is_no_version_is_refused(version):
    done = run(version)

    assert done.returncode == 2
    assert f"{version!r} is not a version such as 3.14" in done.stderr


def test_a_version_that_is_here_is_not_fetched(tmp_path):
    done = run("--into", tmp_path, MINOR)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not list(tmp_path.iterdir())


def bare(tmp_path, *programs):
    """Return an environment in which only these programs are found, and no interpreter is."""
    programs_folder = tmp_path / "bin"
    programs_folder.mkdir()
    for name in programs:
        (programs_folder / name).symlink_to(shutil.which(name))
    return {**os.environ, "PATH": str(programs_folder), "HOME": str(tmp_path)}


@pytest.mark.parametrize(
    ("programs", "words"),
    [
        ((), "CPython 3.99 is not here, and apt-get, which fetching needs, is missing"),
        (("apt-get", "apt-cache", "dpkg-deb"), "and patchelf, which fetching needs, is missing"),
    ],
)
def test_a_missing_program_is_named_with_the_cure(tmp_path, programs, words):
    if not all(map(shutil.which, programs)):
        pytest.skip("no CPython 3.99 is installed here, nor apt")
    done = run("--into", tmp_path / "into", "3.99", env=bare(tmp_path, *programs))

    assert done.returncode == 1
    assert words in done.stderr
    assert "hint: sudo apt-get install" in done.stderr
    assert "uv python install 3.99" in done.stderr


def test_an_archive_that_does_not_answer_is_one_line(tmp_path):
    """The suite's index is asked for where nobody listens."""
    if not shutil.which("apt-get"):
        pytest.skip("no CPython 3.99 is installed here, nor apt")
    tool = pythons_tool()
    with pytest.raises(tool.FetchError, match="reading the index of forky: ") as error:
        tool.Apt(tmp_path / "apt", "http://127.0.0.1:9/debian", "forky")
    assert "is there a network" in error.value.hint


def test_a_program_that_is_another_or_hangs_is_not_taken(tmp_path, monkeypatch):
    tool = pythons_tool()
    monkeypatch.setattr(tool, "_ANSWER_SECONDS", 0.5)
    for name, script in {
        "silent": "exit 0",
        "failing": "echo cpython 3.14.0 0; exit 1",
        "pypy": "echo pypy 3.11.0 0",
        "free_threaded": "echo cpython 3.14.0 1",
        "hanging": "exec sleep 30",
    }.items():
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        assert tool.answer(program) == "", name
    assert tool.answer(tmp_path / "missing") == ""
    assert tool.answer(sys.executable) == sys.version.split()[0]


@pytest.mark.parametrize(
    "stamp",
    [
        "",
        "{",
        "[]",
        '{"format": 0, "home": "HOME"}',
        '{"format": 1, "home": "/another/checkout/3.14"}',
    ],
)
def test_what_is_half_fetched_or_was_moved_is_fetched_again(tmp_path, stamp):
    tool = pythons_tool()
    home = tmp_path / "3.14"
    home.mkdir()
    (home / "stamp.json").write_text(stamp.replace("HOME", str(home)))
    assert tool.fetched("3.14", tmp_path) is None

    (home / "stamp.json").write_text(json.dumps({"format": tool.FORMAT, "home": str(home)}))
    assert tool.fetched("3.14", tmp_path) == home / "usr/bin/python3.14"


def test_a_second_process_waits_and_gives_up_in_time(tmp_path, monkeypatch):
    tool = pythons_tool()
    monkeypatch.setattr(tool, "_LOCK_SECONDS", 0)
    with (
        tool.alone(tmp_path),
        pytest.raises(tool.FetchError, match="another process has been fetching into"),
        tool.alone(tmp_path),
    ):
        pass


def test_fetched_interpreters_are_ordinary_programs(tmp_path):
    """Environments, children and extension modules work; the system's packages are not seen."""
    here = [path for version in NEWER if (path := pythons_tool().fetched(version))]
    if not here:
        pytest.skip("no CPython 3.99 is installed here: none was fetched")
    for python in here:
        home = tmp_path / python.name
        subprocess.run([python, "-m", "venv", "--without-pip", home], check=True)
        code = (
            "import subprocess, sys, sqlite3, ssl, lzma;"
            " print(subprocess.check_output([sys.executable, '-c', 'import sys;"
            " print(sys.prefix)'], text=True).strip())"
        )
        done = subprocess.run(
            [home / "bin/python", "-c", code], capture_output=True, text=True, check=True
        )
        assert Path(done.stdout.strip()) == home
