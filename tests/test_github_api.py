"""The REST client against a GitHub of our own: every status, every broken answer, the token."""

import gzip
import json
import logging
import socket
import threading

import pytest
from fake_github import FakeGitHub

from ci_flame.github import api as api_module
from ci_flame.github.api import Api, ApiError

SECRET = "ghs_GeheimesWort0123456789"  # noqa: S105 - made up
RUNS = r"/repos/acme/demo/actions/runs"


@pytest.fixture
def github():
    with FakeGitHub(tokens={SECRET: "write", "ro": "read"}) as server:
        yield server


@pytest.fixture(autouse=True)
def slept(monkeypatch):
    """Waits are noted, not waited for."""
    waits = []
    monkeypatch.setattr(api_module.time, "sleep", waits.append)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return waits


def refused(call):
    with pytest.raises(ApiError) as caught:
        call()
    return caught.value


def test_get_and_send(github):
    api = Api(github.api_url, SECRET)
    made = api.send("POST", "/repos/acme/demo/issues/7/comments", {"body": "grew"})
    changed = api.send("PATCH", f"/repos/acme/demo/issues/comments/{made['id']}", {"body": "fell"})
    gone = api.send("DELETE", f"/repos/acme/demo/issues/comments/{made['id']}", None)

    assert (made["body"], changed["body"], gone) == ("grew", "fell", None)
    assert api.get("/repos/acme/demo")["default_branch"] == "main"
    first = github.requests[0]
    assert first.headers["accept"] == "application/vnd.github+json"
    assert first.headers["user-agent"].startswith("ci-flame/")
    assert json.loads(first.body) == {"body": "grew"}


@pytest.mark.parametrize(("limit", "pages"), [(1000, 3), (200, 2), (201, 3), (100, 1), (5, 1)])
def test_pages_are_followed_as_far_as_needed(github, limit, pages):
    for number in range(250):
        github.add_comment(7, f"comment {number}")
    found = list(Api(github.api_url, "ro").pages("/repos/acme/demo/issues/7/comments", limit=limit))

    assert [each["body"] for each in found] == [f"comment {n}" for n in range(min(limit, 250))]
    assert len(github.requests) == pages


def test_pages_of_objects_name_their_list(github):
    run = github.add_run()
    github.add_artifact(run, "one", b"x")
    api = Api(github.api_url, "ro")
    names = [each["name"] for each in api.pages(f"{RUNS}/{run}/artifacts", "artifacts")]

    assert names == ["one"]
    told = refused(lambda: list(api.pages("/repos/acme/demo", "artifacts")))
    assert "something that is no list of artifacts" in told.message


def test_the_next_page_on_another_server_is_not_asked_for(github):
    for path in ("http://localhost:{}/x", "https://evil.example.org/x"):
        link = f'<{path.format(github.port)}>; rel="next"'
        github.fault("GET", RUNS, status=200, headers={"Link": link}, body=b"[1]")

        assert list(Api(github.api_url, SECRET).pages(RUNS)) == [1]


def test_pages_without_end_end(github, monkeypatch):
    monkeypatch.setattr(api_module, "MAX_PAGES", 3)
    url = f"{github.api_url}{RUNS}?page="
    for number in range(5):
        headers = {"Link": f'<{url}{number}>; rel="next"'}
        github.fault("GET", RUNS, status=200, headers=headers, body=b"[1]")

    assert list(Api(github.api_url, "ro").pages(RUNS)) == [1, 1, 1]


