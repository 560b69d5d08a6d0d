"""Edge, pure: a command that is not pytest -> the name of its benchmark, which is published.

    python -X dev bench.py load --api-key S3CR3T   ->   python bench.py load
    python -m shop.bench fast -k S3CR3T            ->   python -m shop.bench fast
    env TOKEN=S3CR3T ./bench                       ->   env

Options and what comes after them may be keys and passwords; names stand in comments, pages and
artifacts that anybody reads.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from typing import Final

_PYTHON: Final = re.compile(r"(?:python|pypy)[\d.]*t?", re.ASCII)
_OPTION: Final = re.compile(r"-[bBdEhiIOPqsSuvVx?]*(?P<letter>[cmWX])(?P<value>.*)", re.DOTALL)
"""Of the interpreter, with a value that may be the next word."""
_TAKES_NEXT: Final = "--check-hash-based-pycs"


def command_name(command: Sequence[str]) -> str:
    """Return program, script or `-m MODULE`, and the plain words up to the first option after it.

    A word that begins with `-`, assigns (`KEY=value`) or is an address (`scheme://…`) is not plain.
    """
    if not command:
        return ""
    program, *words = command
    kept = list(_python(words)) if _PYTHON.fullmatch(program.rpartition("/")[2]) else words
    module = kept[:2] if kept[:1] == ["-m"] else []
    return " ".join([program, *module, *takewhile(_is_plain, kept[len(module) :])])


def _python(words: Sequence[str]) -> Iterator[str]:
    """Yield the words from the script or `-m` on; nothing where a word is the code itself."""
    rest = iter(words)
    for word in rest:
        option = _OPTION.fullmatch(word)
        if option is None and word.startswith("-") and word != "-":
            if word == _TAKES_NEXT:
                next(rest, "")
            continue
        if option is None:
            yield word
            break
        value = option["value"] or next(rest, "")
        if option["letter"] == "c":
            return
        if option["letter"] == "m":
            yield "-m"
            yield value
            break
    yield from rest


def _is_plain(word: str) -> bool:
    return not word.startswith("-") and "=" not in word and "://" not in word


def by_name(message: str, folders: Iterable[object], name: str) -> str:
    """Return why a command failed in one of the folders, with its name in place of its words."""
    for folder in folders:
        said, found, _words = message.partition(f" in {folder}: ")
        if found:
            return f"{said} in {folder}: {name}"
    return message
