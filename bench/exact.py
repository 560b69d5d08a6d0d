"""What exact counts cost, and whether they are the same in every process, on real libraries.

    python bench/exact.py --processes 10 [--python PATH] [--hash-seed random]

Each process runs an iteration some times, takes its time, then counts it as `pytest --flame` does
(`record/exact.py`). The interpreter needs jinja2, PyYAML, Pygments and packaging.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent

WORK: Final = {
    "jinja2: compile and render": """
import jinja2
source = "{% for row in rows %}<tr>{% for x in row %}<td>{{ x|e }}</td>{% endfor %}</tr>"
source += "{% endfor %}"
rows = [[f"{i} & {j}" for j in range(8)] for i in range(20)]
def work():
    jinja2.Environment(cache_size=0).from_string(source).render(rows=rows)
""",
    "PyYAML: load, pure Python": """
import yaml
source = "\\n".join(f"key{i}: {{a: [1, 2, {i}], b: 'text', c: null}}" for i in range(40))
def work():
    yaml.load(source, Loader=yaml.SafeLoader)
""",
    "Pygments: highlight Python": """
import inspect, pygments, pygments.lexers, pygments.formatters
source = inspect.getsource(pygments.lexers)[:4000]
def work():
    pygments.highlight(
        source, pygments.lexers.PythonLexer(), pygments.formatters.HtmlFormatter()
    )
""",
    "packaging: parse and sort versions": """
from packaging.version import Version
from packaging.specifiers import SpecifierSet
texts = [f"{i % 7}.{i % 11}.{i}{('', 'a1', '.post2', '.dev3')[i % 4]}" for i in range(200)]
def work():
    sorted(map(Version, texts))
    list(SpecifierSet(">=1.2,!=3.*,<6").filter(texts))
""",
}
WARM_UP: Final = 20


def one(name: str) -> None:
    """Count one library's iteration in this process; print JSON."""
    sys.path.insert(0, str(ROOT))
    from ci_flame.record import exact, layout  # noqa: PLC0415 - only in the measured process
    from ci_flame.symbols.modules import Layout  # noqa: PLC0415

    heap = layout.stir()
    scope: dict[str, object] = {}
    exec(WORK[name], scope)  # noqa: S102 - the table above
    work = scope["work"]
    assert callable(work)  # noqa: S101 - for the type checker
    times = []
    for _ in range(WARM_UP):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)

    class Driven:
        rounds = ()
        wall_ns = 0

    start = time.process_time()
    counts = exact.Counts(Driven)  # type: ignore[arg-type]
    for window in counts.windows():
        with counts.caught():
            try:
                window.open()
                work()
                window.close()
            finally:
                window.shut()
    spent = time.process_time() - start
    found, made = counts.told(Layout(), lambda frame: frame.module.startswith("ci_flame"))
    told = {
        "counts": {str(frame): [c.calls, c.bytecodes] for frame, c in found.items()},
        "unsteady": sorted(map(str, made.unsteady)),
        "left_out": made.left_out,
        "iteration_ms": statistics.median(times) * 1e3,
        "spent_ms": spent * 1e3,
        "kept": len(heap) > 0,
    }
    print(json.dumps(told))


def main() -> int:
    """Run the processes and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--processes", type=int, default=10)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--hash-seed", default="0")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(options.one)
        return 0
    print(
        "| library | functions | bytecodes | calls | differ | iteration | counted twice | slower |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name in WORK:
        runs = []
        for _ in range(options.processes):
            done = subprocess.run(
                [options.python, __file__, "--one", name],
                capture_output=True,
                text=True,
                check=True,
                env={**os.environ, "PYTHONHASHSEED": options.hash_seed},
                timeout=300,
            )
            runs.append(json.loads(done.stdout))
        names = {key for run in runs for key in (*run["counts"], *run["unsteady"])}
        differ = [
            key
            for key in names
            if len({json.dumps(run["counts"].get(key)) for run in runs}) > 1
            or any(key in run["unsteady"] for run in runs)
        ]
        counts = runs[0]["counts"].values()
        bytecodes = sum(own or 0 for _, own in counts)
        once = statistics.median(run["iteration_ms"] for run in runs)
        spent = statistics.median(run["spent_ms"] for run in runs)
        left_out = next((run["left_out"] for run in runs if run["left_out"]), "")
        print(
            f"| {name} | {len(names)} | {bytecodes:,} | {sum(c for c, _ in counts):,}"
            f" | {len(differ)} | {once:.1f} ms | {spent:.0f} ms | {spent / 2 / once:.0f} x |"
            + (f" {left_out}" if left_out else "")
        )
        if differ:
            print("  " + ", ".join(sorted(differ)[:5]), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
