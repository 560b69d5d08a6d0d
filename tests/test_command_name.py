"""What a command that is not pytest is called: nothing that may be a secret."""

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci_flame.pipeline.command_name import by_name, command_name

SECRET = "S3CR3T-TOKEN"  # noqa: S105 - stands for one


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (f"python bench.py --api-key {SECRET}", "python bench.py"),
        (f"python bench.py load fast -k{SECRET}", "python bench.py load fast"),
        (f"/opt/python3.12 -X dev -u bench.py 3 --key={SECRET}", "/opt/python3.12 bench.py 3"),
        (f"python -Werror -Bm shop.bench fast -k {SECRET}", "python -m shop.bench fast"),
        (f"python -mshop.bench --k {SECRET}", "python -m shop.bench"),
        (f"python -X {SECRET} bench.py", "python bench.py"),
        (f"python --check-hash-based-pycs {SECRET} bench.py", "python bench.py"),
        (f"python -c 'key = \"{SECRET}\"' {SECRET}", "python"),
        (f"python -uc{SECRET} {SECRET}", "python"),
        (f"python - {SECRET}", "python"),
        ("python", "python"),
        (f"python bench.py TOKEN={SECRET} load", "python bench.py"),
        (f"python bench.py https://user:{SECRET}@example.org/ load", "python bench.py"),
        (f"env TOKEN={SECRET} ./bench", "env"),
        (f"node --require ./{SECRET} bench.js", "node"),  # what takes a value is not known
        (f"curl -H 'Authorization: {SECRET}' localhost", "curl"),
        ("node bench/suggest.js quick", "node bench/suggest.js quick"),
        ("make bench", "make bench"),
        ("npm run bench -- --quick", "npm run bench"),
    ],
)  # fmt: skip
def test_options_are_not_in_the_name(command, name):
    assert command_name(shlex.split(command)) == name


@given(st.lists(st.text(max_size=8), max_size=8), st.sampled_from(["python3", "node", "./bench"]))
def test_nothing_from_the_first_option_on_is_in_the_name(before, program):
    """Whatever stands before: behind an option of the script nothing is told."""
    words = [program, "script", *before, "--key", SECRET, "more", f"TOKEN={SECRET}"]

    assert SECRET not in command_name(words)


def test_why_a_command_failed_has_its_name():
    said = (
        f"beside the base commit, the command ended with exit code 3 in /a/b: x.py --key {SECRET}"
    )

    assert by_name(said, ("/c", "/a/b"), "x.py") == (
        "beside the base commit, the command ended with exit code 3 in /a/b: x.py"
    )
    assert by_name("x cannot be run: no such file", ("/a",), "x") == "x cannot be run: no such file"
