"""Edge: GitHub's REST API over `requests`: bounded in time, size and attempts, and discreet.

The token is sent to the API's own origin only, and is in no message. What the service answers is
data from elsewhere: read up to a limit, checked to be JSON, and quoted on one line at most.
Errors are told apart by `ApiError.status`; every one of them has a cure.
"""
# ruff: noqa: PLC0415 - requests is an optional dependency, loaded where it is needed

import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final
from urllib.parse import urljoin, urlsplit

import ci_flame
from ci_flame.errors import CiFlameError

if TYPE_CHECKING:
    from requests import PreparedRequest, Response

TRIES: Final = 4
MAX_WAIT_S: Final = 30.0
"""The longest wait between two tries; a service that asks for more is given up."""
CALL_S: Final = 120.0
"""One call, with all its tries and waits."""
DOWNLOAD_S: Final = 600.0
MAX_JSON: Final = 32 << 20
MAX_PAGES: Final = 50
PER_PAGE: Final = 100
_CONNECT_S: Final = 10.0
_READ_S: Final = 30.0
_HOUR_S: Final = 3600.0
_MAX_HOPS: Final = 5
_MAX_TOLD: Final = 200
_CHUNK: Final = 64 << 10
_AGAIN: Final = frozenset({429, 500, 502, 503, 504})
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_SAFE: Final = frozenset({"GET", "HEAD"})
_TOKEN: Final = re.compile(r"[\x21-\x7e]{1,4096}", re.ASCII)
_PERMISSIONS: Final = re.compile(r"[\w=,; -]{1,200}", re.ASCII)


class ApiError(CiFlameError):
    """GitHub's API refused, or could not be reached; nothing of it need fail a build."""

    exit_code: ClassVar[int] = 3

    def __init__(self, message: str, hint: str = "", *, status: int = 0) -> None:
        super().__init__(message, hint)
        self.status = status
        """Status of HTTP; 0: no answer, or none that could be read."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """One answer, read whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    next_url: str
    """The next page's address; empty: there is none."""


@dataclass(frozen=True, slots=True)
class _Ask:
    """One request, and what it may cost."""

    method: str
    url: str
    limit: int
    """Bytes of the answer."""
    until: float
    """Of the monotonic clock: when the last try must be over."""
    query: Mapping[str, str | int] = field(default_factory=dict)
    body: object = None


