"""A real repository's diff -> what it did to functions, and which files are not its own."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ci_flame.baseline import changes
from ci_flame.errors import BaselineError
from ci_flame.profile import Frame, Kind, Place
from ci_flame.verdict.touch import Spot, Touch

PARSER = '''\
"""Parse."""
LIMIT = 3
NAMES = ["a"]


def scan(text):
    # by words
    return text.split()


class Grammar:
    def compile(self, text):
        return [self.one(word) for word in scan(text)]

    def one(self, word):
        return word * LIMIT


def helper():
    return NAMES
'''


def run_git(repository, *words):
    who = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    done = subprocess.run(
        ["git", *who, *words], cwd=repository, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def commit(repository, message="change"):
    run_git(repository, "add", "-A")
    run_git(repository, "commit", "-q", "-m", message)
    return run_git(repository, "rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path):
    root = tmp_path / "project"
    (root / "src" / "shop").mkdir(parents=True)
    run_git(root, "init", "-q", "-b", "main")
    (root / "src" / "shop" / "parser.py").write_text(PARSER)
    (root / "src" / "shop" / "other.py").write_text("def untouched():\n    return 1\n")
    (root / "requirements.txt").write_text("attrs==1\n")
    commit(root, "one")
    return root


PLACES = {
    "shop.parser:scan": 6,
    "shop.parser:Grammar.compile": 12,
    "shop.parser:Grammar.compile.<locals>.<listcomp>": 13,
    "shop.parser:Grammar.one": 15,
    "shop.parser:helper": 19,
    "shop.parser:<module>": 1,
}


def places(file="src/shop/parser.py", lines=PLACES):
    return {Frame.parse(name): Place(file, line) for name, line in lines.items()}


def spots(repository, after=None, given=None, **options):
    found = changes.find("HEAD", "test", repository, **options) if after is None else after
    return dict(changes.touched(found, places() if given is None else given).spots)


def edit(repository, *pairs, file="src/shop/parser.py"):
    path = repository / file
    text = path.read_text()
    for before, after in pairs:
        assert before in text
        text = text.replace(before, after)
    path.write_text(text)


def at(line, how=Touch.CHANGED, told="", file="src/shop/parser.py"):
    return Spot(how, file, line, told)


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([], {}),
        # What does nothing is no change.
        ([("    # by words\n", "")], {}),
        ([("def scan(text):", "def scan(\n    text,  # why\n):")], {}),
        ([('"""Parse."""', '"""Parse text."""')], {}),
        ([("def helper", "\n\n\ndef helper")], {}),
        # The line that is pointed at is the first that changed.
        ([("text.split()", "text.split(None)")], {"scan": at(8)}),
        ([("    # by words\n", "    text = str(text)\n")], {"scan": at(7)}),
        # Taken out: the line behind.
        ([("    # by words\n    return", "    return 1\n    return")], {"scan": at(7)}),
        ([("word * LIMIT", "word")], {"Grammar.one": at(16)}),
        (
            [("scan(text)]", "scan(text * 2)]")],
            {"Grammar.compile": at(13), "Grammar.compile.<locals>.<listcomp>": at(13)},
        ),
        # A decorator is the function's, its line the first.
        ([("def helper", "@staticmethod\ndef helper")], {"helper": at(19)}),
        # Names of the module: whoever looks them up uses what changed.
        (
            [("LIMIT = 3", "LIMIT = 30")],
            {"Grammar.one": at(2, Touch.READS, "LIMIT"), "<module>": at(2)},
        ),
        ([('NAMES = ["a"]', "NAMES = []")],
         {"helper": at(3, Touch.READS, "NAMES"), "<module>": at(3)}),
    ],
)  # fmt: skip
def test_what_an_edit_touches(repository, pairs, expected):
    edit(repository, *pairs)

    assert spots(repository) == {f"shop.parser:{name}": spot for name, spot in expected.items()}


def test_a_deleted_line_is_told_by_the_one_behind_it(repository):
    edit(repository, ("    # by words\n", "    text = str(text)\n"))
    commit(repository)
    edit(repository, ("    text = str(text)\n", ""))

    assert spots(repository) == {"shop.parser:scan": at(7)}


def test_functions_that_changed_places_in_the_file_did_not_change(repository):
    scan = PARSER[PARSER.index("def scan") : PARSER.index("class Grammar")]
    edit(repository, (scan, ""))
    path = repository / "src" / "shop" / "parser.py"
    path.write_text(path.read_text() + "\n\n" + scan)

    assert spots(repository) == {}


def test_a_renamed_file_is_compared_with_what_it_was(repository):
    run_git(repository, "mv", "src/shop/parser.py", "src/shop/grammar.py")
    edit(repository, ("text.split()", "text.split(None)"), file="src/shop/grammar.py")
    moved = places("src/shop/grammar.py")

    assert spots(repository, given=moved) == {"shop.parser:scan": at(8, file="src/shop/grammar.py")}
    # The same before it is committed and after.
    commit(repository)
    since = changes.find("HEAD~1", "test", repository)
    assert spots(repository, since, moved) == {
        "shop.parser:scan": at(8, file="src/shop/grammar.py")
    }


def test_a_function_that_moved_to_another_file_unchanged(repository):
    edit(repository, ("\n\ndef helper():\n    return NAMES\n", ""))
    path = repository / "src" / "shop" / "other.py"
    path.write_text(path.read_text() + "\n\ndef helper():\n    return NAMES\n")
    (repository / "src" / "shop" / "new.py").write_text(
        "def scan(text):\n    return text.split()\n"
    )
    given = {
        Frame("helper", "shop.other"): Place("src/shop/other.py", 5),
        Frame("untouched", "shop.other"): Place("src/shop/other.py", 1),
        Frame("scan", "shop.new"): Place("src/shop/new.py", 1),
    }

    assert spots(repository, given=given) == {
        "shop.other:helper": at(5, Touch.MOVED, "src/shop/parser.py", "src/shop/other.py"),
        "shop.new:scan": at(1, Touch.MOVED, "src/shop/parser.py", "src/shop/new.py"),
    }


@pytest.mark.parametrize("tracked", [True, False])
def test_everything_in_a_new_file_is_changed(repository, tracked):
    (repository / "src" / "fresh.py").write_text("x = 1\n\n\n@d\ndef f(): pass\n")
    if tracked:
        run_git(repository, "add", "-A")
    given = {Frame("f", "fresh"): Place("src/fresh.py", 4)}

    assert spots(repository, given=given) == {"fresh:f": at(4, file="src/fresh.py")}


def test_a_commit_may_be_the_after_side(repository):
    edit(repository, ("text.split()", "text.split(None)"))
    second = commit(repository)
    edit(repository, ("word * LIMIT", "word"))
    third = commit(repository)
    edit(repository, ("return NAMES", "return []"))

    one = changes.find("HEAD~2", "t", repository, after=second, dirty=False)
    two = changes.find("HEAD~2", "t", repository, after=third, dirty=False)
    three = changes.find("HEAD~2", "t", repository, after=third, dirty=True)

    names = ["shop.parser:scan", "shop.parser:Grammar.one", "shop.parser:helper"]
    assert [sorted(spots(repository, each)) for each in (one, two, three)] == [
        sorted(names[:count]) for count in (1, 2, 3)
    ]
    assert one.since == f"{run_git(repository, 'rev-parse', 'HEAD~2')[:10]} (t)"


def test_what_is_of_the_repository(repository):
    (repository / "bench").mkdir()
    edit(repository, ("attrs==1", "attrs==2"), file="requirements.txt")
    edit(repository, ("text.split()", "text.split(None)"))
    given = {
        Frame("a", "m"): Place("src/shop/parser.py", 6),
        # Relative to a folder that code is imported from, or to where it was started.
        Frame("b", "m"): Place("shop/other.py", 1),
        Frame("c", "m"): Place("site-packages/shop/parser.py", 6),
        Frame("d", "m"): Place("lib/python3.12/json/decoder.py", 6),
        Frame("e", "m"): Place("<string>", 1),
        Frame("f", "m"): Place("elsewhere.py", 1),
        Frame("scan", "shop.parser"): Place("parser.py", 6),
        Frame("g", "libx", Kind.NATIVE): Place("src/shop/parser.py", 1),
    }
    found = changes.touched(changes.find("HEAD", "t", repository / "bench"), given)

    assert found.files == {"src/shop/parser.py", "shop/other.py", "parser.py"}
    assert found.dependencies == ("requirements.txt",)
    assert set(found.spots) == {"shop.parser:scan", "m:a"}


def test_files_that_no_parser_reads_are_compared_by_lines(repository):
    path = repository / "src" / "shop" / "parser.py"
    old = b"def scan(t):\n    print t\n\n\ndef one(t):\n    print '\xe9'\n"
    path.write_bytes(old)
    commit(repository)
    path.write_bytes(old.replace(b"'\xe9'", b"'\xe8'"))
    given = {
        Frame("scan", "shop.parser"): Place("src/shop/parser.py", 1),
        Frame("one", "shop.parser"): Place("src/shop/parser.py", 5),
    }

    assert spots(repository, given=given) == {"shop.parser:one": at(6)}


def test_a_file_that_could_not_be_read_before_and_can_now(repository):
    path = repository / "src" / "shop" / "parser.py"
    path.write_text(PARSER.replace("text.split()", "text split"))
    commit(repository)
    path.write_text(PARSER)

    assert spots(repository) == {"shop.parser:scan": at(8)}


@pytest.mark.parametrize(
    "name",
    ["sp ace.py", "tab\there.py", 'quo"te.py', "new\nline.py", "ümlaut.py", "b/a -> c.py",
     "--all.py", "@@ -1 +1 @@.py", ":(top)x.py"],
)  # fmt: skip
def test_any_name_of_a_file(repository, name):
    path = repository / "src" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("def f():\n    return 1\n")
    commit(repository)
    path.write_text("def f():\n    return '@@ -1 +1,9 @@ diff --git a/x b/x'\n")
    given = {Frame("f", "m"): Place(f"src/{name}", 1)}

    assert spots(repository, given=given) == {"m:f": at(2, file=f"src/{name}")}


def test_lines_that_look_like_a_patch_are_text(repository):
    path = repository / "src" / "shop" / "other.py"
    path.write_text("def untouched():\n    return '''\ndiff --git a/b b/b\n@@ -1 +1 @@\n'''\n")
    edit(repository, ("text.split()", "text.split(None)"))

    assert spots(repository) == {"shop.parser:scan": at(8)}


def test_what_became_a_link_leads_nowhere(repository, tmp_path):
    secret = tmp_path / "secret.py"
    secret.write_text("def scan(text):\n    return 'secret'\n")
    path = repository / "src" / "shop" / "parser.py"
    path.unlink()
    path.symlink_to(secret)
    (repository / "zz.py").write_text("def f():\n    return 1\n")
    found = spots(repository)
    # Nothing was read; a later file's lines are not mixed up with the link's two patches.
    assert found == {}
    commit(repository)
    edit(repository, ("return 1", "return 2"), file="zz.py")
    given = {Frame("f", "zz"): Place("zz.py", 1)}
    since = changes.find("HEAD~1", "t", repository)

    assert spots(repository, since, given) == {"zz:f": at(1, file="zz.py")}


def test_settings_of_the_user_do_not_matter(repository):
    for key, value in (
        ("diff.noprefix", "true"),
        ("diff.mnemonicPrefix", "true"),
        ("color.ui", "always"),
        ("diff.external", "false"),
        ("diff.renames", "false"),
        ("core.quotePath", "false"),
        ("diff.context", "9"),
        ("diff.algorithm", "patience"),
        ("diff.relative", "true"),
    ):
        run_git(repository, "config", key, value)
    edit(repository, ("text.split()", "text.split(None)"))

    found = changes.find("HEAD", "t", repository / "src")
    assert spots(repository, found) == {"shop.parser:scan": at(8)}


def test_the_repository_stays_as_it_was(repository):
    edit(repository, ("text.split()", "text.split(None)"))
    index = (repository / ".git" / "index").read_bytes()
    status = run_git(repository, "status", "--porcelain=v2")
    spots(repository)

    assert (repository / ".git" / "index").read_bytes() == index or status
    assert run_git(repository, "status", "--porcelain=v2") == status


@pytest.mark.parametrize("word", ["nosuch", "HEAD~9", "main:src", "0" * 40])
def test_a_revision_that_does_not_exist(repository, word):
    with pytest.raises(BaselineError, match="does not exist in") as raised:
        changes.find(word, "t", repository)

    assert raised.value.hint


def test_outside_git(tmp_path):
    with pytest.raises(BaselineError, match="is not in a git work tree"):
        changes.find("HEAD", "t", tmp_path)


def test_a_diff_of_too_many_files_is_refused(repository, monkeypatch):
    monkeypatch.setattr(changes, "MAX_FILES", 2)
    for number in range(3):
        (repository / f"f{number}.py").write_text("x\n")
        run_git(repository, "add", "-A")
        if number == 1:
            assert changes.find("HEAD", "t", repository).files

    with pytest.raises(BaselineError, match=r"3 files differ from .*; at most 2"):
        changes.find("HEAD", "t", repository)


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_exactly_the_edited_lines_are_pointed_at(tmp_path_factory, data):
    root = tmp_path_factory.mktemp("hunks")
    run_git(root, "init", "-q")
    count = data.draw(st.integers(1, 6))
    text = "".join(f"def f{n}():\n    a{n}()\n    b{n}()\n\n" for n in range(count))
    (root / "m.py").write_text(text)
    commit(root)
    edited = data.draw(st.sets(st.integers(0, count - 1)))
    lines = text.splitlines(keepends=True)
    for number in edited:
        lines[4 * number + 2] = f"    changed{number}()\n"
    # Blank lines in front of everything move what stands behind.
    pad = data.draw(st.integers(0, 3))
    (root / "m.py").write_text("\n" * pad + "".join(lines))
    given = {Frame(f"f{n}", "m"): Place("m.py", 4 * n + 1 + pad) for n in range(count)}

    assert spots(root, given=given) == {f"m:f{n}": at(4 * n + 3 + pad, file="m.py") for n in edited}


def test_paths_of_a_place_never_leave_the_repository(repository):
    Path(repository.parent, "outside.py").write_text("def f(): pass\n")
    given = {Frame("f", "m"): Place("../outside.py", 1), Frame("g", "m"): Place("/etc/passwd", 1)}

    assert changes.touched(changes.find("HEAD", "t", repository), given).files == frozenset()
