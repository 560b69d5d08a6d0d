"""One comment per key: found, written, brought up to date, and single whoever writes beside us."""

import json
import threading
from dataclasses import replace
from itertools import combinations

import pytest
from fake_github import BOT, FakeGitHub
from test_github_comment import BUILD, told
from verdicts import failing, passing, verdict

from ci_flame.github.api import Api, ApiError
from ci_flame.github.comment import Stamp, read_stamp, render, stamp_of
from ci_flame.github.sticky import Comments, Done, author_of

REPOSITORY = "acme/demo"
BROKEN, CLEAN = told(verdict(failing())), told(verdict(passing()))
OTHER = {"login": "mallory", "type": "User", "id": 7}


def build(run=12, attempt=1, key="bench", code=1):
    return replace(BUILD, run_id=run, run_attempt=attempt, key=key, exit_code=code)


@pytest.fixture
def github():
    with FakeGitHub(REPOSITORY) as server:
        yield server


def comments(github, rights="rw", author=BOT["login"]):
    return Comments(Api(github.api_url, rights), REPOSITORY, 7, author)


def test_a_comment_is_created_once_and_then_brought_up_to_date(github):
    first = comments(github).tell(BROKEN, build(12), "auto")
    (one,) = github.comments

    assert first.done is Done.CREATED
    assert first.url == one["html_url"]
    assert read_stamp(one["body"]) == Stamp("bench", 12, 1, "fail")

    second = comments(github).tell(CLEAN, build(13, code=0), "auto")

    assert (second.done, second.url) == (Done.UPDATED, first.url)
    assert github.comments == [one]
    assert "It is mended." in one["body"]
    assert read_stamp(one["body"]).run_id == 13


def test_a_clean_build_is_silent_until_something_was_told(github):
    assert comments(github).tell(CLEAN, build(code=0), "auto").done is Done.SILENT
    assert comments(github).tell(None, build(code=3), "auto").done is Done.SILENT
    assert github.comments == []
    assert comments(github).tell(CLEAN, build(code=0), "always").done is Done.CREATED


def test_never_asks_nothing(github):
    assert comments(github).tell(BROKEN, build(), "never").done is Done.SILENT
    assert github.requests == []


def test_an_older_build_leaves_what_a_newer_one_wrote(github):
    comments(github).tell(BROKEN, build(13), "auto")
    body = github.comments[0]["body"]

    for run, attempt in ((12, 1), (12, 9)):
        assert comments(github).tell(CLEAN, build(run, attempt), "always").done is Done.OLDER
    assert github.comments[0]["body"] == body

    assert comments(github).tell(CLEAN, build(13, 2), "auto").done is Done.UPDATED
    assert read_stamp(github.comments[0]["body"]).run_attempt == 2


def test_a_build_does_not_write_twice_over_itself(github):
    comments(github).tell(BROKEN, build(), "auto")
    asked = len(github.asked("PATCH"))

    again = comments(github).tell(BROKEN, replace(build(), foreign=True, distance=0), "auto")

    assert again.done is Done.UNCHANGED
    assert len(github.asked("PATCH")) == asked


@pytest.mark.parametrize(
    ("first", "second", "left"),
    [
        (BROKEN, CLEAN, "fail"),
        (CLEAN, BROKEN, "fail"),
        (BROKEN, None, "fail"),
        (None, BROKEN, "fail"),
        (CLEAN, None, "error"),
        (None, CLEAN, "error"),
    ],
)
def test_of_two_legs_of_one_name_the_worse_is_told(github, first, second, left):
    for outcome in (first, second):
        comments(github).tell(outcome, build(), "always")

    (one,) = github.comments
    assert read_stamp(one["body"]).outcome == left


def test_keys_have_comments_of_their_own(github):
    for key in ("bench_3.11", "bench_3.12", "bench_3.1"):
        assert comments(github).tell(BROKEN, build(key=key), "auto").done is Done.CREATED

    assert [read_stamp(each["body"]).key for each in github.comments] == [
        "bench_3.11",
        "bench_3.12",
        "bench_3.1",
    ]


def test_a_strangers_comment_with_our_first_line_is_never_touched(github):
    forged = github.add_comment(7, render(CLEAN, build(99)), OTHER)
    body = forged["body"]

    assert comments(github).tell(BROKEN, build(12), "auto").done is Done.CREATED
    assert forged["body"] == body
    assert len(github.comments) == 2


def test_a_comment_far_down_is_found(github):
    for n in range(250):
        github.add_comment(7, f"talk {n}", OTHER)
    comments(github).tell(BROKEN, build(12), "auto")
    github.add_comment(7, "more talk", OTHER)

    assert comments(github).tell(BROKEN, build(13), "auto").done is Done.UPDATED
    assert sum(each["user"] == BOT for each in github.comments) == 1
    pages = [each.query.get("page") for each in github.asked("GET", r".*/issues/7/comments")]
    assert pages.count("3") >= 2


@pytest.mark.parametrize("status", [404, 410])
def test_a_comment_that_was_deleted_meanwhile_is_written_again(github, status):
    comments(github).tell(BROKEN, build(12), "auto")
    github.fault("PATCH", r".*", status=status)
    github.comments.clear()
    github.add_comment(7, render(BROKEN, build(12)))

    assert comments(github).tell(BROKEN, build(13), "auto").done is not Done.UNCHANGED
    assert read_stamp(github.comments[0]["body"]).run_id in {12, 13}