class _Broken(Exception):  # noqa: N818 - no error yet: the next try may succeed
    """There was no whole answer; `sent`: the request may have arrived all the same."""

    def __init__(self, reason: str, *, sent: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.sent = sent


class Api:
    """The API of one server, as one token may use it."""

    def __init__(self, url: str, token: str = "") -> None:
        try:
            import requests
        except ImportError:
            raise ApiError(
                "GitHub's API is not available: the package requests is not installed",
                "pip install 'ci-flame[github]'",
            ) from None
        if token and not _TOKEN.fullmatch(token):
            raise ApiError(
                "the token holds characters that no token has",
                "give the input github-token `${{ github.token }}`",
            )
        self._url = url.rstrip("/")
        self._origin = _origin(self._url)
        self._token = token
        self._session = requests.Session()

    def get(self, path: str, **query: str | int) -> Any:  # noqa: ANN401 - whatever JSON holds
        """Return the JSON at a path such as `/repos/o/n/pulls`; ApiError where there is none."""
        return self._call("GET", self._url + path, query=query)[0]

    def pages(
        self, path: str, key: str = "", *, limit: int = 1000, **query: str | int
    ) -> Iterator[Any]:
        """Yield the entries of a list over all its pages, `limit` of them at most.

        `key` names the list where the pages are objects: `artifacts`.
        """
        url = self._url + path
        given: Mapping[str, str | int] = {"per_page": PER_PAGE, **query}
        left = limit
        for _page in range(MAX_PAGES):
            document, url = self._call("GET", url, query=given)
            entries = document.get(key) if key and isinstance(document, dict) else document
            if not isinstance(entries, list):
                raise ApiError(
                    f"GitHub answered GET {path} with something that is no list"
                    + (f" of {key}" if key else ""),
                    "is GITHUB_API_URL the API of a GitHub server?",
                )
            yield from entries[:left]
            left -= len(entries)
            if left <= 0 or not url:
                return
            given = {}  # the next page's address has it all

    def send(self, method: str, path: str, body: object) -> Any:  # noqa: ANN401 - as get
        """Send JSON and return the JSON that is answered; None where nothing is.

        A request that may have arrived is not sent twice: it might have created something.
        """
        return self._call(method, self._url + path, body=body)[0]

    def download(self, path: str, limit_bytes: int) -> bytes:
        """Return the bytes at a path, `limit_bytes` at most; no redirection sees the token."""
        until = time.monotonic() + DOWNLOAD_S
        return self._tried(_Ask("GET", self._url + path, limit_bytes, until)).body

    # -- one call ---------------------------------------------------------------------

    def _call(
        self,
        method: str,
        url: str,
        *,
        query: Mapping[str, str | int] = MappingProxyType({}),
        body: object = None,
    ) -> tuple[Any, str]:
        """Return the JSON of an answer, and the address of the next page."""
        answer = self._tried(_Ask(method, url, MAX_JSON, time.monotonic() + CALL_S, query, body))
        if not answer.body.strip():
            return None, ""
        try:
            return json.loads(answer.body), answer.next_url
        except (ValueError, RecursionError):
            # A proxy's page, a login: whatever it is, it is not the API's.
            kind = answer.headers.get("content-type", "").partition(";")[0].strip()
            raise ApiError(
                f"GitHub answered {method} {self._path(url)} with"
                f" {self._told(kind) or 'something'} that is no JSON",
                "is GITHUB_API_URL the API of a GitHub server, with no proxy's page before it?",
            ) from None

    def _tried(self, ask: _Ask) -> _Answer:
        """Return an answer that is no error; ApiError when the tries or the time are used up."""
        for number in range(1, TRIES + 1):
            last = number == TRIES
            try:
                answer = self._followed(ask)
            except _Broken as broken:
                wait = _pause(number)
                final = last or (broken.sent and ask.method not in _SAFE)
                if final or time.monotonic() + wait >= ask.until:
                    raise self._no_answer(ask, broken.reason, number) from None
                time.sleep(wait)
                continue
            if answer.status < 300:  # noqa: PLR2004 - of HTTP
                return answer
            pause = _wait_of(answer, ask.method, number)
            if pause is None or last or time.monotonic() + pause >= ask.until:
                raise self._refused(ask, answer, number)
            time.sleep(pause)
        raise AssertionError("the last try returns or raises")

    def _followed(self, ask: _Ask) -> _Answer:
        """Send one request, and follow where it is redirected to; only reading is redirected."""
        hop = ask
        for _number in range(_MAX_HOPS):
            answer, location = self._once(hop)
            if answer.status not in _REDIRECTS:
                return answer
            target = urljoin(hop.url, location)
            if ask.method not in _SAFE or not location:
                raise ApiError(
                    f"GitHub redirected {self._named(ask)}, which is not followed",
                    "was the repository renamed? Update the checkout's address",
                    status=answer.status,
                )
            if not _may_follow(hop.url, target):
                raise ApiError(
                    f"GitHub redirected {self._named(ask)} to an address that is not followed",
                    "only https is, and http where the API itself is http",
                    status=answer.status,
                )
            hop = replace(ask, url=target, query={})
        raise ApiError(
            f"GitHub redirected {self._named(ask)} more than {_MAX_HOPS} times",
            "is GITHUB_API_URL right?",
        )

    def _once(self, ask: _Ask) -> tuple[_Answer, str]:
        """Return one answer and where it points to; _Broken where it is not whole."""
        import requests

        here = _origin(ask.url) == self._origin
        try:
            # Redirections are ours to follow: requests would put in what ~/.netrc says.
            with self._session.request(
                ask.method,
                ask.url,
                params=dict(ask.query),
                data=None if ask.body is None else json.dumps(ask.body).encode(),
                headers=_HEADERS if here else {"User-Agent": _HEADERS["User-Agent"]},
                auth=self._authorize if here else _anonymous,
                timeout=(_CONNECT_S, _READ_S),
                allow_redirects=False,
                stream=True,
            ) as response:
                data = self._read(response, ask)
                next_url = self._next(response, ask.url)
                answer = _Answer(response.status_code, response.headers, data, next_url)
                return answer, response.headers.get("location", "")
        except requests.exceptions.ConnectTimeout:
            raise _Broken(f"no connection within {_CONNECT_S:g} s", sent=False) from None
        except requests.exceptions.ProxyError:
            raise _Broken("the proxy could not be reached or refused", sent=False) from None
        except requests.exceptions.SSLError:
            raise _Broken("its certificate was not accepted", sent=False) from None
        except requests.exceptions.ReadTimeout:
            raise _Broken(f"no answer within {_READ_S:g} s", sent=True) from None
        except requests.exceptions.ConnectionError as error:
            refused = _never_connected(error)
            reason = "it could not be connected to" if refused else "the connection broke off"
            raise _Broken(reason, sent=not refused) from None
        except (requests.exceptions.RequestException, OSError):
            raise _Broken("the answer broke off", sent=True) from None

    def _read(self, response: "Response", ask: _Ask) -> bytes:
        """Return the body, unpacked as its headers say; ApiError beyond the limit."""
        announced = response.headers.get("content-length", "")
        chunks: list[bytes] = []
        size = 0
        if announced.isdecimal() and len(announced) < 20 and int(announced) > ask.limit:  # noqa: PLR2004 - digits of 2^63
            raise self._too_large(ask, int(announced))
        for chunk in response.iter_content(_CHUNK):
            size += len(chunk)
            if size > ask.limit:
                raise self._too_large(ask, size)
            if time.monotonic() > ask.until:
                raise _Broken("the answer took too long", sent=True)
            chunks.append(chunk)
        return b"".join(chunks)

    def _authorize(self, request: "PreparedRequest") -> "PreparedRequest":
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request

    def _next(self, response: "Response", url: str) -> str:
        """Return the address of the next page; empty where it leads to another server."""
        target = urljoin(url, response.links.get("next", {}).get("url", ""))
        return target if target != url and _origin(target) == self._origin else ""

    # -- what went wrong --------------------------------------------------------------

    def _named(self, ask: _Ask) -> str:
        return f"{ask.method} {self._path(ask.url)}"

    def _no_answer(self, ask: _Ask, reason: str, tries: int) -> ApiError:
        return ApiError(
            f"GitHub's API at {self._told(urlsplit(self._url).netloc)} did not answer"
            f" {self._named(ask)}: {reason} ({_tries(tries)})",
            "check the network of the runner, GITHUB_API_URL, HTTPS_PROXY and NO_PROXY",
        )

    def _too_large(self, ask: _Ask, size: int) -> ApiError:
        return ApiError(
            f"the answer to {self._named(ask)} is {size} bytes or more; the limit is {ask.limit}",
            "nothing of it was used",
            status=200,
        )

    def _refused(self, ask: _Ask, answer: _Answer, tries: int) -> ApiError:
        said = self._said(answer)
        words = f"GitHub answered {self._named(ask)} with {answer.status}"
        words += f": {said}" if said else ""
        words += f" ({_tries(tries)})" if tries > 1 else ""
        return ApiError(words, _cure(answer), status=answer.status)

    def _said(self, answer: _Answer) -> str:
        """Return the service's own words on one line; empty where there are none."""
        try:
            document = json.loads(answer.body)
            words = [document["message"]]
            words += [
                each["message"] for each in document.get("errors", ())[:1] if "message" in each
            ]
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
            return ""
        return self._told("; ".join(str(each) for each in words))

    def _path(self, url: str) -> str:
        """Return the path of an address, without its query, in which there may be a signature."""
        base = urlsplit(self._url).path if _origin(url) == self._origin else ""
        return self._told(urlsplit(url).path.removeprefix(base))

    def _told(self, text: str) -> str:
        """Return foreign text for a message: one line, short, without the token."""
        if self._token:
            text = text.replace(self._token, "***")
        flat = "".join(c if c.isprintable() else " " for c in text).strip()
        return flat if len(flat) <= _MAX_TOLD else f"{flat[:_MAX_TOLD]} …"


_HEADERS: Final = {
    "Accept": "application/vnd.github+json",
    "X-GitHub-Api-Version": "2022-11-28",
    "User-Agent": f"ci-flame/{ci_flame.__version__}",
}


_CURES: Final = {
    401: "the token is missing, wrong or expired: input github-token",
    404: "it is not there, or the token may not see it: look at `permissions:`",
    410: "it was deleted or has expired",
    422: "the request does not fit what is there; nothing was changed",
}


_NEEDED: Final = (
    "that this needs (actions: read for stored runs, pull-requests: write for comments)"
)


def _cure(answer: _Answer) -> str:
    if _limited(answer):
        seconds = _asked_wait(answer)
        when = f" in {seconds:.0f} s" if seconds is not None and seconds < _HOUR_S else " later"
        return f"the rate limit is used up; run the job again{when}"
    if answer.status == 403:  # noqa: PLR2004 - of HTTP
        wanted = answer.headers.get("x-accepted-github-permissions", "")
        told = wanted.replace("=", ": ") if _PERMISSIONS.fullmatch(wanted) else _NEEDED
        return f"give the job the permission {told}"
    if answer.status >= 500:  # noqa: PLR2004 - of HTTP
        return "the service has trouble; run the job again later"
    return _CURES.get(answer.status, "is GITHUB_API_URL the API of a GitHub server?")


def _anonymous(request: "PreparedRequest") -> "PreparedRequest":
    """Send no credentials, and let requests look for none in ~/.netrc."""
    request.headers.pop("Authorization", None)
    return request


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        port = 0
    return parts.scheme, (parts.hostname or "").lower(), port


def _may_follow(url: str, target: str) -> bool:
    """Tell whether a redirection leads to a server, and not from https to http."""
    one, other = urlsplit(url), _origin(target)
    return bool(other[1]) and other[0] in (
        {"https"} if one.scheme == "https" else {"http", "https"}
    )


def _never_connected(error: BaseException) -> bool:
    """Tell whether a failed request never left: the name unknown, the connection refused."""
    from urllib3.exceptions import NewConnectionError

    seen: list[object] = [error]
    while seen:
        each = seen.pop()
        if isinstance(each, NewConnectionError):
            return True
        if isinstance(each, BaseException):
            seen += [*each.args, getattr(each, "reason", None)]
    return False


def _pause(number: int) -> float:
    """Return the seconds before the next try: 1, 2, 4."""
    return min(MAX_WAIT_S, 2.0 ** (number - 1))


def _wait_of(answer: _Answer, method: str, number: int) -> float | None:
    """Return the seconds after which to try again; None where that is of no use."""
    asked = _asked_wait(answer)
    if _limited(answer):
        # Nothing was done, so that any method may be sent again.
        pause = _pause(number) if asked is None else asked
        return pause if pause <= MAX_WAIT_S else None
    if answer.status not in _AGAIN or method not in _SAFE:
        return None
    pause = max(_pause(number), asked or 0)
    return pause if pause <= MAX_WAIT_S else None


def _limited(answer: _Answer) -> bool:
    """Tell whether the rate limit is used up: GitHub says 403 for that, too."""
    if answer.status == 429:  # noqa: PLR2004 - of HTTP
        return True
    headers = answer.headers
    used_up = headers.get("x-ratelimit-remaining", "").strip() == "0"
    return answer.status == 403 and (used_up or "retry-after" in headers)  # noqa: PLR2004 - of HTTP


def _asked_wait(answer: _Answer) -> float | None:
    """Return the seconds that the service asks for; None where it asks for nothing clear."""
    after = answer.headers.get("retry-after", "").strip()
    if after.isascii() and after.isdecimal():
        return float(after[:20])
    if after:
        return _until_date(after)
    reset = answer.headers.get("x-ratelimit-reset", "").strip()
    used_up = answer.headers.get("x-ratelimit-remaining", "").strip() == "0"
    if used_up and reset.isascii() and reset.isdecimal():
        return max(0.0, float(reset[:20]) - time.time())
    return None


def _until_date(text: str) -> float | None:
    """Return the seconds until a date of HTTP."""
    from email.utils import parsedate_to_datetime

    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError, TypeError):
        return None


def _tries(number: int) -> str:
    return f"tried {number} times" if number > 1 else "tried once"
