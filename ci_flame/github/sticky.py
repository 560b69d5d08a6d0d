"""Edge: one comment for each key on a pull request: found again, brought up to date, kept single.

Only a comment of the token's own user or app counts: anybody could write our first line. GitHub
has no way to replace a comment only if nobody else did, so that two builds at once are made good
afterwards: who has just written looks again, brings the oldest comment up to date and removes
the younger ones, never one that a later build has written.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ci_flame.github import comment
from ci_flame.github.api import Api, ApiError
from ci_flame.github.comment import Build, Stamp
from ci_flame.github.verdict_json import Told

BOT: Final = "github-actions[bot]"
"""Whom comments are of that were written with a workflow's own token."""
MAX_COMMENTS: Final = 5_000
"""Read on one pull request; of more, the first are read."""
_GONE: Final = (404, 410)
_MAX_URL: Final = 1_000
_VIEWER: Final = "query { viewer { login } }"


class Done(StrEnum):
    """What became of a build's comment."""

    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    OLDER = "older"
    """A later build has written; that is left."""
    SILENT = "silent"
    """There was nothing to tell."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a comment, and its address; empty where there is none."""

    done: Done
    url: str = ""


@dataclass(frozen=True, slots=True)
class _Comment:
    """One of our own comments, as GitHub has it."""

    id: int
    stamp: Stamp
    body: str
    url: str


class Comments:
    """The comments on one pull request, as one token may write them."""

    def __init__(self, api: Api, repository: str, number: int, author: str) -> None:
        self._api = api
        self._one = f"/repos/{repository}/issues/comments"
        self._all = f"/repos/{repository}/issues/{number}/comments"
        self._author = author

    def tell(self, told: Told | None, build: Build, mode: str) -> Result:
        """Write, update or leave the comment of a build's key; ApiError where GitHub refuses.

        `mode` is one of `comment.MODES`.
        """
        if mode == "never":
            return Result(Done.SILENT)
        own = self._own(build.key)
        latest = max(own, key=lambda each: each.stamp.age, default=None)
        mine = comment.stamp_of(told, build)
        if latest is not None and latest.stamp.age > mine.age:
            return Result(Done.OLDER, latest.url)
        if latest is not None and latest.stamp.age == mine.age and latest.stamp.rank >= mine.rank:
            # Of this very build: by its own job, which knew more than one after it, or by another
            # leg of the same name, whose failure this one must not hide.
            return Result(Done.UNCHANGED, latest.url)
        earlier = None if latest is None else latest.stamp
        if not comment.wanted(mode, told, build.exit_code, earlier):
            return Result(Done.SILENT)
        body = comment.render(told, build, earlier)
        if own and (updated := self._update(own, body, mine)):
            return updated
        return self._create(body, mine)

    def _update(self, own: Sequence[_Comment], body: str, mine: Stamp) -> Result | None:
        """Bring the oldest comment up to date; None where somebody has deleted it meanwhile."""
        keep, *others = own
        result = Result(Done.UNCHANGED, keep.url)
        if keep.body != body:
            try:
                self._api.send("PATCH", f"{self._one}/{keep.id}", {"body": body})
            except ApiError as error:
                if error.status not in _GONE:
                    raise
                return None
            result = Result(Done.UPDATED, keep.url)
        self._remove(others, mine)
        return result

    def _create(self, body: str, mine: Stamp) -> Result:
        answer = self._api.send("POST", self._all, {"body": body})
        made = _read(answer)
        own = self._own(mine.key)
        if made is None or not own or own[0].id == made.id:
            self._remove(own[1:], mine)
            return Result(Done.CREATED, made.url if made else "")
        # Another build was quicker. Its comment stays, with what the later of both says.
        keep, *others = own
        if keep.stamp.age <= mine.age and keep.body != body:
            self._api.send("PATCH", f"{self._one}/{keep.id}", {"body": body})
        self._remove(others, mine)
        return Result(Done.UPDATED if keep.stamp.age <= mine.age else Done.OLDER, keep.url)

    def _remove(self, others: Sequence[_Comment], mine: Stamp) -> None:
        """Delete comments of the same key that no later build has written."""
        for each in others:
            if each.stamp.age > mine.age:
                continue
            try:
                self._api.send("DELETE", f"{self._one}/{each.id}", None)
            except ApiError as error:
                if error.status not in _GONE:
                    raise

    def _own(self, key: str) -> list[_Comment]:
        """Return our comments of a key, the oldest first."""
        found = []
        for value in self._api.pages(self._all, limit=MAX_COMMENTS):
            if not isinstance(value, dict) or _login(value) != self._author:
                continue
            each = _read(value)
            if each is not None and each.stamp.key == key:
                found.append(each)
        return sorted(found, key=lambda each: each.id)


def author_of(api: Api) -> str:
    """Return the login that comments written with a token have; `api` serves `/graphql`.

    REST tells an app's token nothing of itself, GraphQL does. Where that is refused, the token is
    taken for the workflow's own.
    """
    try:
        answer = api.send("POST", "/graphql", {"query": _VIEWER})
    except ApiError:
        return BOT
    for key in ("data", "viewer", "login"):
        answer = answer.get(key) if isinstance(answer, dict) else None
    return answer if isinstance(answer, str) and answer else BOT


def _login(value: dict[str, object]) -> str:
    user = value.get("user")
    login = user.get("login") if isinstance(user, dict) else None
    return login if isinstance(login, str) else ""


def _read(value: object) -> _Comment | None:
    """Return one of our comments; None for any other."""
    if not isinstance(value, dict):
        return None
    number, body, url = value.get("id"), value.get("body"), value.get("html_url")
    if not isinstance(number, int) or isinstance(number, bool) or not isinstance(body, str):
        return None
    # An edit in the browser leaves line ends as a form sends them.
    body = body.replace("\r\n", "\n")
    stamp = comment.read_stamp(body)
    if stamp is None:
        return None
    shown = url if isinstance(url, str) and len(url) <= _MAX_URL and url.isprintable() else ""
    return _Comment(number, stamp, body, shown)
