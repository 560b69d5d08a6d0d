"""What every test has: a clean environment of its own."""

import pytest
from hypothesis import settings

from ci_flame.baseline import ci_base

pytest_plugins = ["pytester"]

# No test asserts a time: a deadline of an example would be one.
settings.register_profile("ci_flame", deadline=None)
settings.load_profile("ci_flame")


@pytest.fixture(autouse=True, scope="session")
def _no_ci_job():
    """What a CI job says of itself chooses baselines; tests that need it say it themselves."""
    with pytest.MonkeyPatch.context() as patch:
        for name in (*ci_base.SIGNS, *ci_base.TARGETS):
            patch.delenv(name, raising=False)
        yield


def pytest_collection_modifyitems(items):
    """Repeat once what recorded this machine for real and failed; the log says RERUN.

    What else the machine did meanwhile is no defect of the project, and a defect fails again.
    """
    for item in items:
        if any(item.get_closest_marker(name) for name in ("root", "act", "java")):
            item.add_marker(pytest.mark.flaky(reruns=1))


def pytest_terminal_summary(terminalreporter):
    """Show why a test was repeated; the plugin that repeats it tells only its name."""
    for report in terminalreporter.stats.get("rerun", ()):
        terminalreporter.section(f"repeated: {report.nodeid}", "_")
        terminalreporter.line(report.longreprtext)
