#!/usr/bin/env bash
# First step of each action: the system packages that are missing, and ci_flame from this checkout,
# so that the pin of the action is the pin of the code. Nothing is compiled: the BPF programs are
# in the checkout, and of the dependencies pip prefers wheels.
#
#   CI_FLAME_SETUP      auto: what records Python; perf: perf besides, for other commands; none:
#                       nothing is installed, only looked for, so that what is missing has a name
#   CI_FLAME_PYTHON     ci_flame is installed into it, and nothing else of the machine changes for it
#   CI_FLAME_VENV       instead of both: make this environment, for steps that record nothing
set -euo pipefail

# End with one annotation; what an input says cannot end the runner's command that it is part of.
fail() {
    local code=$1 text=${2//'%'/%25}
    text=${text//$'\r'/%0D}
    echo "::error title=ci_flame::${text//$'\n'/%0A}"
    exit "$code"
}

# Say how long the part before took: what a user waits for should be no secret.
took() {
    echo "$1: $((SECONDS - since)) s"
    since=$SECONDS
}
since=$SECONDS

case ${CI_FLAME_SETUP:-auto} in
auto | perf | none) ;;
*) fail 2 "input setup is '$CI_FLAME_SETUP'; it may be 'auto', 'perf' or 'none'" ;;
esac

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=${CI_FLAME_PYTHON:-python3}
[ -n "${CI_FLAME_VENV:-}" ] && python=python3
if ! command -v "$python" >/dev/null; then
    fail 3 "'$python' is not to be found (input python): give a name or a path of Python 3.11 or newer, or put actions/setup-python before this action"
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    fail 3 "'$python' is $("$python" --version 2>&1 || true); ci_flame needs Python 3.11 or newer (input python, or actions/setup-python before this action)"
fi

if [ "${CI_FLAME_SETUP:-auto}" = none ]; then
    if ! "$python" -P -c 'import ci_flame' 2>/dev/null; then
        fail 3 "'$python' has no ci_flame, and input setup is 'none': install it into that Python before this action, or leave setup at 'auto'"
    fi
    exit 0
fi
if [ -n "${CI_FLAME_VENV:-}" ]; then
    if ! "$python" -m venv "$CI_FLAME_VENV"; then
        fail 3 "'$python' cannot make an environment: see above; put actions/setup-python before this action"
    fi
    python=$CI_FLAME_VENV/bin/python
    took "an environment of its own"
else
    if ! "$root/tools/system_packages.sh" record; then
        fail 3 "the system packages could not be installed: see above; input setup: none leaves them to you"
    fi
    took "system packages"
fi

# Without bytecode of the dependencies (numpy and scipy are large): what is used gets it anyway.
if ! "$python" -m pip install --disable-pip-version-check --no-input --quiet --no-compile \
    --prefer-binary "${root}[github,py-spy]"; then
    fail 3 "pip could not install ci_flame into '$python': see above; where the system's Python refuses packages, put actions/setup-python before this action, or name an environment's interpreter in input python"
fi
took "ci_flame and what it needs"

if [ -z "${CI_FLAME_VENV:-}" ]; then
    "$python" -P -m ci_flame github setup
    took "trying the collectors"
fi
