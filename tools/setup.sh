#!/bin/sh
# Make `.venv` with ci-flame in it; instant when nothing changed since the last time.
#
#   tools/setup.sh run    system packages and .venv to record and compare (`make demo`)
#   tools/setup.sh test   the same plus all that lint and tests need (`make setup`), and the
#                         newer CPythons that tests record
#
# PYTHON=… chooses the interpreter; otherwise the first of python3, python3.15 … python3.11 that
# is 3.11 or newer and can make a venv.
set -eu

level=${1:-run}
cd "$(dirname "$0")/.."
tools/system_packages.sh "$level"
# Without them their tests are skipped, which only CI takes for a failure.
if [ "$level" = test ] && ! { tools/pythons.py && tools/pythons.py --environment 3.14; } &&
    [ -n "${CI_FLAME_REQUIRE_ALL:-}" ]; then
    exit 1
fi

choose_python() {
    for name in ${PYTHON:-} python3 python3.15 python3.14 python3.13 python3.12 python3.11; do
        if "$name" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return 0
        fi
    done
    return 1
}

# The stamp is what the environment was made from; a moved checkout has other absolute paths.
stamp="$PWD $(cksum <pyproject.toml) $(cksum <tools/setup.sh)"
for done in test "$level"; do
    if [ -x .venv/bin/ci-flame ] && [ "$(cat ".venv/ci-flame-$done.stamp" 2>/dev/null)" = "$stamp" ]; then
        exit 0
    fi
done

if ! .venv/bin/python -c 'import pip' 2>/dev/null; then
    if ! python=$(choose_python); then
        echo "ci_flame: needs Python 3.11 or newer with venv; $(python3 --version 2>&1) is what is here" >&2
        echo "  hint: install python3.11 (or newer) and its venv package, or set PYTHON=/path/to/it" >&2
        exit 1
    fi
    echo "Making .venv with $python"
    "$python" -m venv .venv
fi

pip() { .venv/bin/python -m pip --disable-pip-version-check --quiet "$@"; }
if [ "$level" = test ]; then
    # pip knows --group only from 25.1 on, and Debian 12 ships 23.0.
    .venv/bin/python tools/dependency_group.py pyproject.toml dev >.venv/dev-requirements.txt
    pip install -e . -r .venv/dev-requirements.txt
else
    pip install -e .
fi
printf '%s\n' "$stamp" >".venv/ci-flame-$level.stamp"
echo "Ready: .venv/bin/ci-flame, .venv/bin/pytest"
