"""A zip from elsewhere: what is read of it, and everything that is refused by name."""

import contextlib
import hashlib
import io
import json
import stat
import struct
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from fake_github import FakeGitHub
from hypothesis import given
from hypothesis import strategies as st
from synthetic import SHOP, synthetic_measurement, synthetic_run

from ci_flame.baseline import folder
from ci_flame.errors import BaselineError, FormatError
from ci_flame.github import artifacts
from ci_flame.github.api import Api, ApiError


def zipped(members, **options):
    """A zip of (name or ZipInfo, data) pairs."""
    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        warnings.simplefilter("ignore", UserWarning)  # a name that is there twice
        for name, data in members:
            archive.writestr(name, data, **options)
    return out.getvalue()


def info(name, mode=stat.S_IFREG | 0o644, system=3, **changes):
    made = zipfile.ZipInfo(name)
    made.external_attr = mode << 16
    made.create_system = system
    made.compress_type = zipfile.ZIP_DEFLATED
    for field, value in changes.items():
        setattr(made, field, value)
    return made


def everything(limit=1000):
    return lambda _name: limit


def refused(data, limit_of=None):
    with pytest.raises(FormatError) as caught:
        artifacts.unpack(data, "artifact 12", limit_of or everything())
    assert caught.value.message.startswith("artifact 12: ")
    assert caught.value.message.isprintable()
    return caught.value.message


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("run") / "run"
    folder.save(synthetic_run(synthetic_measurement(SHOP, processes=2, rounds=3)), place)
    return place


def zip_of(place, **options):
    files = sorted(each for each in place.rglob("*") if each.is_file())
    return zipped([(str(each.relative_to(place)), each.read_bytes()) for each in files], **options)


# -- what is read -------------------------------------------------------------------------


def test_only_what_is_wanted_is_read():
    data = zipped([("a/", ""), ("a/b.json", "1"), ("c.txt", "x" * 5000), ("d.json", "22")])
    found = artifacts.unpack(data, "z", lambda name: 10 if name.endswith(".json") else 0)

    assert found == {"a/b.json": b"1", "d.json": b"22"}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_run_folder_comes_back_as_it_was(run_folder, tmp_path, method):
    run = artifacts.read_run(zip_of(run_folder, compress_type=method), "artifact 12")
    artifacts.keep(run, tmp_path / "kept")

    assert run == folder.load(run_folder)
    assert folder.load(tmp_path / "kept") == run


def test_a_zip_that_was_streamed_is_read(run_folder):
    """As the upload action writes it: sizes behind the data, in descriptors."""

    class Pipe(io.RawIOBase):
        def __init__(self):
            self.data = b""

        def writable(self):
            return True

        def write(self, data):
            self.data += bytes(data)
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        for each in sorted(run_folder.rglob("*")):
            if each.is_file():
                archive.write(each, str(each.relative_to(run_folder)))

    assert artifacts.read_run(pipe.data, "z").commit == folder.load(run_folder).commit


def test_what_githubs_own_client_has_packed_is_read():
    """tests/data/README.md tells how: streamed, without sizes before the data."""
    data = (Path(__file__).parent / "data" / "github" / "run.zip").read_bytes()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert all(member.flag_bits & 8 for member in archive.infolist()), "with descriptors"
    run = artifacts.read_run(data, "artifact 12")

    assert [each.benchmark for each in run.measurements] == ["tests/bench_shop.py::test_checkout"]
    assert run.commit == "0123456789abcdef0123456789abcdef01234567"


# -- what is refused ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["../evil", "a/../../evil", "/etc/passwd", "..", ".", "a//b", "a/./b", "C:/x", "c:x", "a\\b"],
)
def test_a_name_that_leads_elsewhere_refuses_the_whole(name):
    told = refused(zipped([("ok.json", "1"), (name, "x")]))

    assert "would lead out of its folder" in told
    assert repr(name) in told


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[31m", "x" * 301, "a\u202eb"])
def test_a_name_that_is_none_refuses_the_whole(name):
    assert "has no name, or none that is a name" in refused(zipped([(name, "x")]))


def test_a_name_that_is_cut_by_a_zero_refuses_the_whole():
    data = zipped([("run.jsonXevil", "x")]).replace(b"run.jsonXevil", b"run.json\0evil")

    assert "none that is a name" in refused(data)


@pytest.mark.parametrize(("length", "good"), [(300, True), (301, False)])
def test_a_name_has_a_limit(length, good):
    data = zipped([("x" * length, "y")])

    if good:
        assert artifacts.unpack(data, "z", everything()) == {"x" * length: b"y"}
    else:
        refused(data)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK])
def test_a_link_or_a_device_refuses_the_whole(kind):
    data = zipped([("run.json", "1"), (info("link", kind | 0o777), "/etc/passwd")])

    assert refused(data) == "artifact 12: member 'link' is a link, a device or a pipe"


