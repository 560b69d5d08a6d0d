"""Print one dependency group of a pyproject.toml as requirements, one per line (PEP 735).

Usage: dependency_group.py pyproject.toml GROUP. Groups may include others.
"""

import sys
import tomllib
from pathlib import Path
from typing import Any


def requirements(groups: dict[str, list[Any]], name: str, seen: tuple[str, ...] = ()) -> list[str]:
    """Return the requirements of a group, those of included groups in their place."""
    if name in seen:
        raise SystemExit(f"dependency group {name!r} includes itself: {' -> '.join((*seen, name))}")
    if name not in groups:
        raise SystemExit(f"no dependency group {name!r}; there are: {', '.join(sorted(groups))}")
    found: list[str] = []
    for entry in groups[name]:
        if isinstance(entry, str):
            found.append(entry)
        else:
            found += requirements(groups, entry["include-group"], (*seen, name))
    return found


def main(arguments: list[str]) -> None:
    """Read the file that the first argument names and print the group of the second."""
    if len(arguments) != 2:  # noqa: PLR2004 - the two words of the usage line
        raise SystemExit(__doc__)
    table = tomllib.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    print("\n".join(requirements(table.get("dependency-groups", {}), arguments[1])))


if __name__ == "__main__":
    main(sys.argv[1:])
