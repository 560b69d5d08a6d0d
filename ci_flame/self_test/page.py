"""Stage 6, pure: a self-test -> one self-contained page, without a script."""

import base64
import hashlib
from collections.abc import Iterable
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ci_flame.self_test import text
from ci_flame.self_test.figures import SelfTest, Tested
from ci_flame.verdict import percent

_CSS: Final = """
body{font:16px/1.5 system-ui,sans-serif;margin:0;color:CanvasText;background:Canvas}
main{max-width:64rem;margin:0 auto;padding:1.5rem}
h1{font-size:1.35rem}h2{font-size:1.05rem;margin:2rem 0 .5rem;overflow-wrap:anywhere}
.good,.bad{font-weight:700;color:light-dark(#176b33,#7fd99a)}.bad{color:light-dark(#a4161a,#ff9b9b)}
.note{border-left:.25rem solid GrayText;padding-left:.75rem}.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%}caption{text-align:left;color:GrayText}
th,td{padding:.3rem .6rem;text-align:right;border-bottom:1px solid GrayText}
th:first-child{text-align:left;font-weight:400}code{overflow-wrap:anywhere}
ul{padding-left:1.2rem}
"""


def render(test: SelfTest) -> str:
    """Return the page; the same figures give the same bytes."""
    environment = Environment(
        loader=PackageLoader("ci_flame.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["share"] = _share
    environment.filters["lines"] = _lines
    digest = base64.b64encode(hashlib.sha256(_CSS.encode()).digest()).decode()
    return environment.get_template("self_test.html.j2").render(
        test=test,
        css=Markup(_CSS),  # noqa: S704 - a constant of this file
        policy=f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:",
    )


def _share(value: float | None) -> str:
    return "-" if value is None else f"{percent(value)} %"


def _lines(tested: Tested) -> Iterable[str]:
    """Return what the table does not hold."""
    return [line.strip() for line in text.benchmark(tested, planted_too=False)][1:]
