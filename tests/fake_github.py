"""A GitHub of our own on 127.0.0.1: the REST API, the artifact service and its blob store.

    with FakeGitHub("acme/demo", tokens={"rw": "write", "ro": "read"}) as github:
        run = github.add_run(head_sha=sha, event="push", head_branch="main")
        github.add_artifact(run, "ci-flame-run-bench", zip_bytes)
        Api(github.api_url, "ro").get("/repos/acme/demo/actions/artifacts")
        github.requests                      # everything that was asked, in order
        github.comments                      # what was written

It is as strict as GitHub where that matters: no token is 401, a read token that writes is 403,
a blob that is asked for with an `Authorization` header is 400 (blobs are on another origin,
`localhost` instead of `127.0.0.1`), an expired artifact is 410, an artifact's name is taken once
per run, a comment of more than 65,536 characters is 422.

REST (`GET` unless said otherwise), below `/repos/OWNER/NAME`, lists with `Link` pagination:
`` (the repository), `/commits?sha=`, `/commits/SHA/pulls`, `/pulls`, `/pulls/N`,
`/actions/runs`, `/actions/runs/ID`, `/actions/runs/ID/artifacts`, `/actions/workflows/F/runs`,
`/actions/artifacts`, `/actions/artifacts/ID`, `/actions/artifacts/ID/zip` (302 to the blob),
`/issues/N/comments` (and POST), `/issues/comments/ID` (and PATCH, DELETE), POST `/check-runs`.

Artifacts are uploaded as the official action does it (Twirp `CreateArtifact`, blob `PUT`,
`FinalizeArtifact`; give the job `ACTIONS_RESULTS_URL=results_url` and
`ACTIONS_RUNTIME_TOKEN=runtime_token(run)`), or in one go by `PUT /_upload/RUN/NAME` with the zip
as the body (`?zip=false` for an un-zipped one,
`?overwrite=true` to replace one).

Faults are ordered: `github.fault("GET", r".*/actions/artifacts", status=503, times=2,
headers={"Retry-After": "0"})`; `drop="before"` closes without an answer, `drop="middle"` after half
of it. `github.down()` closes the port for good.
"""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import socket
import struct
import threading
import urllib.parse
from dataclasses import dataclass, field
from typing import Self

BOT = {"login": "github-actions[bot]", "type": "Bot", "id": 41898282}
MAX_COMMENT = 65536


@dataclass(frozen=True)
class Request:
    """One request as it arrived."""

    method: str
    path: str
    query: dict
    headers: dict
    body: bytes

    @property
    def token(self):
        return self.headers.get("authorization", "").partition(" ")[2]


@dataclass
class Fault:
    """What happens instead of an answer, `times` times."""

    method: str
    path: str
    status: int = 500
    headers: dict = field(default_factory=dict)
    body: bytes = b'{"message": "ordered by the test"}'
    drop: str = ""
    times: int = 1
    skip: int = 0
    """So many matching requests are answered as ever before."""


@dataclass
class Artifact:
    """An uploaded file."""

    id: int
    run: int
    name: str
    data: bytes
    digest: str
    mime: str = "application/zip"
    expired: bool = False
    final: bool = True