def test_an_edit_in_the_browser_changes_nothing(github):
    comments(github).tell(BROKEN, build(12), "auto")
    github.comments[0]["body"] = github.comments[0]["body"].replace("\n", "\r\n")

    assert comments(github).tell(BROKEN, build(13), "auto").done is Done.UPDATED
    assert len(github.comments) == 1


def test_leftover_duplicates_are_removed_and_later_ones_kept(github):
    ids = [github.add_comment(7, render(BROKEN, build(run)))["id"] for run in (10, 11, 9)]

    assert comments(github).tell(CLEAN, build(12), "auto").done is Done.UPDATED
    assert [each["id"] for each in github.comments] == ids[:1]
    assert read_stamp(github.comments[0]["body"]).run_id == 12


@pytest.mark.parametrize("token", ["ro", "wrong"])
def test_what_github_refuses_is_said_with_its_status(github, token):
    with pytest.raises(ApiError) as caught:
        comments(github, token).tell(BROKEN, build(), "auto")

    assert caught.value.status == {"ro": 403, "wrong": 401}[token]
    assert github.comments == []


def test_who_writes_is_asked_and_else_taken_for_the_workflow(github):
    def answer(body):
        github.faults.clear()
        github.fault("POST", "/graphql", status=200, body=json.dumps(body).encode())
        return author_of(Api(github.api_url, "rw"))

    assert answer({"data": {"viewer": {"login": "perf-app[bot]"}}}) == "perf-app[bot]"
    assert answer({"data": None, "errors": [{"message": "no"}]}) == BOT["login"]
    assert answer([]) == BOT["login"]
    github.faults.clear()
    github.fault("POST", "/graphql", status=403)
    assert author_of(Api(github.api_url, "rw")) == BOT["login"]


# ---- two builds at once: every order of their requests ----


class Memory:
    """The comments of one pull request, as GitHub keeps them; each call is one request."""

    def __init__(self):
        self.kept = {}
        self.next = 0

    def pages(self, _path, **_query):
        return [
            {"id": number, "body": body, "html_url": f"u{number}", "user": BOT}
            for number, body in sorted(self.kept.items())
        ]

    def send(self, method, path, body):
        number = int(path.rpartition("/")[2]) if method != "POST" else None
        if method == "POST":
            self.next += 1
            self.kept[self.next] = body["body"]
            return {"id": self.next, "body": body["body"], "html_url": f"u{self.next}"}
        if number not in self.kept:
            raise ApiError("gone", status=404)
        if method == "DELETE":
            del self.kept[number]
        else:
            self.kept[number] = body["body"]
        return None


class Turns:
    """Lets two builds send their requests in a given order: a real thread each, one at a time."""

    def __init__(self, memory, order):
        self.memory = memory
        self.order = list(order)
        self.changed = threading.Condition()
        self.over = set()

    def wait(self, name):
        with self.changed:
            ready = self.changed.wait_for(
                lambda: next((each for each in self.order if each not in self.over), name) == name,
                timeout=20,
            )
            assert ready, "nobody's turn"
            if name in self.order:
                self.order.remove(name)

    def done(self, name):
        with self.changed:
            self.over.add(name)
            self.changed.notify_all()

    def api(self, name):
        turns = self

        class Asked:
            def pages(self, path, **query):
                return turns.one(name, lambda: turns.memory.pages(path, **query))

            def send(self, method, path, body):
                return turns.one(name, lambda: turns.memory.send(method, path, body))

        return Asked()

    def one(self, name, do):
        self.wait(name)
        with self.changed:
            try:
                return do()
            finally:
                self.changed.notify_all()


ORDERS = [
    "".join("A" if n in places else "B" for n in range(8)) for places in combinations(range(8), 4)
]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("first", "second"), [(12, 13), (13, 12)])
def test_two_builds_at_once_leave_one_comment_of_the_later(order, first, second):
    memory = Memory()

    both(memory, order, first, second)

    (left,) = memory.kept.values()
    assert read_stamp(left) == stamp_of(BROKEN, build(13))


@pytest.mark.parametrize("order", ["AABB", "ABAB", "ABBA", "BAAB", "BABA", "BBAA"])
@pytest.mark.parametrize("earlier", [[11], [11, 10], [10, 11, 9]])
def test_two_builds_at_once_leave_one_comment_where_there_was_one(order, earlier):
    """The older may still be the last to write: GitHub cannot replace what nobody else changed."""
    memory = Memory()
    for run in earlier:
        memory.send("POST", "", {"body": render(BROKEN, build(run))})

    both(memory, order, 12, 13)

    ((number, left),) = memory.kept.items()
    assert number == 1
    assert read_stamp(left).run_id in {12, 13}
    if order in {"AABB", "BBAA"}:
        assert read_stamp(left).run_id == 13


def both(memory, order, first, second):
    """Let builds A and B tell the same key, their requests in this order."""
    turns = Turns(memory, order)
    failures = []

    def run(name, number):
        try:
            writer = Comments(turns.api(name), REPOSITORY, 7, BOT["login"])
            writer.tell(BROKEN, build(number), "auto")
        except BaseException as error:  # noqa: BLE001 - shown by the test
            failures.append(error)
        finally:
            turns.done(name)

    threads = [threading.Thread(target=run, args=each) for each in (("A", first), ("B", second))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failures == []
