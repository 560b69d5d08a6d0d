"""Native functions and a diff, by the line tables of real builds."""

import random
import shutil
import subprocess

import pytest

from ci_flame.baseline import changes
from ci_flame.profile import Frame, Kind
from ci_flame.symbols import line_tables
from ci_flame.verdict.touch import Spot, Touch

SOURCE = """\
static int helper(int x) {
    return x * 3;
}

int scan(int n) {
    int total = 0;
    /* by hand */
    for (int i = 0; i < n; i++)
        total += helper(i) % 7;
    return total;
}

int other(int n) {
    return n + 1;
}
"""
LIBRARY = "_fast.cpython-311-x86_64-linux-gnu.so"
NAMES = {"scan", "helper", "other"}


def run_git(place, *words):
    who = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    subprocess.run(["git", *who, *words], cwd=place, check=True, capture_output=True)


def build(place, *flags, source="src/fast.c", name=LIBRARY):
    compiler = shutil.which("cc") or "gcc"
    words = [compiler, "-shared", "-fPIC", "-O0", *flags, "-o", name, source]
    subprocess.run(words, cwd=place, check=True, capture_output=True)


@pytest.fixture
def project(tmp_path):
    (tmp_path / "src").mkdir()
    run_git(tmp_path, "init", "-q")
    (tmp_path / ".gitignore").write_text("*.so\n")
    (tmp_path / "src" / "fast.c").write_text(SOURCE)
    run_git(tmp_path, "add", "-A")
    run_git(tmp_path, "commit", "-q", "-m", "one")
    return tmp_path


def native(project, *names, module="_fast"):
    found = changes.find("HEAD", "t", project)
    return line_tables.touched(found, [Frame(name, module, Kind.NATIVE) for name in names])


def key(name, module="_fast"):
    return str(Frame(name, module, Kind.NATIVE))


@pytest.mark.parametrize("version", ["-gdwarf-4", "-gdwarf-5"])
def test_the_lines_of_functions(project, version):
    build(project, version)
    found = line_tables.functions(project / LIBRARY, NAMES)

    source = str(project / "src" / "fast.c")
    assert {name: list(lines) for name, lines in found.items()} == {n: [source] for n in NAMES}
    assert {1, 2, 3} == found["helper"][source]
    assert {5, 6, 8, 9, 10, 11} == found["scan"][source]
    assert {13, 14, 15} == found["other"][source]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("", "", {}),
        ("helper(i) % 7", "helper(i) % 9", {"scan": 9}),
        ("x * 3", "x * 5", {"helper": 2}),
        # What makes no code is no change; nor are lines that only moved.
        ("/* by hand */", "/* with care */", {}),
        ("static int", "\n\n\nstatic int", {}),
        ("    int total = 0;", "    int more = 1;\n    int total = more;", {"scan": 6}),
    ],
)
def test_what_an_edit_touches(project, before, after, expected):
    (project / "src" / "fast.c").write_text(SOURCE.replace(before, after))
    build(project, "-g")
    found = native(project, "scan", "helper", "other")

    assert found.spots == {
        key(name): Spot(Touch.CHANGED, "src/fast.c", line) for name, line in expected.items()
    }
    assert found.known == {key("scan"), key("helper"), key("other")}
    assert found.unlined == frozenset()


def test_without_a_line_table_it_is_said_and_what_is_not_ours_is_not(project):
    build(project)
    shutil.copyfile(project / LIBRARY, project / "_other.so")
    found = native(project, "scan")

    assert found == line_tables.Native({}, frozenset(), frozenset({key("scan")}))
    assert native(project, "scan", module="libc") == line_tables.Native(
        {}, frozenset(), frozenset()
    )
    # Wheels have none, and nobody here builds them.
    installed = project / ".venv" / "site-packages"
    installed.mkdir(parents=True)
    shutil.copyfile(project / LIBRARY, installed / "libwheel.so.1")
    assert native(project, "scan", module="libwheel").unlined == frozenset()
    # Patterns of git are names here.
    assert native(project, "scan", module="*").unlined == frozenset()


def test_functions_that_were_inlined_count(project):
    build(project, "-g", "-O2")
    (project / "src" / "fast.c").write_text(SOURCE.replace("x * 3", "x ^ n_times(x)").replace(
        "static int helper", "int n_times(int);\nstatic inline int helper"))  # fmt: skip
    build(project, "-g", "-O2")
    found = native(project, "scan")

    assert found.spots == {key("scan"): Spot(Touch.CHANGED, "src/fast.c", 2)}


def test_broken_files_have_no_lines(project):
    build(project, "-g")
    data = (project / LIBRARY).read_bytes()
    draw = random.Random(7)  # noqa: S311 - not a secret
    broken = project / "broken.so"
    for number in range(60):
        changed = bytearray(data)
        for _ in range(draw.randrange(1, 30)):
            changed[draw.randrange(len(changed))] = draw.randrange(256)
        broken.write_bytes(changed[: draw.randrange(len(changed))] if number % 3 else changed)

        assert set(line_tables.functions(broken, {"scan"})) <= {"scan"}
    assert line_tables.functions(project / "gone.so", {"scan"}) == {}
    assert line_tables.functions(project / "src", {"scan"}) == {}


def test_huge_debug_information_is_taken_for_none(project, monkeypatch):
    build(project, "-g")
    monkeypatch.setattr(line_tables, "MAX_SECTION", 10)

    assert line_tables.functions(project / LIBRARY, {"scan"}) == {}


def test_a_program_is_told_by_its_name(project):
    build(project, "-g", name="bench")
    (project / "src" / "fast.c").write_text(SOURCE.replace("x * 3", "x * 5"))

    assert set(native(project, "helper", module="bench").spots) == {key("helper", "bench")}