def test_attributes_of_another_system_are_no_mode():
    data = zipped([(info("a.json", stat.S_IFLNK | 0o777, system=0), "1")])

    assert artifacts.unpack(data, "z", everything()) == {"a.json": b"1"}


def test_a_name_twice_refuses_the_whole():
    assert "'a' is there twice" in refused(zipped([("a", "1"), ("a", "2")]))


def test_an_encrypted_member_refuses_the_whole():
    data = bytearray(zipped([("a", "secret")]))
    entry = data.rindex(b"PK\x01\x02")
    data[entry + 8] |= 1

    assert "member 'a' is encrypted" in refused(bytes(data))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_another_method_of_packing_refuses_the_whole(method):
    assert f"packed by method {method}" in refused(zipped([("a", "x")], compress_type=method))


@pytest.mark.parametrize(("size", "good"), [(1000, True), (1001, False)])
def test_a_member_has_a_limit(size, good):
    data = zipped([("a", "x" * size)])

    if good:
        assert len(artifacts.unpack(data, "z", everything())["a"]) == size
    else:
        assert "member 'a' has 1001 bytes; the limit is 1000" in refused(data)


@pytest.mark.parametrize(("count", "good"), [(5, True), (6, False)])
def test_members_are_counted(monkeypatch, count, good):
    monkeypatch.setattr(artifacts, "MAX_ENTRIES", 5)
    data = zipped([(f"m{number}", "x") for number in range(count)])

    if good:
        assert len(artifacts.unpack(data, "z", everything())) == 5
    else:
        assert "6 members; the limit is 5" in refused(data)


def test_members_that_the_end_does_not_count_are_counted(monkeypatch):
    """The end of the zip says 1; its list has six."""
    monkeypatch.setattr(artifacts, "MAX_ENTRIES", 5)
    data = bytearray(zipped([(f"m{number}", "x") for number in range(6)]))
    end = data.rindex(b"PK\x05\x06")
    struct.pack_into("<2H", data, end + 8, 1, 1)

    assert "6 members; the limit is 5" in refused(bytes(data))


def test_a_list_of_members_has_a_limit(monkeypatch):
    data = zipped([("a", "x")])
    size = struct.unpack_from("<L", data, data.rindex(b"PK\x05\x06") + 12)[0]
    monkeypatch.setattr(artifacts, "MAX_DIRECTORY", size)
    assert artifacts.unpack(data, "z", everything()) == {"a": b"x"}

    monkeypatch.setattr(artifacts, "MAX_DIRECTORY", size - 1)
    assert f"a list of members of {size} bytes" in refused(data)


@pytest.mark.parametrize(("size", "good"), [(20, True), (19, False)])
def test_all_members_together_have_a_limit(monkeypatch, size, good):
    monkeypatch.setattr(artifacts, "MAX_UNPACKED", size)
    data = zipped([("a", "x" * 10), ("b", "y" * 10)])

    if good:
        assert len(artifacts.unpack(data, "z", everything())) == 2
    else:
        assert "more than 19 bytes when unpacked" in refused(data)


def test_a_bomb_is_not_unpacked(monkeypatch):
    data = zipped([("run.json", b"\0" * (8 << 20))])
    told = refused(data, everything(1 << 30))

    assert "would grow from" in told
    assert "at most 300 times is read" in told
    monkeypatch.setattr(artifacts, "_SMALL", 8 << 20)
    assert len(artifacts.unpack(data, "z", everything(1 << 30))["run.json"]) == 8 << 20


def test_a_size_that_is_not_the_members_is_found():
    """More would come than is announced: the rest is never unpacked, and the check fails."""
    data = bytearray(zipped([("a", "x" * 500)]))
    entry = data.rindex(b"PK\x01\x02")
    struct.pack_into("<L", data, entry + 24, 10)

    assert "a broken or truncated zip" in refused(bytes(data))
    struct.pack_into("<L", data, entry + 24, 900)
    assert "zip" in refused(bytes(data)) or "announced" in refused(bytes(data))


def test_a_zip_for_large_files_is_refused():
    data = zipped([("a", "x")])
    end = data.rindex(b"PK\x05\x06")
    large = data[:end] + b"PK\x06\x07" + b"\0" * 16 + data[end:]

    assert "made for more than 4 GiB" in refused(large)


@pytest.mark.parametrize("data", [b"", b"PK", b"<html>", b"PK\x05\x06" + b"\0" * 17])
def test_what_is_no_zip_is_refused(data):
    assert "a broken or truncated zip" in refused(data)


def test_an_empty_zip_holds_nothing():
    assert artifacts.unpack(zipped([]), "z", everything()) == {}
    with pytest.raises(FormatError, match=r"holds no run\.json"):
        artifacts.read_run(zipped([]), "z")