@pytest.mark.parametrize(
    ("status", "headers", "told", "cure", "tries"),
    [
        (401, {}, "with 401: no", "input github-token", 1),
        (403, {}, "with 403: no", "needs (actions: read for stored runs, pull-req", 1),
        (
            403,
            {"X-Accepted-GitHub-Permissions": "actions=read"},
            "with 403: no",
            "give the job the permission actions: read",
            1,
        ),
        (404, {}, "with 404: no", "the token may not see it", 1),
        (410, {}, "with 410: no", "deleted or has expired", 1),
        (422, {}, "with 422: no", "nothing was changed", 1),
        (418, {}, "with 418: no", "is GITHUB_API_URL the API", 1),
        (500, {}, "with 500: no (tried 4 times)", "has trouble", 4),
        (502, {}, "with 502: no (tried 4 times)", "has trouble", 4),
        (503, {"Retry-After": "5"}, "with 503: no (tried 4 times)", "has trouble", 4),
        (503, {"Retry-After": "31"}, "with 503: no", "has trouble", 1),
        (429, {"Retry-After": "30"}, "429: no (tried 4 times)", "run the job again in 30 s", 4),
        (429, {"Retry-After": "31"}, "with 429: no", "run the job again in 31 s", 1),
        (429, {"Retry-After": "9" * 400}, "with 429: no", "again later", 1),
        (429, {}, "with 429: no (tried 4 times)", "run the job again later", 4),
        (403, {"Retry-After": "2"}, "403: no (tried 4 times)", "rate limit is used up", 4),
        (
            403,
            {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "99999999999"},
            "with 403: no",
            "the rate limit is used up; run the job again later",
            1,
        ),
        (
            403,
            {"x-ratelimit-remaining": "0", "Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"},
            "403: no (tried 4 times)",
            "again in 0 s",
            4,
        ),
    ],
)
def test_every_status_is_one_sentence_and_a_cure(  # noqa: PLR0917 - one row of the table
    github, slept, status, headers, told, cure, tries
):
    github.fault("GET", RUNS, status=status, headers=headers, body=b'{"message": "no"}', times=9)
    error = refused(lambda: Api(github.api_url, "ro").get(RUNS))

    assert error.status == status
    assert error.message == f"GitHub answered GET {RUNS} {told[told.index('4') if 0 else 0 :]}" or (
        told in error.message
    )
    assert "\n" not in error.message
    assert cure in error.hint
    assert len(github.requests) == tries
    assert len(slept) == tries - 1
    assert all(wait <= api_module.MAX_WAIT_S for wait in slept)


def test_what_is_asked_for_is_waited_for(github, slept):
    github.fault("GET", RUNS, status=429, headers={"Retry-After": "7"})
    github.fault("GET", RUNS, status=503)
    github.fault("GET", RUNS, status=502)

    assert Api(github.api_url, "ro").get(RUNS)["total_count"] == 0
    assert slept == [7, 2, 4]


def test_waiting_ends_with_the_time_of_a_call(github, monkeypatch):
    monkeypatch.setattr(api_module, "CALL_S", 3.0)
    github.fault("GET", RUNS, status=429, headers={"Retry-After": "7"}, times=9)
    refused(lambda: Api(github.api_url, "ro").get(RUNS))

    assert len(github.requests) == 1


@pytest.mark.parametrize(
    ("fault", "tries"),
    [
        ({"status": 500}, 1),  # it may have been done
        ({"drop": "before"}, 1),
        ({"status": 429, "headers": {"Retry-After": "1"}}, 4),  # it was not
        ({"status": 403, "headers": {"Retry-After": "1"}}, 4),
    ],
)
def test_what_may_have_been_done_is_not_done_twice(github, fault, tries):
    path = "/repos/acme/demo/issues/7/comments"
    github.fault("POST", path, times=9, **fault)
    refused(lambda: Api(github.api_url, SECRET).send("POST", path, {"body": "x"}))

    assert len(github.requests) == tries


@pytest.mark.parametrize(
    ("drop", "told"),
    [("before", "the connection broke off"), ("middle", "broke off")],
)
def test_a_reset_is_tried_again_and_then_said(github, drop, told):
    github.fault("GET", RUNS, drop=drop, times=2)
    api = Api(github.api_url, "ro")

    assert api.get(RUNS)["total_count"] == 0
    github.fault("GET", RUNS, drop=drop, times=9)
    error = refused(lambda: api.get(RUNS))
    assert (error.status, told in error.message) == (0, True)
    assert "(tried 4 times)" in error.message
    assert "HTTPS_PROXY" in error.hint


def test_a_service_that_is_down_is_said(github):
    github.down()
    error = refused(lambda: Api(github.api_url, SECRET).send("POST", RUNS, {}))

    assert error.message == (
        f"GitHub's API at 127.0.0.1:{github.port} did not answer POST {RUNS}:"
        " it could not be connected to (tried 4 times)"
    )
    assert error.status == 0


def test_a_name_that_nobody_has_is_said():
    error = refused(lambda: Api("http://no-such-host.invalid", "rw").get("/x"))

    assert "no-such-host.invalid did not answer GET /x: it could not be connected to" in str(error)


