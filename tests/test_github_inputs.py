"""Inputs of the action that are one of some words: refused by name, before anything is recorded."""

import pytest

from ci_flame.cli.github import github as group
from ci_flame.errors import UsageError
from ci_flame.github import inputs


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"CI_FLAME_COMMENT": "sometimes"}, "input comment is 'sometimes'"),
        ({"CI_FLAME_UPLOAD": "maybe"}, "input upload is 'maybe'"),
        ({"CI_FLAME_SETUP": "nnone"}, "input setup is 'nnone'"),
        ({"CI_FLAME_RETENTION_DAYS": "abc"}, "input retention-days is 'abc'"),
        ({"CI_FLAME_RETENTION_DAYS": "401"}, "input retention-days is '401'"),
        ({"CI_FLAME_RETENTION_DAYS": "-1"}, "input retention-days is '-1'"),
        ({"CI_FLAME_RETENTION_DAYS": "9" * 5000}, "input retention-days is '999"),
        ({"CI_FLAME_RETENTION_DAYS": "٣"}, "input retention-days is '٣'"),
        ({"CI_FLAME_BASELINE_RETENTION_DAYS": "1.5"}, "input baseline-retention-days is '1.5'"),
    ],
)
def test_an_unknown_word_is_refused_with_those_that_are_known(given, told):
    with pytest.raises(UsageError) as caught:
        inputs.must_be_known(given)

    assert caught.value.message.startswith(told)
    assert caught.value.hint.startswith("it may be ")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"CI_FLAME_COMMENT": "", "CI_FLAME_UPLOAD": "", "CI_FLAME_RETENTION_DAYS": ""},
        {"CI_FLAME_COMMENT": "on-change", "CI_FLAME_UPLOAD": "False", "CI_FLAME_SETUP": "none"},
        {"CI_FLAME_RETENTION_DAYS": "400", "CI_FLAME_BASELINE_RETENTION_DAYS": "1"},
    ],
)
def test_known_words_pass(given):
    inputs.must_be_known(given)


@pytest.mark.parametrize("command", ["baseline", "check", "record", "compare"])
@pytest.mark.parametrize("given", ["COMMENT=sometimes", "UPLOAD=maybe", "RETENTION_DAYS=abc"])
def test_every_step_before_the_recording_refuses_it(command, given, tmp_path, monkeypatch, capfd):
    name, word = given.split("=")
    seen = tmp_path / "seen"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CI_FLAME_COMMAND", f"touch {seen}")
    monkeypatch.setenv("CI_FLAME_BASELINE", "none")
    monkeypatch.setenv(f"CI_FLAME_{name}", word)

    with pytest.raises(UsageError, match=f"is '{word}'"):
        group.main([command], standalone_mode=False)

    (line,) = capfd.readouterr().out.splitlines()
    assert line.startswith("::error title=ci_flame::input ")
    assert "; it may be " in line
    assert not seen.exists()


def test_a_command_that_cannot_be_split_is_refused_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CI_FLAME_COMMAND", "pytest 'x")

    with pytest.raises(UsageError, match="cannot be split"):
        group.main(["baseline"], standalone_mode=False)
