"""Edge: the report folder: a verdict, every rendering of it, and all that it was made from.

    before/ after/   the runs               policy.json   what they were judged by
    siblings/ anchor/   builds beside the baseline, where it came from a store
    verdict.json  report.html  junit.xml  summary.md  <benchmark>.svg  <benchmark>.folded
    results.sarif  codequality.json  metrics.txt  teamcity.txt  static.html  static.css

It is written under a temporary name and renamed, so that whoever finds it finds it whole.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ci_flame.config import terms as terms_file
from ci_flame.config.terms import Terms
from ci_flame.errors import FormatError, UsageError, WriteError
from ci_flame.profile import Run
from ci_flame.verdict import Outcome, Verdict
from ci_flame.verdict.absent import slugs_compared

if TYPE_CHECKING:
    from ci_flame.judge.history import History

T = TypeVar("T")
TERMS_NAME: Final = "policy.json"
VERDICT_NAME: Final = "verdict.json"
RENDERED: Final = {
    VERDICT_NAME: "json",
    "report.html": "html",
    "junit.xml": "junit",
    "summary.md": "markdown",
    "results.sarif": "sarif",
    "codequality.json": "codequality",
    "metrics.txt": "openmetrics",
    "teamcity.txt": "teamcity",
    "static.html": "static",
}
"""File -> key of `report.REPORTERS`."""
SIBLINGS: Final = "siblings"
ANCHOR: Final = "anchor"
STORED: Final = "stored"
"""The baseline as it was stored, where its commit was recorded once more."""
MAX_SIBLINGS: Final = 100
MAX_BYTES: Final = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Report:
    """What a report folder was made from."""

    before: Run | None
    after: Run
    terms: Terms
    history: "History | None" = None
    """The builds beside the baseline, where it came from a store."""


def save(verdict: Verdict, report: Report, folder: Path) -> None:
    """Write everything; an earlier report in that place is replaced, nothing else is.

    Raises UsageError where `folder` holds something else, WriteError where the disk is full.
    """
    from ci_flame.baseline import folder as run_folder  # noqa: PLC0415
    from ci_flame.report import REPORTERS  # noqa: PLC0415

    with _replacing(folder) as scratch:
        run_folder.save(report.after, scratch / "after")
        if report.before is not None:
            run_folder.save(report.before, scratch / "before")
        if report.history is not None:
            _save_history(report.history, report.before, report.after, scratch)
        _write(scratch / TERMS_NAME, terms_file.encode(report.terms))
        for name, reporter in RENDERED.items():
            _write(scratch / name, REPORTERS[reporter](verdict))
        _pictures(verdict, scratch)


def _save_history(history: "History", before: Run | None, after: Run, scratch: Path) -> None:
    """Keep what the judge read of other builds: the benchmarks of this run.

    The baseline as it was stored is kept where its commit was recorded once more, and that is
    the before side.
    """
    from ci_flame.baseline import folder as run_folder  # noqa: PLC0415

    kept = history.only([each.benchmark for each in after.measurements])
    for measurement in before.measurements if before else ():
        stored = kept.base.measurement(measurement.benchmark)
        if stored is not measurement and stored != measurement:
            run_folder.save(kept.base, scratch / STORED)
            break
    for number, run in enumerate(kept.siblings, 1):
        run_folder.save(run, scratch / SIBLINGS / f"{number:03}")
    if kept.anchor is not None:
        run_folder.save(kept.anchor, scratch / ANCHOR)


def _load_history(folder: Path, before: Run) -> "History | None":
    """Return the builds beside the baseline; None where the report has none."""
    from ci_flame.baseline import folder as run_folder  # noqa: PLC0415
    from ci_flame.judge.history import History  # noqa: PLC0415

    places: list[Path] = []
    if (folder / SIBLINGS).is_dir():
        places = sorted(each for each in (folder / SIBLINGS).iterdir() if each.name.isdecimal())
    if len(places) > MAX_SIBLINGS:
        raise FormatError(str(folder / SIBLINGS), f"{len(places)} builds; at most {MAX_SIBLINGS}")
    anchor = folder / ANCHOR
    if not places and not anchor.is_dir():
        return None
    stored = folder / STORED
    return History(
        run_folder.load(stored) if stored.is_dir() else before,
        tuple(run_folder.load(place) for place in places),
        run_folder.load(anchor) if anchor.is_dir() else None,
    )


def _pictures(verdict: Verdict, scratch: Path) -> None:
    from ci_flame.report import folded, svg  # noqa: PLC0415

    for name, text in beside_static(verdict):
        _write(scratch / name, text)
    for each in verdict.benchmarks:
        if each.diff is not None:
            name = svg.file_name(each).removesuffix(".svg")
            _write(scratch / f"{name}.folded", folded.render(each.diff))


def beside_static(verdict: Verdict) -> Iterator[tuple[str, str]]:
    """Yield name and text of what `static.html` loads: its style and the pictures."""
    from ci_flame.report import static, svg  # noqa: PLC0415

    yield static.STYLESHEET, static.stylesheet()
    for each in verdict.benchmarks:
        yield svg.file_name(each), svg.render(each)


def load(folder: Path) -> Report:
    """Return what the report in `folder` was made from; FormatError or UsageError by name."""
    from ci_flame.baseline import folder as run_folder  # noqa: PLC0415

    _must_be_report(folder)
    terms = terms_file.decode(_read(folder / TERMS_NAME), str(folder / TERMS_NAME))
    place = folder / "before"
    before = run_folder.load(place) if place.exists() else None
    return Report(
        before=before,
        after=run_folder.load(folder / "after", incomplete_ok=True),
        terms=terms,
        history=None if before is None else _load_history(folder, before),
    )


def outcome(folder: Path) -> Outcome:
    """Return the outcome that is stored in a report; reads no more than `verdict.json`."""
    return _told(folder, lambda told: Outcome(told["outcome"]))


def compared(folder: Path) -> bool:
    """Return whether any benchmark of a report has a before side, as `absent.is_compared`."""

    def read(told: dict[str, Any]) -> bool:
        slugs = ([note["slug"] for note in each["notes"]] for each in told["benchmarks"])
        return any(map(slugs_compared, slugs))

    return _told(folder, read)


def _told(folder: Path, read: Callable[[dict[str, Any]], T]) -> T:
    _must_be_report(folder)
    path = folder / VERDICT_NAME
    try:
        return read(json.loads(_read(path)))
    except (ValueError, KeyError, TypeError, RecursionError):
        cure = "run check or compare again: it writes the whole report folder"
        raise FormatError(str(path), "not a verdict of ci_flame", cure) from None


def terms(folder: Path) -> Terms:
    """Return what a report was judged by."""
    _must_be_report(folder)
    return terms_file.decode(_read(folder / TERMS_NAME), str(folder / TERMS_NAME))


def is_report(folder: Path) -> bool:
    """Return whether `folder` is a report: the only kind of folder that is ever replaced."""
    return (folder / VERDICT_NAME).is_file() and (folder / TERMS_NAME).is_file()


def discard(folder: Path) -> None:
    """Remove an earlier report, so that a build that wrote none cannot be taken for it."""
    if is_report(folder):
        shutil.rmtree(folder, ignore_errors=True)


def _must_be_report(folder: Path) -> None:
    if not folder.exists():
        raise UsageError(f"{folder} does not exist", "give the folder of a report (-o of check)")
    if not is_report(folder):
        lacks = [name for name in (VERDICT_NAME, TERMS_NAME) if not (folder / name).is_file()]
        raise UsageError(
            f"{folder} is not a report: it has no {' and no '.join(lacks)}",
            "give the folder that -o of check or compare named",
        )


def _read(path: Path) -> str:
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise FormatError(str(path), f"{size} bytes; at most {MAX_BYTES}")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise FormatError(str(path), f"byte {error.start} is not UTF-8") from None


def _write(path: Path, text: str) -> None:
    # Names of files that are not UTF-8 carry lone surrogates, which UTF-8 cannot.
    path.write_text(text, encoding="utf-8", errors="backslashreplace")


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """Yield a scratch folder beside `folder` and put it in its place at the end."""
    target = folder.absolute()
    if target.exists() and not is_report(target):
        if not target.is_dir():
            raise UsageError(f"{folder} is not a folder", "give -o another name")
        if any(target.iterdir()):
            raise UsageError(
                f"{folder} is not empty and not a report; it is left as it is",
                "give -o another name, or remove it",
            )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.tmp-", dir=target.parent))
    except OSError as error:
        raise WriteError(f"{folder} cannot be written: {error.strerror}") from None
    try:
        # mkdtemp makes it private, but CI uploads reports as another user.
        scratch.chmod(0o777 & ~_umask())
        yield scratch
        _swap(scratch, target)
    except WriteError as error:  # of a run inside, whose scratch name means nothing to anyone
        told = error.message.replace(str(scratch), str(folder))
        raise WriteError(told, "make room, or name another folder by -o") from None
    except OSError as error:
        raise WriteError(
            f"{folder} cannot be written: {error.strerror}",
            "make room, or name another folder by -o",
        ) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _swap(scratch: Path, target: Path) -> None:
    """Rename `scratch` to `target`; what was there before is removed last."""
    if not target.exists():
        scratch.rename(target)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.tmp-", dir=target.parent))
    try:
        target.rename(aside / target.name)
        try:
            scratch.rename(target)
        except OSError:
            (aside / target.name).rename(target)
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