@pytest.mark.parametrize(
    ("body", "kind", "told"),
    [
        (b"<html>login</html>", "text/html; charset=utf-8", "with text/html that is no JSON"),
        (b'{"a": ', "application/json", "with application/json that is no JSON"),
        (b"[" * 100_000, "application/json", "that is no JSON"),
        (b"\xff\xfe\x00", "", "that is no JSON"),
    ],
)
def test_what_is_no_json_is_said(github, body, kind, told):
    github.fault("GET", RUNS, status=200, body=body, headers={"Content-Type": kind})

    assert told in refused(lambda: Api(github.api_url, "ro").get(RUNS)).message


@pytest.mark.parametrize("announced", [True, False])
def test_an_answer_beyond_the_limit_is_given_up(github, monkeypatch, announced):
    monkeypatch.setattr(api_module, "MAX_JSON", 1000)
    body = json.dumps("x" * 998).encode()
    github.fault("GET", RUNS, status=200, body=body)
    api = Api(github.api_url, "ro")

    assert len(api.get(RUNS)) == 998
    big = json.dumps("x" * 999).encode()
    headers = {} if announced else {"Content-Encoding": "gzip"}
    data = big if announced else gzip.compress(big)
    github.fault("GET", RUNS, status=200, body=data, headers=headers)
    error = refused(lambda: api.get(RUNS))
    assert "is 1001 bytes or more; the limit is 1000" in error.message


def test_a_packed_bomb_is_given_up_on_the_way(github, monkeypatch):
    monkeypatch.setattr(api_module, "MAX_JSON", 1 << 20)
    bomb = gzip.compress(b" " * (64 << 20))
    assert len(bomb) < 1 << 20
    github.fault("GET", RUNS, status=200, body=bomb, headers={"Content-Encoding": "gzip"})

    assert "the limit is 1048576" in refused(lambda: Api(github.api_url, "ro").get(RUNS)).message


def test_an_answer_that_drips_is_given_up(monkeypatch):
    """Each byte is in time for the socket; all of them together are not."""
    monkeypatch.setattr(api_module, "CALL_S", 0.3)
    listener = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def drip():
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while not ended.wait(0.02):
                try:
                    connection.sendall(b"1\r\n \r\n")
                except OSError:
                    return

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        error = refused(lambda: Api(url, "ro").get("/x"))
    finally:
        ended.set()
        thread.join(10)
        listener.close()

    assert "the answer took too long (tried once)" in error.message


# -- the token --------------------------------------------------------------------------


def artifact(github):
    run = github.add_run()
    return github.add_artifact(run, "ci-flame-run-bench", b"PK-data")


