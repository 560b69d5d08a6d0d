"""What a command answers to words, places and interruptions that do not fit: true, with a cure."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic import SHOP, synthetic_measurement, synthetic_run
from test_cli import call

from ci_flame.baseline import folder
from ci_flame.cli import pieces
from ci_flame.collect import doctor
from ci_flame.errors import UsageError, WriteError
from ci_flame.formats import folded
from ci_flame.profile import Frame, Profile, Unit, Weight
from ci_flame.report.terminal import no_command

COMMAND = Path(sys.executable).with_name("ci-flame")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def kept(place, **changes):
    folder.save(replace(synthetic_run(synthetic_measurement(SHOP)), **changes), place)


# -- cures --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "told", "never"),
    [
        (("export", "other", "--format", "folded"), "name the folder of a run", "--flame-out"),
        (("export", "file", "--format", "folded"), "name the folder of a run", "--flame-out"),
        (("export", "rep", "--format", "folded"), "the run that was judged is rep/after", "pytest"),
        (("check",), "ci-flame check -- COMMAND", "--pid"),
        (("record",), "ci-flame record -- COMMAND…, or --pid PID", "check"),
        (("baseline", "list", "--store", "other"), "one that is new: --store DIR", "add RUN"),
        (("baseline", "list", "--store", "gone"), "baseline add RUN --store gone", "one that is"),
        (("check", "--collector", "nope", "--", "true"), "nope", "did you mean"),
        (("check", "--baseline", "wat:x", "--", "true"), "wat", "did you mean"),
        (("check", "--policy", "tab.yml", "--", "true"), "indent with spaces", "need quotes"),
        (("compare", "git:HEAD", "run"), "go into a work tree", "--baseline"),
        (("gate", "broken"), "run check or compare again", "internal"),
        (("gate", "half"), "it has no policy.json", "verdict.json and"),
    ],
)
def test_a_cure_is_one_of_that_command_and_harms_nothing(here, words, told, never):
    for name in ("other", "rep/after", "broken", "half"):
        (here / name).mkdir(parents=True)
    (here / "other" / "passwd").write_text("x")
    (here / "file").write_text("x")
    (here / "tab.yml").write_text("rules:\n\t- frames: '*'\n")
    kept(here / "run")
    for place in ("rep", "broken", "half"):
        (here / place / "verdict.json").write_text("{}")
    for place in ("rep", "broken"):
        (here / place / "policy.json").write_text("{}")

    answer = call(*words, check=2).stderr
    assert told in answer
    assert never not in answer
    assert "hint: " in answer or words[1:2] == ("--collector",) or "wat" in answer


@pytest.mark.parametrize(("option", "value"), [("--keep", "5"), ("--anchor", "HEAD")])
def test_an_option_of_stores_with_another_baseline_is_refused(here, option, value):
    answer = call("check", "--baseline", "none", option, value, "--", "true", check=2).stderr

    assert f"{option} says nothing with the baseline none" in answer
    assert "--baseline store:DIR" in answer
    kept(here / "run")
    assert "says nothing" in call("compare", "run", "run", option, value, check=2).stderr


@pytest.mark.parametrize("option", ["--summary", "--github-output"])
def test_a_file_that_cannot_be_appended_to_is_refused_before_recording(here, option):
    for name, told in (("gone/x", "there is no folder"), (".", "it is a folder")):
        answer = call(
            "check", "--baseline", "none", option, name, "--", "touch", "ran", check=2
        ).stderr
        assert option in answer
        assert told in answer
    assert not (here / "ran").exists()
    (here / "there.md").write_text("kept\n")
    for fine in ("new.md", "there.md", None):
        pieces.must_be_appendable(option, fine)
    assert not (here / "new.md").exists()


# -- the disk -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, WriteError),
        (errno.EDQUOT, WriteError),
        (errno.EACCES, UsageError),
        (errno.EISDIR, UsageError),
    ],
)
def test_a_full_disk_is_no_wrong_word(here, monkeypatch, number, kind):
    def refuse(*_words, **_options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(kind) as caught:
        pieces.write_file(here / "a.html", b"x")

    assert type(caught.value) is kind
    assert caught.value.exit_code == (3 if kind is WriteError else 2)
    assert os.strerror(number) in str(caught.value)


def test_an_export_to_a_full_device_ends_with_three(here):
    kept(here / "run")
    answer = call("export", "run", "--format", "folded", "-o", "/dev/full", check=3).stderr

    assert "/dev/full cannot be written: No space left on device" in answer
    assert "make room" in answer


# -- interruptions ------------------------------------------------------------------------


def test_an_interrupted_check_says_what_is_kept(here):
    """Before a benchmark has ended nothing is: what lies in the run folder is an earlier run."""
    kept(here / ".ci-flame/run", commit="a" * 40)
    earlier = (here / ".ci-flame/run/run.json").read_bytes()
    (here / "test_slow.py").write_text(
        "import pathlib, time\n"
        "def test_slow(flame):\n"
        "    pathlib.Path('begun').touch()\n"
        "    flame(lambda: time.sleep(0.05))\n"
    )
    words = [COMMAND, "check", "--baseline", "none", "--seconds", "60"]
    process = subprocess.Popen(
        [*words, "--", sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    limit = time.monotonic() + 60
    while not (here / "begun").exists() and time.monotonic() < limit:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    told = process.communicate(timeout=60)[1]

    assert process.returncode == 130
    assert "no benchmark had ended, and nothing of this build was kept" in told
    assert f"{Path('.ci-flame/run')} holds an earlier run" in told
    assert (here / ".ci-flame/run/run.json").read_bytes() == earlier


# -- names of strangers -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("::warning::x FAIL", "\\x3a:warning::x FAIL"),
        ("  ::error file=a::boom 30 ms", "  \\x3a:error file=a::boom 30 ms"),
        ("a ##[error]boom", "a \\x23#[error]boom"),
        ("##vso[task.complete]x", "\\x23#vso[task.complete]x"),
        ("##teamcity[buildStop]", "\\x23#teamcity[buildStop]"),
        ("  shop::parse 30 ms", "  shop::parse 30 ms"),
        ("  ::operator 30 ms", "  ::operator 30 ms"),
        ("  # a ## b [c]", "  # a ## b [c]"),
    ],
)
def test_no_line_is_a_command_of_a_job(line, shown):
    assert no_command(line) == shown
    assert no_command(shown) == shown


def test_a_benchmark_that_is_called_like_a_command_is_none(here):
    """As an import of a stranger's file names it, printed at the beginning of a line."""
    for side in "ab":
        for number in range(2):
            (here / f"{side}{number}.folded").write_text("main;::error::boom 600\nmain;f 500\n")
        names = [f"{side}{number}.folded" for number in range(2)]
        call("import", *names, "--name", "::warning::x", "-o", side, check=0)

    shown = call("compare", "a", "b", check=0).stdout
    assert "warning::x PASS" in shown
    assert not [line for line in shown.splitlines() if line.lstrip().startswith("::")]


