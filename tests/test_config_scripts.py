"""Programs of bpftrace in the policy: read with their lines, files beside the policy, limits."""

import pytest

from ci_flame.config import load, parse_policy
from ci_flame.config.scripts import DEFAULT_KEYS, MAX_KEYS, MAX_PROGRAM, MAX_SCRIPTS, Script
from ci_flame.errors import PolicyError
from ci_flame.record import processes

CLASSIC = "tracepoint:sched:sched_switch { @[comm] = count(); }"


def scripts(text):
    data = f"version: 1\nbpftrace:\n  scripts:\n{text}".encode()
    return parse_policy(data, "p.yml").record.scripts


def test_the_classic_one_liner_is_taken_as_it_is():
    assert scripts(f'    switches: "{CLASSIC}"\n') == (
        Script("switches", CLASSIC, source="p.yml", line=4),
    )


def test_all_keys():
    (found,) = scripts(
        '    slow: {file: tools/slow.bt, args: [10, "{pid}"], keys: 50, per: second}\n'
    )

    assert found == Script("slow", "", ("10", "{pid}"), 50, True, "tools/slow.bt", "p.yml", 4)  # noqa: FBT003 - a value
    assert found.place == "tools/slow.bt"


def test_without_a_section_there_are_none():
    assert parse_policy(b"version: 1\n", "p.yml").record.scripts == ()


def test_the_order_of_the_sections_means_nothing():
    one = f'version: 1\nbpftrace: {{scripts: {{a: "{CLASSIC}"}}}}\nrecord: {{processes: 3}}\n'
    other = f'version: 1\nrecord: {{processes: 3}}\nbpftrace: {{scripts: {{a: "{CLASSIC}"}}}}\n'
    for text in (one, other):
        record = parse_policy(text.encode(), "p.yml").record

        assert (record.processes, len(record.scripts)) == (3, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('    "a b": x\n', 'p.yml:4: "a b" is not a name'),
        ("    " + "a" * 41 + ": x\n", "is not a name"),
        ('    a: ""\n', "p.yml:4: a is empty"),
        ("    a: {}\n", "p.yml:4: a needs a program or a file, one of them"),
        ("    a: {program: x, file: y}\n", "a needs a program or a file, one of them"),
        ("    a: {progam: x}\n", 'unknown key "progam" in a; did you mean "program"?'),
        ("    a: {program: x, keys: 0}\n", "keys is a whole number from 1 to 500"),
        ("    a: {program: x, keys: 501}\n", "keys is a whole number from 1 to 500"),
        ("    a: {program: x, keys: ten}\n", "keys is a whole number from 1 to 500"),
        ("    a: {program: x, per: minute}\n", 'per: "minute" is not known'),
        ("    a: {program: x, args: [--unsafe]}\n", '"--unsafe" is not an argument'),
        ("    a: {program: x, args: [" + "1, " * 20 + "1]}\n", "21 arguments; at most 20"),
        ('    a: {file: " "}\n', "file needs a path"),
        ("    [x]\n", "p.yml:4: scripts takes names and programs"),
        ("".join(f"    s{n}: x\n" for n in range(MAX_SCRIPTS + 1)), "17 scripts; at most 16"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(text, message):
    with pytest.raises(PolicyError) as caught:
        scripts(text)

    assert message in caught.value.message


def test_limits_themselves_are_allowed():
    assert len(scripts("".join(f"    s{n}: x\n" for n in range(MAX_SCRIPTS)))) == MAX_SCRIPTS
    assert scripts(f"    a: {{program: x, keys: {MAX_KEYS}}}\n")[0].keys == MAX_KEYS
    assert scripts("    a: {program: x, args: [" + "1, " * 19 + "1]}\n")[0].keys == DEFAULT_KEYS


@pytest.mark.parametrize("text", ["bpftrace: {}\n", "bpftrace: {script: x}\n", "bpftrace: x\n"])
def test_a_section_that_names_none(text):
    with pytest.raises(PolicyError, match=r"p.yml:2: "):
        parse_policy(f"version: 1\n{text}".encode(), "p.yml")


@pytest.mark.parametrize(
    ("metric", "refused"),
    [
        ("bpftrace.swiches.@[postgres]", True),
        ("bpftrace.switches.@[postgres]", False),
        ("bpftrace.s*.@[postgres]", False),
        ("bpftrace.import.@[postgres]", False),  # of an imported file
        ("run_queue.p99_ms", False),
    ],
)
def test_a_rule_names_a_script_of_the_policy(metric, refused):
    rules = f"version: 1\nrules:\n  - {{metric: '{metric}', max: 5}}\n"
    with_scripts = f"{rules}bpftrace: {{scripts: {{switches: '{CLASSIC}'}}}}\n".encode()

    # Without scripts the policy may be one to judge a stored run by.
    assert len(parse_policy(rules.encode(), "p.yml").policy.rules) == 1
    if not refused:
        assert parse_policy(with_scripts, "p.yml").policy.rules[0].metric == metric
        return
    with pytest.raises(PolicyError) as error:
        parse_policy(with_scripts, "p.yml")
    assert str(error.value) == (
        'p.yml:3: no bpftrace script is called "swiches"; did you mean "switches"?\n'
        "  hint: scripts: switches"
    )


# -- files ----------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path, monkeypatch):
    policy = "version: 1\nbpftrace: {scripts: {a: {file: tools/a.bt}}}\n"
    (tmp_path / "ci-flame.yml").write_text(policy)
    (tmp_path / "tools").mkdir()
    (tmp_path / "deep").mkdir()
    monkeypatch.chdir(tmp_path / "deep")
    return tmp_path


def test_files_lie_beside_the_policy_wherever_one_stands(project):
    (project / "tools" / "a.bt").write_text(CLASSIC)
    (found,) = load(project / "ci-flame.yml", start=project / "deep").record.scripts

    assert (found.program, found.file) == (CLASSIC, "tools/a.bt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "tools/a.bt cannot be read: No such file"),
        (b" \n", "tools/a.bt is empty"),
        (b"\xff", "tools/a.bt: byte 0 is not UTF-8"),
        (b" " * (MAX_PROGRAM + 1), f"tools/a.bt has more than {MAX_PROGRAM} bytes"),
    ],
)
def test_files_that_cannot_be_used(project, content, message):
    if content is not None:
        (project / "tools" / "a.bt").write_bytes(content)
    with pytest.raises(PolicyError, match=r"ci-flame.yml:2: ") as caught:
        load(project / "ci-flame.yml", start=project)

    assert message in caught.value.message


def test_a_folder_is_no_file(project):
    (project / "tools" / "a.bt").mkdir()
    with pytest.raises(PolicyError, match=r"tools/a.bt is not a file"):
        load(project / "ci-flame.yml", start=project)


def test_further_processes_get_the_programs(project, tmp_path):
    (project / "tools" / "a.bt").write_text(CLASSIC)
    record = load(project / "ci-flame.yml", start=project).record
    processes.write_plan(tmp_path, record, None, gc_on=False)
    plan = processes.read_plan({processes.CHILD_VARIABLE: str(tmp_path)})

    assert plan.record.scripts == record.scripts
