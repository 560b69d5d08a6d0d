"""Edge: artifacts of GitHub: listed, downloaded whole, checked, and read in memory within caps.

A zip from elsewhere is never extracted: members with a name that is asked for are read into
memory, as many bytes as may be and no more, and everything odd about the others is a reason to
refuse the whole. What is kept on disk is written by our own code from what was understood.
"""

import hashlib
import io
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from ci_flame.baseline import folder
from ci_flame.errors import BaselineError, FormatError
from ci_flame.formats import pprof, run_json
from ci_flame.github.api import Api, ApiError
from ci_flame.github.origin import MAX_ZIP, Artifact, read_artifact
from ci_flame.profile import Run

MAX_ENTRIES: Final = 25_000
"""Twice as many benchmarks as a run may have, and some."""
MAX_DIRECTORY: Final = 8 << 20
"""Bytes of a zip's list of members."""
MAX_UNPACKED: Final = 512 << 20
MAX_RATIO: Final = 300
"""Bytes of a member for each packed one; of small members it says nothing."""
_SMALL: Final = 1 << 20
_MAX_NAME: Final = 300
_END: Final = struct.Struct("<4s4H2LH")
"""A zip's end: signature, disks (2), counts (2), size and place of the list, comment."""
_END_MARK: Final = b"PK\x05\x06"
_END64_MARK: Final = b"PK\x06\x07"
_END64_BYTES: Final = 20
_MAX_COMMENT: Final = (1 << 16) - 1
_ENCRYPTED: Final = 0x1
_DRIVE: Final = re.compile(r"[A-Za-z]:")
_PROFILE: Final = re.compile(
    rf"{folder.PROFILES}/\w[\w-]{{0,95}}\.(?:on-cpu|off-cpu)\.pb\.gz", re.ASCII
)


def listed(api: Api, repository: str, name: str, *, limit: int = 500) -> Iterator[Artifact]:
    """Yield the repository's artifacts of that name, newest first; page by page, as asked for."""
    path = f"/repos/{repository}/actions/artifacts"
    return _read_of(api.pages(path, "artifacts", limit=limit, name=name), path)


def of_run(api: Api, repository: str, run_id: int, *, limit: int = 500) -> tuple[Artifact, ...]:
    """Return the artifacts of one run."""
    path = f"/repos/{repository}/actions/runs/{run_id}/artifacts"
    return tuple(_read_of(api.pages(path, "artifacts", limit=limit), path))


def _read_of(entries: Iterable[object], path: str) -> Iterator[Artifact]:
    """Yield the artifacts of a list, but for those that cannot be read.

    ApiError at its end where none could be: then it is no list of artifacts, not an empty one.
    """
    seen = read = 0
    for each in entries:
        seen += 1
        artifact = read_artifact(each)
        if artifact is not None:
            read += 1
            yield artifact
    if seen and not read:
        raise ApiError(
            f"GitHub answered GET {path} with {seen} entries that are no artifacts",
            "is GITHUB_API_URL the API of a GitHub server?",
        )


def fetch(api: Api, repository: str, artifact: Artifact, *, limit_bytes: int = MAX_ZIP) -> bytes:
    """Return an artifact's zip whose sha256 is the one that GitHub tells.

    Raises ApiError where it is not to be had, FormatError where it is not what was uploaded.
    """
    source = named(artifact)
    if not artifact.digest:
        raise FormatError(source, "GitHub tells no sha256 of it")
    path = f"/repos/{repository}/actions/artifacts/{artifact.id}/zip"
    data = api.download(path, limit_bytes)
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    if digest != artifact.digest:
        raise FormatError(
            source, f"what was downloaded has {digest[:17]}…, not {artifact.digest[:17]}…"
        )
    return data


def named(artifact: Artifact) -> str:
    """Return the words for messages: `artifact 12 of run 77 (commit 1a2b3c4d5e)`."""
    commit = f" (commit {artifact.head_sha[:10]})" if artifact.head_sha else ""
    return f"artifact {artifact.id} of run {artifact.run_id}{commit}"


def read_run(data: bytes, source: str) -> Run:
    """Return the run in the zip of a run folder; FormatError or BaselineError by name."""
    files = unpack(data, source, _limit_of)
    if folder.RUN_JSON not in files:
        raise FormatError(source, f"it holds no {folder.RUN_JSON}: it is not a run folder")

    def read(name: str, limit: int) -> bytes:
        if name not in files:
            raise FormatError(f"{source}/{name}", "it is not in the zip")
        if len(files[name]) > limit:
            raise FormatError(f"{source}/{name}", f"{len(files[name])} bytes; the limit is {limit}")
        return files[name]

    run = folder.assemble(read, source)
    if not run.complete:
        raise BaselineError(f"{source}: the run was interrupted and is not complete")
    if not run.measurements:
        raise BaselineError(f"{source}: the run holds no benchmark")
    return run


