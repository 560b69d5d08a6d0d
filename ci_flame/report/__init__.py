"""Stage 6, pure: a Verdict -> text, one file per audience; none of them decides anything.

`svg.render(benchmark)` and `folded.render(diff)` draw one benchmark, `plain.render(run)` a
run that has no verdict.
"""

from collections.abc import Callable
from typing import Final

from ci_flame.report import (
    codequality,
    html,
    json_report,
    junit,
    markdown,
    openmetrics,
    sarif,
    static,
    teamcity,
    terminal,
)
from ci_flame.verdict import Verdict

REPORTERS: Final[dict[str, Callable[[Verdict], str]]] = {
    "terminal": terminal.render,
    "json": json_report.render,
    "junit": junit.render,
    "markdown": markdown.render,
    "html": html.render,
    "sarif": sarif.render,
    "codequality": codequality.render,
    "openmetrics": openmetrics.render,
    "teamcity": teamcity.render,
    "static": static.render,
}
NAMED: Final[dict[str, Callable[..., str]]] = {
    "sarif": sarif.render,
    "codequality": codequality.render,
    "openmetrics": openmetrics.render,
    "teamcity": teamcity.render,
}
"""Those that take `name=`: what tells the legs of a matrix apart where CI puts them together."""

__all__ = ["NAMED", "REPORTERS"]