def test_every_truncation_is_refused(run_folder):
    data = zip_of(run_folder)

    for length in range(0, len(data), max(1, len(data) // 40)):
        with pytest.raises(FormatError):
            artifacts.read_run(data[:length], "z")


@given(st.data())
def test_damage_is_refused_or_harmless(data):
    """A flipped byte gives the same files, or an error of ours; never a traceback."""
    whole = zipped([("run.json", "{}" * 40), ("profiles/a.on-cpu.pb.gz", "y" * 90)])
    place = data.draw(st.integers(0, len(whole) - 1))
    value = data.draw(st.integers(0, 255))
    damaged = whole[:place] + bytes([value]) + whole[place + 1 :]
    found = {}
    with contextlib.suppress(FormatError):
        found = artifacts.unpack(damaged, "z", everything())

    assert all(len(each) <= 1000 for each in found.values())


@given(st.binary(max_size=400))
def test_noise_is_refused(data):
    with pytest.raises(FormatError):
        artifacts.unpack(data, "z", everything())


# -- what is inside -------------------------------------------------------------------------


def test_a_run_with_files_that_nobody_knows_is_read_without_them(run_folder):
    files = [(str(each.relative_to(run_folder)), each.read_bytes())
             for each in run_folder.rglob("*") if each.is_file()]  # fmt: skip
    extra = [("README.md", "x"), ("evil.py", "import os"), ("profiles/.hidden", "x")]

    assert artifacts.read_run(zipped(files + extra), "z") == folder.load(run_folder)


def test_a_run_without_its_profile_is_refused(run_folder):
    data = zipped([("run.json", (run_folder / "run.json").read_bytes())])

    with pytest.raises(FormatError, match=r"z/profiles/.*: it is not in the zip"):
        artifacts.read_run(data, "z")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"complete": False}, "was interrupted"),
        ({"measurements": ()}, "holds no benchmark"),
    ],
)
def test_a_run_that_may_be_no_before_side_is_refused(tmp_path, change, told):
    run = replace(synthetic_run(synthetic_measurement(SHOP, processes=2, rounds=3)), **change)
    folder.save(run, tmp_path / "run")

    with pytest.raises(BaselineError, match=told):
        artifacts.read_run(zip_of(tmp_path / "run"), "z")


def test_a_version_that_is_not_known_is_refused_by_name(run_folder):
    text = (run_folder / "run.json").read_text("utf-8")
    assert '"schema_version": 1' in text
    data = zipped([("run.json", text.replace('"schema_version": 1', '"schema_version": 9'))])

    with pytest.raises(FormatError, match="has format 9, this ci-flame reads 1"):
        artifacts.read_run(data, "z")


# -- from GitHub ------------------------------------------------------------------------------


@pytest.fixture
def github():
    with FakeGitHub() as server:
        yield server


def test_artifacts_are_listed_by_name_and_by_run(github):
    first, second = github.add_run(), github.add_run()
    for run in (first, second):
        github.add_artifact(run, "ci-flame-run-bench", b"x")
        github.add_artifact(run, "ci-flame-report-bench", b"y")
    api = Api(github.api_url, "ro")
    named = list(artifacts.listed(api, "acme/demo", "ci-flame-run-bench"))
    mine = artifacts.of_run(api, "acme/demo", first)

    assert [each.run_id for each in named] == [second, first]
    assert {each.name for each in mine} == {"ci-flame-run-bench", "ci-flame-report-bench"}


@pytest.mark.parametrize(
    ("entries", "read"),
    [
        ([], 0),
        ([{"id": 7, "name": "ci-flame-run-bench"}], 1),
        ([{"id": 7, "name": "ci-flame-run-bench"}, "what is this"], 1),
        (["what is this", {"id": "seven"}], None),
    ],
)
def test_a_list_of_no_artifacts_is_no_empty_list(github, entries, read):
    body = json.dumps({"total_count": len(entries), "artifacts": entries}).encode()
    github.fault("GET", r".*/actions/artifacts", status=200, body=body)

    def found():
        return list(artifacts.listed(Api(github.api_url, "ro"), "acme/demo", "ci-flame-run-bench"))

    if read is None:
        with pytest.raises(ApiError, match="with 2 entries that are no artifacts"):
            found()
    else:
        assert len(found()) == read


def test_what_is_fetched_has_the_digest_that_was_told(github):
    run = github.add_run(head_sha="a" * 40)
    github.add_artifact(run, "good", b"data")
    github.add_artifact(run, "swapped", b"data", digest=f"sha256:{'0' * 64}")
    github.add_artifact(run, "none", b"data", digest="")
    api = Api(github.api_url, "ro")
    none, swapped, good = artifacts.of_run(api, "acme/demo", run)

    assert artifacts.fetch(api, "acme/demo", good) == b"data"
    with pytest.raises(ApiError, match="4 bytes or more; the limit is 3"):
        artifacts.fetch(api, "acme/demo", good, limit_bytes=3)
    digest = hashlib.sha256(b"data").hexdigest()[:10]
    with pytest.raises(FormatError, match=rf"downloaded has sha256:{digest}…, not sha256:00000"):
        artifacts.fetch(api, "acme/demo", swapped)
    with pytest.raises(FormatError, match="tells no sha256"):
        artifacts.fetch(api, "acme/demo", none)
