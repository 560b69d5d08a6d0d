"""What the runner of GitHub Actions reads, and what it must not take for a command."""

import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci_flame.errors import UsageError
from ci_flame.github import commands, runner

TOKEN = "0123456789abcdef" * 2


def read(line):
    """What the runner makes of a line: `ActionCommand.TryParseV2` of actions/runner."""
    found = re.fullmatch(r"::([\w-]+)(?: ([^:]*(?::(?!:)[^:]*)*))?::(.*)", line.lstrip())
    if not found:
        return None
    properties = {}
    for each in (found[2] or "").split(","):
        name, equals, value = each.partition("=")
        if equals:
            for code, sign in (("%0D", "\r"), ("%0A", "\n"), ("%3A", ":"), ("%2C", ",")):
                value = value.replace(code, sign)
            properties[name] = value.replace("%25", "%")
    message = found[3].replace("%0D", "\r").replace("%0A", "\n").replace("%25", "%")
    return found[1], properties, message


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("error", "a\nb 5 %"), "::error title=ci_flame::a%0Ab 5 %25"),
        (("notice", "::error::x"), "::notice title=ci_flame::::error::x"),
    ],
)
def test_annotation_is_one_line(words, line):
    assert commands.annotation(*words) == line


def test_another_level_is_a_mistake_of_ours():
    with pytest.raises(ValueError, match="debug is not one of error, warning, notice"):
        commands.annotation("debug", "x")


def test_annotation_has_a_place():
    line = commands.annotation("warning", "slow", title="a:b,c", file="src/a,b.py", line=7)

    assert line == "::warning title=a%3Ab%2Cc,file=src/a%2Cb.py,line=7::slow"


@pytest.mark.parametrize(("length", "kept"), [(4096, 4096), (4097, 4096)])
def test_a_message_is_cut_where_the_runner_would(length, kept):
    message = commands.shortened("x" * length)

    assert len(message) == kept
    assert message.endswith("…") is (length > 4096)


@given(st.sampled_from(commands.LEVELS), st.text(max_size=200), st.text(max_size=50))
def test_the_runner_reads_back_what_was_said(level, message, file):
    line = commands.annotation(level, message, file=file, line=3)

    if "%" not in message + file:  # what is escaped twice cannot be told apart by `read`
        told = read(line)
        assert told is not None
        assert told[0] == level
        assert told[2] == message
        assert told[1].get("file", "") == file
    assert "\n" not in line
    assert "\r" not in line


@given(st.text(max_size=100))
def test_a_line_of_the_log_is_no_command(text):
    line = commands.escape_line(text)

    assert "\n" not in line
    assert not line.lstrip().startswith(("::", "##["))


def test_outputs_cannot_end_their_own_text():
    text = commands.outputs({"report": "a\nEOF\noutcome=pass", "exit-code": "1"}, "end-5e")

    assert text == ("report<<end-5e\na\nEOF\noutcome=pass\nend-5e\nexit-code<<end-5e\n1\nend-5e\n")


def test_outputs_that_hold_the_delimiter_or_are_too_large_are_refused():
    with pytest.raises(UsageError, match="output report holds the delimiter"):
        commands.outputs({"report": "x\nend-5e"}, "end-5e")
    with pytest.raises(UsageError, match=r"the outputs are \d+ bytes; GitHub takes 1048576"):
        commands.outputs({"report": "x" * commands.MAX_OUTPUTS}, "end-5e")
    with pytest.raises(ValueError, match="not the name"):
        commands.outputs({"a\nb": "x"}, "end-5e")


def test_a_fence_needs_a_random_token():
    assert commands.fence(TOKEN) == (f"::stop-commands::{TOKEN}", f"::{TOKEN}::")
    for token in ("", "pause", "warning", "ABC" * 20, "a" * 31):
        with pytest.raises(ValueError, match="random token"):
            commands.fence(token)


def test_a_group_holds_no_command():
    text = commands.group("reasons", ("one", "::error::two", "##[error]three"))

    assert text.splitlines() == [
        "::group::reasons",
        "one",
        "| ::error::two",
        "| ##[error]three",
        "::endgroup::",
    ]


def test_what_stands_in_a_fence_ends_with_its_own_line(capsys):
    with runner.fenced():
        sys.stdout.write("::error::x")
    lines = capsys.readouterr().out.splitlines()

    assert re.fullmatch(r"::stop-commands::[0-9a-f]{32}", lines[0])
    assert lines[1:] == ["::error::x", f"::{lines[0].rpartition(':')[2]}::"]


def test_outputs_go_to_the_runners_file_and_else_to_the_log(tmp_path, monkeypatch, capsys):
    file = tmp_path / "output"
    monkeypatch.setenv("GITHUB_OUTPUT", str(file))
    runner.output(exit_code="1")
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path))
    with pytest.raises(UsageError, match="the file of GITHUB_OUTPUT cannot be written"):
        runner.output(exit_code="1")
    monkeypatch.delenv("GITHUB_OUTPUT")
    runner.output(exit_code="1")

    assert re.fullmatch(r"exit-code<<(end-\w{32})\n1\n\1\n", file.read_text("utf-8"))
    assert capsys.readouterr().out == "exit-code=1\n"


def test_summary_needs_a_runner(tmp_path, monkeypatch):
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    assert not runner.summary("# x\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary"))
    assert runner.summary("# x\n")
    assert runner.summary("y\udcff\n")

    assert (tmp_path / "summary").read_text("utf-8") == "# x\ny\\udcff\n"


def test_an_annotation_of_half_a_character_is_printed(capsysbinary):
    runner.annotate("notice", "a\udcffb")

    assert capsysbinary.readouterr().out == b"::notice title=ci_flame::a\\udcffb\n"
