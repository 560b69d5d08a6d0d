"""Edge: says where a change brings the limits that it is judged by.

A pull request may raise its own limit, waive everything or record too little to see anything,
and be green. That is allowed, and must not go unseen.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from ci_flame.baseline import ci_base, git
from ci_flame.config import POLICY_NAME, BaselineKind, BaselineSpec, Config
from ci_flame.config.yaml_tree import MAX_BYTES
from ci_flame.errors import BaselineError
from ci_flame.profile import Run
from ci_flame.verdict import Note

SLUG: Final = "policy-changed"


def note(
    config: Config, start: Path, spec: BaselineSpec, run: Run | None, given: Mapping[str, str]
) -> Note | None:
    """Return which parts of the policy file differ from those of the base commit, in words.

    None where they are the same, where only comments differ, and where git cannot tell.
    """
    try:
        top = git.top_level(start)
        commit = _base(spec, run, top, given)
        if not commit:
            return None
        return _compared(config.policy_file, start, top, commit)
    except (BaselineError, OSError):
        return None  # it is said elsewhere what git cannot do


def _base(spec: BaselineSpec, run: Run | None, top: Path, given: Mapping[str, str]) -> str:
    """Return the commit that the change began at; empty: nobody says."""
    if told := given.get(ci_base.NAMED, "").strip():
        return git.resolve(told, top)
    if spec.kind is BaselineKind.RERUN:
        return git.resolve(spec.value, top)
    if run is not None and run.commit:
        return git.resolve(run.commit, top)
    parents = git.parents(top) if ci_base.in_ci(given) else ()
    return parents[0] if parents else ""


def _compared(file: Path | None, start: Path, top: Path, commit: str) -> Note | None:
    top = top.resolve()
    now = file.read_bytes()[: MAX_BYTES + 1] if file is not None else b""
    for path in _places(file, start.resolve(), top):
        before = _content(commit, path, top)
        if before is None and file is None:
            continue
        if before == now:
            return None
        short = commit[:10]
        if before is None:
            return Note(SLUG, f"{path} is new in this change: {short} has no such policy")
        cure = f"`git diff {short} -- {path}` shows it"
        if file is None:
            return Note(
                SLUG,
                f"{path} is gone in this change: the defaults judge it, not the policy of"
                f" {short}; {cure}",
            )
        keys = _differing(before, now)
        if not keys:
            return None
        words = f"this change brings its own limits: {path} differs from that of {short} ({keys})"
        return Note(SLUG, f"{words}; {cure}")
    return None


def _places(file: Path | None, start: Path, top: Path) -> Iterable[str]:
    """Yield where the policy is in the repository, or would be found."""
    if file is not None:
        resolved = file.resolve()
        if resolved.is_relative_to(top):
            yield resolved.relative_to(top).as_posix()
        return
    for place in (start, *start.parents):
        if not place.is_relative_to(top):
            return
        yield (place / POLICY_NAME).relative_to(top).as_posix()


def _content(commit: str, path: str, top: Path) -> bytes | None:
    """Return the file at a commit; None where it has none, or one that is no policy by its size."""
    size = git.call(("cat-file", "-s", f"{commit}:{path}"), top)
    if size.returncode or int(size.stdout) > MAX_BYTES:
        return None
    found = git.call(("cat-file", "blob", f"{commit}:{path}"), top)
    return None if found.returncode else found.stdout


def _differing(before: bytes, now: bytes) -> str:
    """Return the keys of the policy whose values differ; empty: none, only comments do."""
    one, other = _read(before), _read(now)
    if one is None or other is None:
        return "it cannot be read there"
    return ", ".join(key for key in dict.fromkeys((*other, *one)) if one.get(key) != other.get(key))


def _read(text: bytes) -> dict[str, Any] | None:
    """Return the top of a policy; None where it is no mapping, or uses aliases to grow."""
    if (
        b"&" in text
        and b"*" in text
        and any(isinstance(event, yaml.AliasEvent) for event in _events(text))
    ):
        return None
    try:
        found = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    return {str(key): value for key, value in found.items()} if isinstance(found, dict) else None


def _events(text: bytes) -> Iterable[yaml.Event]:
    try:
        yield from yaml.parse(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, ValueError):
        return