def test_folded_text_has_no_control_characters():
    stack = (Frame.parse("main"), replace(Frame.parse("m:f"), function="a\x1b[31m\x9bb"))
    text = folded.write(Profile({stack: Weight(1, 1)}, Unit.SAMPLES))

    assert text == "main;m:a [31m b 1\n"


# -- stores -------------------------------------------------------------------------------


def test_a_list_of_builds_marks_what_is_in_no_commit(here):
    commit = "c" * 40
    kept(here / "run", commit=commit, dirty=True)
    call("baseline", "add", "run", "--dirty", "--store", "store", check=0)
    listed = call("baseline", "list", "--store", "store", check=0).stdout
    document = json.loads(call("baseline", "list", "--json", "--store", "store", check=0).stdout)

    assert "cccccccccc-dirty" in listed
    assert document["builds"][0]["dirty"] is True


def test_unpin_says_what_still_holds_the_build(here):
    commit = "d" * 40
    kept(here / "run", commit=commit)
    call("baseline", "add", "run", "--store", "store", check=0)
    for words in (("pin", commit), ("pin", commit, "--anchor")):
        call("baseline", *words, "--store", "store", check=0)
    first = call("baseline", "unpin", commit, "--store", "store", check=0).stderr
    second = call("baseline", "unpin", "--anchor", "--store", "store", check=0).stderr
    call("baseline", "pin", commit, "--store", "store", check=0)
    third = call("baseline", "unpin", commit, "--store", "store", check=0).stderr

    assert "dddddddddd is not pinned any more, but stays as the anchor" in first
    assert "there is no anchor any more" in second
    assert "is no longer kept for good" in third


# -- the doctor ---------------------------------------------------------------------------


def test_what_the_system_refuses_is_told_in_words():
    place = "/opt/python"
    denied = PermissionError(errno.EACCES, os.strerror(errno.EACCES), place)
    reason, cure = doctor._refused(denied)

    assert reason == "/opt/python: permission denied"
    assert cure.startswith(f"let user {os.geteuid()} read and run it")
    assert doctor._refused(OSError(errno.EIO, "I/O")) == ("the system refused: i/o", "")