def test_a_download_is_redirected_without_the_token(github, tmp_path, monkeypatch):
    """The blob is on localhost, the API on 127.0.0.1: another origin. ~/.netrc stays out of it."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine localhost login eve password x\n", encoding="utf-8")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    number = artifact(github)
    data = Api(github.api_url, SECRET).download(
        f"/repos/acme/demo/actions/artifacts/{number}/zip", 100
    )
    api, blob = github.requests

    assert data == b"PK-data"
    assert api.headers["authorization"] == f"Bearer {SECRET}"
    assert api.headers["host"].startswith("127.0.0.1:")
    assert blob.headers["host"].startswith("localhost:")
    assert "authorization" not in blob.headers


def test_netrc_does_not_replace_the_token(github, tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login eve password x\n", encoding="utf-8")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    Api(github.api_url, SECRET).get("/repos/acme/demo")

    assert github.requests[0].token == SECRET


@pytest.mark.parametrize(("limit", "fits"), [(7, True), (6, False)])
def test_a_download_has_a_limit(github, limit, fits):
    path = f"/repos/acme/demo/actions/artifacts/{artifact(github)}/zip"
    api = Api(github.api_url, "ro")

    if fits:
        assert api.download(path, limit) == b"PK-data"
    else:
        error = refused(lambda: api.download(path, limit))
        assert "is 7 bytes or more; the limit is 6" in error.message
        assert "secret-signature" not in str(error)


@pytest.mark.parametrize(
    ("location", "told"),
    [
        ("file:///etc/passwd", "to an address that is not followed"),
        ("ftp://127.0.0.1/x", "to an address that is not followed"),
        ("", "which is not followed"),
        ("/repos/acme/demo/actions/runs", "more than 5 times"),
    ],
)
def test_a_redirection_that_leads_nowhere_is_said(github, location, told):
    github.fault("GET", RUNS, status=302, headers={"Location": location}, times=9)

    assert told in refused(lambda: Api(github.api_url, "ro").get(RUNS)).message


def test_https_is_never_left_for_http():
    assert not api_module._may_follow("https://a.org/x", "http://a.org/x")
    assert api_module._may_follow("https://a.org/x", "https://b.org/x")
    assert api_module._may_follow("http://127.0.0.1:1/x", "https://b.org/x")


def test_a_renamed_repository_is_followed_with_the_token(github):
    github.fault("GET", "/repos/acme/old", status=301, headers={"Location": "/repos/acme/demo"})

    assert Api(github.api_url, SECRET).get("/repos/acme/old")["full_name"] == "acme/demo"
    assert [each.token for each in github.requests] == [SECRET, SECRET]


def test_writing_is_not_redirected(github):
    path = "/repos/acme/demo/issues/7/comments"
    github.fault("POST", path, status=307, headers={"Location": "http://localhost/x"})
    error = refused(lambda: Api(github.api_url, SECRET).send("POST", path, {"body": "x"}))

    assert "redirected POST" in error.message
    assert len(github.requests) == 1


def test_the_token_is_in_no_message_and_no_log(github, caplog, capfd):
    """Whatever goes wrong, and also where the service itself repeats the token."""
    caplog.set_level(logging.DEBUG)
    echo = json.dumps({"message": f"bad token {SECRET}", "errors": [{"message": SECRET}]}).encode()
    path = "/repos/acme/demo/issues/7/comments"
    api = Api(github.api_url, SECRET)
    told = []
    for status in (401, 403, 404, 410, 422, 429, 500):
        github.fault("POST", path, status=status, body=echo, times=4 if status == 429 else 1)
        told.append(refused(lambda: api.send("POST", path, {"body": "x"})))
    github.fault("POST", path, status=302, headers={"Location": f"http://x/{SECRET}"})
    told.append(refused(lambda: api.send("POST", path, {"body": "x"})))
    github.fault("GET", RUNS, status=200, headers={"Content-Type": SECRET}, body=b"<")
    told.append(refused(lambda: api.get(RUNS)))
    github.fault("GET", RUNS, status=404, body=echo)
    told.append(refused(lambda: api.get(RUNS)))
    github.down()
    told.append(refused(lambda: api.get(RUNS)))
    shown = "".join(f"{each} {each!r} {each.__cause__!r}" for each in told)
    shown += "".join(capfd.readouterr()) + caplog.text

    assert len(told) == 11
    assert "bad token ***; ***" in shown
    assert SECRET not in shown
    assert SECRET not in repr(vars(api)["_session"])


@pytest.mark.parametrize("token", ["two words", "line\nbreak", "ümlaut", "x" * 4097])
def test_a_token_that_is_none_is_refused_without_showing_it(token):
    error = refused(lambda: Api("http://127.0.0.1:1", token))

    assert token not in str(error)
    assert "github.token" in error.hint


def test_without_a_token_nothing_is_sent(github):
    error = refused(lambda: Api(github.api_url).get("/repos/acme/demo"))

    assert error.status == 401
    assert "authorization" not in github.requests[0].headers


def test_words_of_the_service_are_one_short_line(github):
    body = json.dumps({"message": "a\n::error::b\x1b[31m" + "x" * 500}).encode()
    github.fault("GET", RUNS, status=404, body=body)
    error = refused(lambda: Api(github.api_url, "ro").get(RUNS))

    assert error.message.isprintable()
    assert len(error.message) < 300


def test_a_proxy_that_is_not_there_is_said(github, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    monkeypatch.setenv("http_proxy", f"http://user:geheim@127.0.0.1:{port}")
    error = refused(lambda: Api("http://api.example.org", "t").get("/x"))

    assert "the proxy could not be reached or refused" in error.message
    assert "geheim" not in str(error)


def test_a_proxy_of_the_environment_is_used(monkeypatch):
    listener = socket.create_server(("127.0.0.1", 0))
    heard = []

    def answer():
        connection, _ = listener.accept()
        with connection:
            heard.append(connection.recv(65536).decode())
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    thread = threading.Thread(target=answer)
    thread.start()
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{listener.getsockname()[1]}")
    try:
        assert Api("http://api.example.org", "ro").get("/x") == {}
    finally:
        thread.join(10)
        listener.close()

    assert heard[0].startswith("GET http://api.example.org/x HTTP/1.1")
