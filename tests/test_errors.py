"""Every exception is one line and its cure, also in another process."""

import copy
import inspect
import pickle

import pytest

from ci_flame import errors
from ci_flame.github.api import ApiError

EACH = [
    errors.CiFlameError("what", "cure"),
    errors.UsageError("what"),
    errors.PolicyError("ci-flame.yml", 3, "what", "cure"),
    errors.FormatError("run.json", "what", "cure"),
    ApiError("what", "cure", status=404),
]


@pytest.mark.parametrize("error", EACH, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("carried", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy])  # noqa: S301
def test_an_error_is_the_same_in_another_process(error, carried):
    again = carried(error)

    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)
    assert again.exit_code == error.exit_code
    assert again.args


def test_every_error_has_an_exit_code_of_the_command_line():
    found = [each for _, each in inspect.getmembers(errors, inspect.isclass)]

    assert errors.FormatError in found
    assert {each.exit_code for each in found if issubclass(each, errors.CiFlameError)} <= {
        2, 3, 4, 130,
    }  # fmt: skip
