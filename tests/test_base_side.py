"""The base commit made ready: its setup, its environment, and what is said that it lacks."""

import os
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest
from synthetic import SHOP, synthetic_measurement, synthetic_run

from ci_flame import pipeline
from ci_flame.baseline import base_side
from ci_flame.errors import BaselineError, CollectError
from ci_flame.profile import Run


def run_git(place, *words):
    who = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    done = subprocess.run(
        ["git", *who, *words], cwd=place, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    """Temporary files of ci_flame go where the test can look for them."""
    place = tmp_path / "scratch"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr("tempfile.tempdir", None)
    return place


@pytest.fixture
def project(tmp_path):
    root = tmp_path / "project"
    (root / "bench").mkdir(parents=True)
    run_git(root, "init", "-q", "-b", "main")
    (root / ".gitignore").write_text("made.py\nbuild/\n")
    (root / "shop.py").write_text("PRICE = 1\n")
    (root / "bench" / "test_shop.py").write_text("def test_it(): pass\n")
    run_git(root, "add", "-A")
    run_git(root, "commit", "-q", "-m", "one")
    return root


def python_of(checkout, *words):
    """Run the interpreter of the base's own environment as a benchmark's process would."""
    environment = checkout.environment(os.environ)
    done = subprocess.run(
        ["python", *words], cwd=checkout.folder, env=environment, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    return done.stdout.strip()


# -- setup ------------------------------------------------------------------------------


def test_without_setup_the_base_has_no_environment_of_its_own(project):
    with base_side.prepared("HEAD", project) as base:
        assert base.python == ""
        assert base.environment({"PATH": "/bin"}) == {"PATH": "/bin"}
        assert base.notes == ()
        assert (base.folder / "shop.py").read_text() == "PRICE = 1\n"


def test_setup_runs_in_the_checkout_with_an_environment_of_its_own(project, scratch):
    site = sysconfig.get_path("purelib")
    before = sorted(Path(site).iterdir())
    # What `pip install` does, without an index: a package into this interpreter's own folder.
    setup = (
        "echo PRICE = 2 > made.py; pwd > where.txt; echo $VIRTUAL_ENV > venv.txt;"
        " python -c 'import sysconfig, pathlib;"
        ' pathlib.Path(sysconfig.get_path("purelib"), "installed.py").write_text("X = 3")\''
    )
    with base_side.prepared("HEAD", project, setup=setup) as base:
        assert (base.folder / "where.txt").read_text().strip() == str(base.folder)
        own = Path((base.folder / "venv.txt").read_text().strip())
        assert Path(base.python) == own / "bin" / "python"
        assert own.is_relative_to(scratch)
        assert python_of(base, "-c", "import made, installed; print(made.PRICE, installed.X)") == (
            "2 3"
        )
        # It sees what is installed here too.
        assert python_of(base, "-c", "import pytest; print(pytest.__version__)") == (
            pytest.__version__
        )
        assert base_side.of(base.folder) == base

    assert sorted(Path(site).iterdir()) == before
    assert not (project / "made.py").exists()
    assert list(scratch.iterdir()) == []


def test_what_setup_installs_comes_before_what_is_installed_here(project):
    setup = (
        "python -c 'import sysconfig, pathlib;"
        ' pathlib.Path(sysconfig.get_path("purelib"), "click.py").write_text("X = 3")\''
    )
    with base_side.prepared("HEAD", project, setup=setup) as base:
        assert python_of(base, "-c", "import click; print(click.X)") == "3"
    with base_side.prepared("HEAD", project, setup="true") as base:
        assert python_of(base, "-c", "import click; print(hasattr(click, 'X'))") == "False"


def test_pip_installs_the_base_s_package_into_its_own_environment(project):
    (project / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "shop"\nversion = "1"\n'
    )
    # A build backend of ten lines: nothing is fetched.
    (project / "backend.py").write_text(
        "import pathlib, zipfile\n"
        "def build_wheel(folder, config_settings=None, metadata_directory=None):\n"
        "    with zipfile.ZipFile(pathlib.Path(folder, 'shop-1-py3-none-any.whl'), 'w') as w:\n"
        "        w.writestr('shop_installed.py', 'FROM = 1\\n')\n"
        "        w.writestr('shop-1.dist-info/METADATA',\n"
        "                   'Metadata-Version: 2.1\\nName: shop\\nVersion: 1\\n')\n"
        "        w.writestr('shop-1.dist-info/WHEEL', 'Wheel-Version: 1.0\\nGenerator: x\\n'\n"
        "                   'Root-Is-Purelib: true\\nTag: py3-none-any\\n')\n"
        "        w.writestr('shop-1.dist-info/RECORD', '')\n"
        "    return 'shop-1-py3-none-any.whl'\n"
    )
    run_git(project, "add", "-A")
    run_git(project, "commit", "-q", "-m", "two")
    setup = "pip install -q --no-index --no-build-isolation --no-deps ."
    with base_side.prepared("HEAD", project, setup=setup) as base:
        where = python_of(base, "-c", "import shop_installed as s; print(s.__file__)")

        assert Path(where).is_relative_to(Path(base.python).parent.parent)


def test_setup_of_the_changed_tree_runs_there_in_this_environment(project):
    after = 'pwd > here.txt; echo "$VIRTUAL_ENV" > venv.txt'
    with base_side.prepared("HEAD", project / "bench", setup_after=after) as base:
        assert base.python == ""
    assert (project / "bench" / "here.txt").read_text().strip() == str(project / "bench")
    assert (project / "bench" / "venv.txt").read_text().strip() == os.environ.get("VIRTUAL_ENV", "")


def test_setup_runs_where_the_build_was_started(project):
    with base_side.prepared("HEAD", project / "bench", setup="pwd > ../where.txt") as base:
        assert (base.folder / "where.txt").read_text().strip() == str(base.folder / "bench")


@pytest.mark.parametrize(
    ("command", "ended", "rows"),
    [
        ("echo building; echo no compiler >&2; exit 3", "exit code 3",
         ["  | building", "  | no compiler"]),
        ("exit 1", "exit code 1", ["  | (no output)"]),
        ("kill -9 $$", "signal 9", ["  | (no output)"]),
        ("no-such-program", "exit code 127", None),
        ("printf '\\377\\n'; exit 1", "exit code 1", ["  | \N{REPLACEMENT CHARACTER}"]),
        # Twenty lines, the last ones.
        ("seq 21; exit 1", "exit code 1", [f"  | {n}" for n in range(2, 22)]),
        ("seq 20; exit 1", "exit code 1", [f"  | {n}" for n in range(1, 21)]),
    ],
)  # fmt: skip
def test_a_setup_that_fails_is_told_with_its_last_lines(project, scratch, command, ended, rows):
    with (
        pytest.raises(CollectError) as raised,
        base_side.prepared("HEAD", project, setup=command),
    ):
        pytest.fail("prepared")

    first, *lines = raised.value.message.splitlines()
    assert first == f"setup of the base commit ended with {ended}: {command}"
    assert rows in (None, lines)
    assert str(raised.value.hint).startswith("it is run by `sh -c` in ")
    assert list(scratch.iterdir()) == []


def test_a_setup_of_the_changed_tree_that_fails(project, scratch):
    with (
        pytest.raises(CollectError, match=r"^setup of the changed tree ended with exit code 4"),
        base_side.prepared("HEAD", project, setup_after="exit 4"),
    ):
        pytest.fail("prepared")

    assert list(scratch.iterdir()) == []


def test_a_setup_that_does_not_end_is_ended_with_all_it_started(project, scratch, monkeypatch):
    monkeypatch.setattr(base_side, "SETUP_TIMEOUT_S", 1)
    command = "echo waiting; sleep 60 & echo $! > ../pid.txt; cp ../pid.txt %s; wait"
    note = scratch.parent / "pid.txt"
    with (
        pytest.raises(CollectError) as raised,
        base_side.prepared("HEAD", project, setup=command % note),
    ):
        pytest.fail("prepared")

    first, *rows = raised.value.message.splitlines()
    assert first.startswith("setup of the base commit did not end within 1 s: echo waiting")
    assert rows == ["  | waiting"]
    assert ended(int(note.read_text()))


def test_what_a_setup_leaves_running_is_ended(project, scratch):
    note = scratch.parent / "pid.txt"
    with base_side.prepared("HEAD", project, setup=f"sleep 60 & echo $! > {note}"):
        assert ended(int(note.read_text()))


def ended(pid):
    """Tell whether a process is gone (or waits to be reaped by whoever adopted it)."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_an_interpreter_that_makes_no_environment_is_named(project, tmp_path):
    broken = tmp_path / "python3"
    broken.write_text("#!/bin/sh\necho No module named venv >&2\nexit 1\n")
    broken.chmod(0o755)
    for python, told in ((broken, "No module named venv"), (tmp_path / "gone", "No such file")):
        with (
            pytest.raises(CollectError) as raised,
            base_side.prepared("HEAD", project, setup="true", python=str(python)),
        ):
            pytest.fail("prepared")

        assert raised.value.message.startswith("no environment for the base commit could be made")
        assert told in raised.value.message
        assert "\n" not in raised.value.message
        assert "python3-venv" in str(raised.value.hint)


# -- what it lacks ------------------------------------------------------------------------


def test_what_is_in_no_commit_is_said(project):
    (project / "shop.py").write_text("PRICE = 2\n")
    for name in ("one.txt", "two.txt"):
        (project / name).write_text("x")
    (project / "made.py").write_text("ignored")
    (project / "__pycache__").mkdir()
    (project / "__pycache__" / "shop.cpython-311.pyc").write_bytes(b"made anew on either side")
    with base_side.prepared("HEAD", project, notes=[("rerun", "chosen")]) as base:
        slugs = [slug for slug, _ in base.notes]
        texts = [text for _, text in base.notes]

        assert slugs == ["rerun", "base-commit", "base-commit"]
        head = run_git(project, "rev-parse", "HEAD")[:10]
        assert texts[1] == (
            f"the work tree differs from its commit {head}: what is not committed counts as part"
            " of the change; the base commit is recorded as it was committed"
        )
        assert texts[2] == "2 untracked files are not beside the base commit: one.txt, two.txt"
        assert (base.folder / "shop.py").read_text() == "PRICE = 1\n"
        # Another process that is given the folder knows the same.
        assert base_side.of(base.folder) == base


@pytest.mark.parametrize(
    ("count", "told"),
    [
        (0, None),
        (1, "an untracked file is not beside the base commit: f0"),
        (3, "3 untracked files are not beside the base commit: f0, f1, f2"),
        (4, "4 untracked files are not beside the base commit: f0, f1, f2 and 1 more"),
    ],
)
def test_untracked_files_are_listed(project, count, told):
    for number in range(count):
        (project / f"f{number}").write_text("x")
    with base_side.prepared("HEAD", project) as base:
        assert [text for _, text in base.notes] == ([told] if told else [])


def test_any_folder_may_be_a_side(tmp_path):
    folder = tmp_path / "base"
    folder.mkdir()
    # Nobody else's file beside it is believed.
    (tmp_path / base_side.MANIFEST).write_text('{"python": "/bin/evil", "notes": []}')

    assert base_side.of(folder) == base_side.Checkout(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"python": 1}', '{"python": "", "notes": [1]}'])
def test_a_broken_manifest_is_no_manifest(tmp_path, text):
    name = f"{base_side.rerun.PREFIX}x"
    folder = tmp_path / name / name
    folder.mkdir(parents=True)
    (folder.parent / base_side.MANIFEST).write_text(text)

    assert base_side.of(folder) == base_side.Checkout(folder)


# -- files that are new -------------------------------------------------------------------


def test_a_new_file_is_copied_beside_the_base_with_what_it_needs(project):
    (project / "bench" / "new").mkdir()
    for name in ("__init__.py", "conftest.py", "test_new.py", "other.py"):
        (project / "bench" / "new" / name).write_text(f"# {name}\n")
    (project / "bench" / "conftest.py").write_text("# new, in a folder that the base has\n")
    file = project / "bench" / "new" / "test_new.py"
    expected = ("bench/new/__init__.py", "bench/new/conftest.py", "bench/new/test_new.py")
    with base_side.prepared("HEAD", project) as base:
        assert base_side.bring(file, project, base.folder) == expected
        for name in expected:
            assert (base.folder / name).read_text() == (project / name).read_text()
        assert not (base.folder / "bench" / "conftest.py").exists()
        assert not (base.folder / "bench" / "new" / "other.py").exists()
        # The next benchmark of the same file is told the same.
        assert base_side.bring(file, project, base.folder) == ("bench/new/test_new.py",)


def test_files_that_the_base_has_stay_its_own(project):
    file = project / "bench" / "test_shop.py"
    file.write_text("def test_it(): return 1\n")
    with base_side.prepared("HEAD", project) as base:
        assert base_side.bring(file, project, base.folder) == ()
        assert base_side.differ(file, base.folder / "bench" / "test_shop.py")
        assert not base_side.differ(project / "shop.py", base.folder / "shop.py")
        assert not base_side.differ(project / "gone.py", base.folder / "gone.py")


def test_only_checkouts_of_ours_are_written_to(project, tmp_path):
    (project / "new.py").write_text("x")
    (tmp_path / "theirs").mkdir()

    assert base_side.bring(project / "new.py", project, tmp_path / "theirs") == ()
    assert list((tmp_path / "theirs").iterdir()) == []


def test_files_outside_the_project_and_links_are_not_copied(project, tmp_path):
    outside = tmp_path / "outside.py"
    outside.write_text("secret")
    (project / "link.py").symlink_to(outside)
    with base_side.prepared("HEAD", project) as base:
        for file in (outside, project / "link.py", project / "gone.py", project / "bench"):
            assert base_side.bring(file, project, base.folder) == ()
        assert not (base.folder / "link.py").exists()


def test_huge_files_are_not_copied(project, monkeypatch):
    monkeypatch.setattr(base_side, "_BROUGHT_BYTES", 10)
    (project / "ten.py").write_text("0123456789")
    (project / "eleven.py").write_text("0123456789a")
    with base_side.prepared("HEAD", project) as base:
        assert base_side.bring(project / "ten.py", project, base.folder) == ("ten.py",)
        assert base_side.bring(project / "eleven.py", project, base.folder) == ()


def test_a_folder_where_a_file_was_is_an_error_by_name(project):
    run_git(project, "rm", "-q", "--cached", "shop.py")
    (project / "shop.py").unlink()
    (project / "shop.py").mkdir()
    (project / "shop.py" / "test_new.py").write_text("x")
    with (
        base_side.prepared("HEAD", project) as base,
        pytest.raises(BaselineError, match=r"test_new\.py is new and could not be copied"),
    ):
        base_side.bring(project / "shop.py" / "test_new.py", project, base.folder)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("ModuleNotFoundError: No module named 'made'", ("made.py",)),
        ("FileNotFoundError: [Errno 2] No such file: 'data/words.txt'", ("data/words.txt",)),
        ("open('words.txt.bak')", ()),
        ("all is well", ()),
        ("No module named 'made' and words.txt", ("data/words.txt", "made.py")),
        # What is installed or hidden is nobody's source.
        ("No module named 'attrs'", ()),
        ("No module named 'secret'", ()),
    ],
)
def test_files_that_git_does_not_hold_are_named_where_they_are_missed(project, output, expected):
    for name in ("made.py", "data/words.txt", "venv/site-packages/attrs.py", ".env/secret.py"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("x")
    with base_side.prepared("HEAD", project) as base:
        assert sorted(base_side.lacking(output, project, base.folder)) == list(expected)


# -- the order of sides ---------------------------------------------------------------------


def test_the_seed_of_the_order_is_kept_with_the_run(tmp_path):
    from ci_flame.baseline import folder

    measurement = synthetic_measurement(SHOP)
    run = synthetic_run(measurement, seed="00ff00ff00ff00ff")
    pipeline.save_run(run, tmp_path / "run")
    text = (tmp_path / "run" / "run.json").read_text()
    pipeline.save_run(synthetic_run(measurement), tmp_path / "none")

    assert '"seed": "00ff00ff00ff00ff"' in text
    assert folder.load(tmp_path / "run").seed == "00ff00ff00ff00ff"
    # Runs without one, and those of before there was any, are read as they were.
    assert '"seed"' not in (tmp_path / "none" / "run.json").read_text()
    assert folder.load(tmp_path / "none").seed == Run.__dataclass_fields__["seed"].default == ""


def test_the_setup_has_the_interpreter_of_the_benchmarks(project):
    with base_side.prepared("HEAD", project, setup="true", python=sys.executable) as base:
        assert python_of(base, "-c", "import sys; print(sys.version)") == sys.version