class FakeGitHub:
    """One repository on a server of its own."""

    def __init__(self, repository="acme/demo", *, repository_id=1001, tokens=None):
        self.repository = repository
        self.repository_id = repository_id
        self.default_branch = "main"
        self.workflow = ".github/workflows/perf.yml"
        self.tokens = {"rw": "write", "ro": "read"} if tokens is None else tokens
        self.runs = {}
        self.artifacts = []
        self.commits = {}
        """sha -> parents, newest first in the order of adding reversed."""
        self.pulls = []
        self.comments = []
        self.check_runs = []
        self.locked = set()
        """Numbers of issues where nobody may comment."""
        self.gone = set()
        """Numbers of issues that were deleted."""
        self.requests = []
        self.faults = []
        self._next = 1
        self._lock = threading.RLock()
        self._blocks = {}
        self._server = None

    # -- the server -------------------------------------------------------------------

    def __enter__(self) -> Self:
        handler = type("Handler", (_Handler,), {"github": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *_exc):
        self.down()

    def down(self):
        """Close the port: from here on nobody answers."""
        if self._server is not None:
            self._server.shutdown()
            self._server.hang_up()
            self._server.server_close()
            self._thread.join(10)
            self._server = None

    @property
    def api_url(self):
        return f"http://127.0.0.1:{self.port}"

    @property
    def results_url(self):
        return f"http://127.0.0.1:{self.port}/"

    @staticmethod
    def runtime_token(run):
        """An unsigned JWT as the upload action reads it."""

        def part(value):
            return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

        return f"{part({'alg': 'none'})}.{part({'scp': f'Actions.Results:{run}:{run}'})}.x"

    # -- what it knows ----------------------------------------------------------------

    def number(self):
        with self._lock:
            self._next += 1
            return self._next

    def add_commits(self, *shas):
        """A straight line, oldest first."""
        for number, sha in enumerate(shas):
            self.commits[sha] = list(shas[number - 1 : number])

    def add_run(self, run_id=None, **changes):
        """A run of the workflow; keywords replace what a push to main would have."""
        run_id = run_id or self.number()
        repository = {"id": self.repository_id, "full_name": self.repository}
        self.runs[run_id] = {
            "id": run_id,
            "run_attempt": 1,
            "event": "push",
            "status": "completed",
            "conclusion": "success",
            "head_branch": "main",
            "head_sha": "0" * 40,
            "path": self.workflow,
            "repository": repository,
            "head_repository": repository,
            "pull_requests": [],
            "html_url": f"{self.api_url}/{self.repository}/actions/runs/{run_id}",
            **changes,
        }
        return run_id

    def add_artifact(self, run, name, data, *, digest=None, expired=False, mime="application/zip"):
        """An artifact of a run; the digest is the right one unless told."""
        right = f"sha256:{hashlib.sha256(data).hexdigest()}"
        made = Artifact(
            self.number(), run, name, data, right if digest is None else digest, mime, expired
        )
        self.artifacts.append(made)
        return made.id

    def add_pull(self, number, **changes):
        """An open pull request of this repository."""
        repository = {"id": self.repository_id, "full_name": self.repository}
        head = {"ref": "topic", "sha": "1" * 40, "repo": repository}
        base = {"ref": "main", "sha": "0" * 40, "repo": repository}
        self.pulls.append(
            {"number": number, "state": "open", "head": head, "base": base, **changes}
        )

    def add_comment(self, number, body, user=None, **changes):
        """A comment that is there already."""
        made = {"id": self.number(), "issue": number, "body": body, "user": user or BOT, **changes}
        made["html_url"] = f"{self.api_url}/{self.repository}/pull/{number}#{made['id']}"
        self.comments.append(made)
        return made

    def fault(self, method, path, **details):
        """Answer the next matching requests otherwise; `path` is a regular expression."""
        self.faults.append(Fault(method, path, **details))

    def asked(self, method=None, path=".*"):
        """The requests that match."""
        return [
            each
            for each in self.requests
            if method in (None, each.method) and re.fullmatch(path, each.path)
        ]

    def artifact_json(self, each):
        run = self.runs[each.run]
        return {
            "id": each.id,
            "name": each.name,
            "size_in_bytes": len(each.data),
            "expired": each.expired,
            "digest": each.digest,
            "created_at": "2026-01-01T00:00:00Z",
            "archive_download_url": (
                f"{self.api_url}/repos/{self.repository}/actions/artifacts/{each.id}/zip"
            ),
            "workflow_run": {
                "id": each.run,
                "repository_id": run["repository"]["id"],
                "head_repository_id": (run["head_repository"] or {}).get("id"),
                "head_branch": run["head_branch"],
                "head_sha": run["head_sha"],
            },
        }


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, *words):
        super().__init__(*words)
        self.live = set()

    def process_request(self, request, client_address):
        self.live.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request):
        self.live.discard(request)
        super().shutdown_request(request)

    def hang_up(self):
        """End connections that clients keep for their next request."""
        for request in tuple(self.live):
            with contextlib.suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request, client_address):
        """A client that goes away is no news."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 20
    github: FakeGitHub

    def log_message(self, *_words):
        pass

    def answer(self, status, document=None, *, data=None, mime="application/json", headers=()):
        body = data if data is not None else b"" if document is None else json.dumps(document)
        body = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        if "content-length" not in {name.lower() for name in dict(headers)}:
            self.send_header("Content-Length", str(len(body)))
        if "content-type" not in {name.lower() for name in dict(headers)}:
            self.send_header("Content-Type", mime)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def read_body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while length := int(self.rfile.readline(), 16):
                body += self.rfile.read(length)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def handle_any(self):
        body = self.read_body()
        parts = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(parts.query))
        headers = {name.lower(): value for name, value in self.headers.items()}
        asked = Request(self.command, urllib.parse.unquote(parts.path), query, headers, body)
        with self.github._lock:
            self.github.requests.append(asked)
            fault = self.ordered(asked)
        if fault is not None:
            self.fail(fault)
            return
        with self.github._lock:
            self.route(asked)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = handle_any  # noqa: N815

    def ordered(self, asked):
        for fault in self.github.faults:
            matches = asked.method == fault.method and re.fullmatch(fault.path, asked.path)
            if matches and fault.skip:
                fault.skip -= 1
            elif matches and fault.times:
                fault.times -= 1
                return fault
        return None

    def fail(self, fault):
        if fault.drop == "middle":
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b'{"total_count":')
            self.wfile.flush()
        if fault.drop:
            # SO_LINGER of 0 s: the other side sees a reset, not an orderly end.
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.close_connection = True
            self.connection.close()
            return
        self.answer(fault.status, data=fault.body, headers=fault.headers)

    # -- routes -----------------------------------------------------------------------

    def route(self, asked):
        for pattern, handler in ROUTES:
            found = re.fullmatch(pattern, asked.path)
            if found:
                handler(self, asked, *found.groups())
                return
        prefix = f"/repos/{self.github.repository}"
        if asked.path.lower() != prefix.lower() and not asked.path.lower().startswith(f"{prefix}/"):
            self.answer(404, {"message": "Not Found"})
            return
        rights = self.github.tokens.get(asked.token)
        if rights is None:
            self.answer(401, {"message": "Bad credentials"})
            return
        if asked.method not in ("GET", "HEAD") and rights != "write":
            headers = {"X-Accepted-GitHub-Permissions": "issues=write; pull_requests=write"}
            told = {"message": "Resource not accessible by integration"}
            self.answer(403, told, headers=headers)
            return
        inside = asked.path[len(prefix) :]
        for method, pattern, handler in REST:
            found = re.fullmatch(pattern, inside)
            if found and method == asked.method:
                handler(self, asked, *found.groups())
                return
        self.answer(404, {"message": "Not Found"})

    def listed(self, asked, entries, key=""):
        per_page = min(100, int(asked.query.get("per_page", 30)))
        page = int(asked.query.get("page", 1))
        shown = entries[per_page * (page - 1) : per_page * page]
        headers = {}
        if len(entries) > per_page * page:
            query = urllib.parse.urlencode({**asked.query, "page": page + 1})
            headers["Link"] = f'<{self.github.api_url}{asked.path}?{query}>; rel="next"'
        document = {"total_count": len(entries), key: shown} if key else shown
        self.answer(200, document, headers=headers)

    # -- artifacts --------------------------------------------------------------------

    def twirp(self, asked, method):
        told = json.loads(asked.body)
        run, name = int(told["workflow_run_backend_id"]), told.get("name")
        mine = [each for each in self.github.artifacts if each.run == run]
        one = next((each for each in mine if each.name == name), None)
        if method == "CreateArtifact":
            if one is not None:
                self.answer(409, {"code": "already_exists", "msg": "the name is taken"})
                return
            mime = told.get("mime_type") or "application/zip"
            mime = mime if isinstance(mime, str) else mime.get("value", "application/zip")
            one = Artifact(self.github.number(), run, name, b"", "", mime, final=False)
            self.github.artifacts.append(one)
            self.answer(200, {"ok": True, "signed_upload_url": self.blob_url(one)})
        elif method == "FinalizeArtifact" and one:
            one.final = True
            one.digest = f"sha256:{hashlib.sha256(one.data).hexdigest()}"
            self.answer(200, {"ok": True, "artifact_id": str(one.id)})
        elif method == "ListArtifacts":
            wanted = told.get("name_filter")
            found = [each for each in mine if each.final and wanted in (None, each.name)]
            self.answer(
                200,
                {
                    "artifacts": [
                        {
                            "workflow_run_backend_id": str(run),
                            "workflow_job_run_backend_id": str(run),
                            "database_id": str(each.id),
                            "name": each.name,
                            "size": str(len(each.data)),
                            "created_at": "2026-01-01T00:00:00Z",
                            "digest": each.digest,
                        }
                        for each in found
                    ]
                },
            )
        elif method == "GetSignedArtifactURL" and one:
            self.answer(200, {"signed_url": self.blob_url(one)})
        else:
            self.answer(404, {"code": "not_found", "msg": method})

    def blob_url(self, artifact):
        return f"http://localhost:{self.github.port}/blob/{artifact.id}?sig=secret-signature"

    def blob(self, asked, number):
        one = next(each for each in self.github.artifacts if each.id == int(number))
        if asked.method == "PUT":
            step = asked.query.get("comp")
            if step == "block":
                self.github._blocks[number, asked.query["blockid"]] = asked.body
            elif step == "blocklist":
                names = re.findall(r"<Latest>([^<]+)</Latest>", asked.body.decode())
                one.data = b"".join(self.github._blocks.pop((number, each)) for each in names)
            else:
                one.data = asked.body
            self.answer(201)
        elif "authorization" in asked.headers:
            self.answer(400, data=b"no Authorization on a signed address", mime="text/plain")
        elif asked.query.get("sig") != "secret-signature":
            self.answer(403, data=b"not signed", mime="text/plain")
        else:
            self.answer(200, data=one.data, mime=one.mime)

    def upload(self, asked, run, name):
        taken = [
            each for each in self.github.artifacts if each.run == int(run) and each.name == name
        ]
        if taken and asked.query.get("overwrite") == "true":
            self.github.artifacts.remove(taken.pop())
        if taken:
            self.answer(409, {"message": "the name is taken"})
            return
        mime = "text/html" if asked.query.get("zip") == "false" else "application/zip"
        number = self.github.add_artifact(int(run), name, asked.body, mime=mime)
        url = f"{self.github.api_url}/{self.github.repository}/actions/runs/{run}"
        self.answer(201, {"id": number, "url": f"{url}/artifacts/{number}"})

    def artifacts_of_run(self, asked, number):
        if int(number) not in self.github.runs:
            self.answer(404, {"message": "Not Found"})
            return
        self.list_artifacts(asked, int(number))

    def list_artifacts(self, asked, run=None):
        name = asked.query.get("name")
        found = [
            self.github.artifact_json(each)
            for each in sorted(self.github.artifacts, key=lambda each: -each.id)
            if each.final and run in (None, each.run) and name in (None, each.name)
        ]
        self.listed(asked, found, "artifacts")

    def one_artifact(self, _asked, number):
        one = next((each for each in self.github.artifacts if each.id == int(number)), None)
        if one is None:
            self.answer(404, {"message": "Not Found"})
        else:
            self.answer(200, self.github.artifact_json(one))

    def artifact_zip(self, _asked, number):
        one = next((each for each in self.github.artifacts if each.id == int(number)), None)
        if one is None:
            self.answer(404, {"message": "Not Found"})
        elif one.expired:
            self.answer(410, {"message": "Artifact has expired"})
        else:
            self.answer(302, headers={"Location": self.blob_url(one)})

    # -- runs, commits, pull requests ---------------------------------------------------

    def list_runs(self, asked, workflow=None):
        runs = [
            run
            for run in sorted(self.github.runs.values(), key=lambda run: -run["id"])
            if all(
                asked.query.get(name) in (None, run[field])
                for name, field in (
                    ("branch", "head_branch"),
                    ("event", "event"),
                    ("head_sha", "head_sha"),
                    ("status", "conclusion"),
                )
            )
            and (workflow is None or run["path"].rpartition("/")[2] == workflow)
        ]
        self.listed(asked, runs, "workflow_runs")

    def one_run(self, _asked, number):
        run = self.github.runs.get(int(number))
        self.answer(200, run) if run else self.answer(404, {"message": "Not Found"})

    def list_commits(self, asked):
        start = asked.query.get("sha", "")
        if start not in self.github.commits:
            self.answer(404, {"message": f"No commit found for SHA: {start}"})
            return
        # As git log lists them: every ancestor, those of merged branches too, newest first.
        seen, found = {start}, [start]
        for sha in found:
            for parent in self.github.commits.get(sha, ()):
                if parent not in seen and parent in self.github.commits:
                    seen.add(parent)
                    found.append(parent)
        age = {sha: number for number, sha in enumerate(self.github.commits)}
        found.sort(key=lambda sha: -age[sha])
        listed = [
            {"sha": sha, "parents": [{"sha": each} for each in self.github.commits[sha]]}
            for sha in found
        ]
        self.listed(asked, listed)

    def pulls_of_commit(self, asked, sha):
        self.listed(asked, [each for each in self.github.pulls if each["head"]["sha"] == sha])

    def list_pulls(self, asked):
        state, head = asked.query.get("state", "open"), asked.query.get("head")
        found = [
            each
            for each in self.github.pulls
            if state in ("all", each["state"])
            and head in (None, f"{_owner(each)}:{each['head']['ref']}")
        ]
        self.listed(asked, found)

    def one_pull(self, _asked, number):
        found = next((each for each in self.github.pulls if each["number"] == int(number)), None)
        self.answer(200, found) if found else self.answer(404, {"message": "Not Found"})

    def the_repository(self, _asked):
        github = self.github
        self.answer(
            200,
            {
                "id": github.repository_id,
                "full_name": github.repository,
                "default_branch": github.default_branch,
            },
        )

    # -- comments -----------------------------------------------------------------------

    def list_comments(self, asked, number):
        if int(number) in self.github.gone:
            self.answer(404, {"message": "Not Found"})
            return
        self.listed(asked, [each for each in self.github.comments if each["issue"] == int(number)])

    def add_comment(self, asked, number):
        if int(number) in self.github.gone:
            self.answer(410, {"message": "This issue was deleted"})
            return
        if int(number) in self.github.locked:
            self.answer(403, {"message": "Unable to create comment because issue is locked."})
            return
        body = self.comment_body(asked)
        if body is not None:
            self.answer(201, self.github.add_comment(int(number), body))

    def one_comment(self, asked, number):
        found = next((each for each in self.github.comments if each["id"] == int(number)), None)
        if found is None:
            self.answer(404, {"message": "Not Found"})
        elif asked.method == "DELETE":
            self.github.comments.remove(found)
            self.answer(204)
        elif asked.method == "PATCH":
            body = self.comment_body(asked)
            if body is not None:
                found["body"] = body
                self.answer(200, found)
        else:
            self.answer(200, found)

    def comment_body(self, asked):
        body = json.loads(asked.body)["body"]
        if len(body) <= MAX_COMMENT and body:
            return body
        error = {"message": f"body is too long (maximum is {MAX_COMMENT} characters)"}
        self.answer(422, {"message": "Validation Failed", "errors": [error]})
        return None

    def add_check_run(self, asked):
        made = {"id": self.github.number(), **json.loads(asked.body)}
        self.github.check_runs.append(made)
        self.answer(201, made)


def _owner(pull):
    return ((pull["head"]["repo"] or {}).get("full_name") or "").partition("/")[0]


ROUTES = [
    (r"/twirp/github\.actions\.results\.api\.v1\.ArtifactService/(\w+)", _Handler.twirp),
    (r"/blob/(\d+)", _Handler.blob),
    (r"/_upload/(\d+)/([^/]+)", _Handler.upload),
]
REST = [
    ("GET", "", _Handler.the_repository),
    ("GET", r"/commits", _Handler.list_commits),
    ("GET", r"/commits/(\w+)/pulls", _Handler.pulls_of_commit),
    ("GET", r"/pulls", _Handler.list_pulls),
    ("GET", r"/pulls/(\d+)", _Handler.one_pull),
    ("GET", r"/actions/runs", _Handler.list_runs),
    ("GET", r"/actions/runs/(\d+)", _Handler.one_run),
    ("GET", r"/actions/runs/(\d+)/artifacts", _Handler.artifacts_of_run),
    ("GET", r"/actions/workflows/([\w.-]+)/runs", _Handler.list_runs),
    ("GET", r"/actions/artifacts", _Handler.list_artifacts),
    ("GET", r"/actions/artifacts/(\d+)", _Handler.one_artifact),
    ("GET", r"/actions/artifacts/(\d+)/zip", _Handler.artifact_zip),
    ("GET", r"/issues/(\d+)/comments", _Handler.list_comments),
    ("POST", r"/issues/(\d+)/comments", _Handler.add_comment),
    ("GET", r"/issues/comments/(\d+)", _Handler.one_comment),
    ("PATCH", r"/issues/comments/(\d+)", _Handler.one_comment),
    ("DELETE", r"/issues/comments/(\d+)", _Handler.one_comment),
    ("POST", r"/check-runs", _Handler.add_check_run),
]
