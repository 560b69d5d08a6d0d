"""What every test has: a clean environment of its own."""

import pytest

from ci_flame.baseline import ci_base

pytest_plugins = ["pytester"]


@pytest.fixture(autouse=True, scope="session")
def _no_ci_job():
    """What a CI job says of itself chooses baselines; tests that need it say it themselves."""
    with pytest.MonkeyPatch.context() as patch:
        for name in (*ci_base.SIGNS, *ci_base.TARGETS):
            patch.delenv(name, raising=False)
        yield