def _limit_of(name: str) -> int:
    if name == folder.RUN_JSON:
        return run_json.MAX_TEXT
    return pprof.MAX_COMPRESSED if _PROFILE.fullmatch(name) else 0


def keep(run: Run, place: Path) -> None:
    """Write a run where a baseline is looked for; what an earlier step left there is replaced."""
    folder.save(run, place)


def unpack(data: bytes, source: str, limit_of: Callable[[str], int]) -> dict[str, bytes]:
    """Return the members of a zip that are wanted, by name.

    `limit_of` tells how many bytes a member may have, 0 for one that is not wanted. Raises
    FormatError where the zip is broken or encrypted, is too large in any respect, or has any
    member, wanted or not, whose name leads elsewhere or is there twice, or that is a link.
    """
    _must_be_small(data, source)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if len(members) > MAX_ENTRIES:
                raise FormatError(source, f"{len(members)} members; the limit is {MAX_ENTRIES}")
            files = _wanted(members, source, limit_of)
            return {name: _read(archive, files[name], source) for name in sorted(files)}
    except (zipfile.BadZipFile, zlib.error, EOFError, struct.error) as error:
        raise FormatError(source, f"a broken or truncated zip: {_words(error)}") from None
    except (NotImplementedError, RuntimeError, ValueError, OverflowError) as error:
        raise FormatError(source, f"a zip that is not read: {_words(error)}") from None


def _must_be_small(data: bytes, source: str) -> None:
    """Refuse a list of members that would fill the memory before anybody could count it."""
    start = data.rfind(_END_MARK, max(0, len(data) - _END.size - _MAX_COMMENT))
    if start < 0 or start + _END.size > len(data):
        raise FormatError(source, "a broken or truncated zip: it has no end")
    _mark, _disk, _first, _here, count, size, _place, _comment = _END.unpack_from(data, start)
    if data[max(0, start - _END64_BYTES) : start].startswith(_END64_MARK):
        raise FormatError(source, "a zip that is not read: it is made for more than 4 GiB")
    if count > MAX_ENTRIES:
        raise FormatError(source, f"{count} members; the limit is {MAX_ENTRIES}")
    if size > MAX_DIRECTORY:
        raise FormatError(source, f"a list of members of {size} bytes; limit {MAX_DIRECTORY}")


def _wanted(
    members: list[zipfile.ZipInfo], source: str, limit_of: Callable[[str], int]
) -> dict[str, zipfile.ZipInfo]:
    seen: set[str] = set()
    files: dict[str, zipfile.ZipInfo] = {}
    total = 0
    for member in members:
        name = member.orig_filename
        if trouble := _odd(member):
            raise FormatError(source, f"member {name[:100]!r} {trouble}")
        if name in seen:
            raise FormatError(source, f"member {name[:100]!r} is there twice")
        seen.add(name)
        limit = 0 if name.endswith("/") else limit_of(name)
        if not limit:
            continue
        total += member.file_size
        if member.file_size > limit:
            raise FormatError(
                source, f"member {name!r} has {member.file_size} bytes; the limit is {limit}"
            )
        if total > MAX_UNPACKED:
            raise FormatError(source, f"more than {MAX_UNPACKED} bytes when unpacked")
        if member.file_size > max(_SMALL, MAX_RATIO * member.compress_size):
            raise FormatError(
                source,
                f"member {name!r} would grow from {member.compress_size} to {member.file_size}"
                f" bytes; at most {MAX_RATIO} times is read",
            )
        files[name] = member
    return files


def _odd(member: zipfile.ZipInfo) -> str:
    """Return what is wrong with a member that no honest zip of a folder has."""
    name = member.orig_filename
    parts = name.removesuffix("/").split("/")
    mode = member.external_attr >> 16
    kind = stat.S_IFMT(mode) if member.create_system == 3 else 0  # noqa: PLR2004 - Unix made it
    if not name or len(name) > _MAX_NAME or not name.isprintable():
        return "has no name, or none that is a name"
    if name.startswith("/") or "\\" in name or _DRIVE.match(name) or {"", ".", ".."} & set(parts):
        return "would lead out of its folder"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link, a device or a pipe"
    if member.flag_bits & _ENCRYPTED:
        return "is encrypted"
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"is packed by method {member.compress_type}; only 0 and 8 are read"
    return ""


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo, source: str) -> bytes:
    with archive.open(member) as stream:
        # The announced size was checked; whatever unpacks to more ends here.
        data = stream.read(member.file_size + 1)
    if len(data) != member.file_size:
        raise FormatError(
            source,
            f"member {member.orig_filename!r} has {len(data)} bytes or more,"
            f" not the {member.file_size} that are announced",
        )
    return data


def _words(error: Exception) -> str:
    text = "".join(c if c.isprintable() else " " for c in str(error))
    return text[:200] or type(error).__name__
