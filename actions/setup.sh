#!/usr/bin/env bash
# Step 1 of action.yml: the system packages that are missing, and ci_flame from this checkout, so
# that the pin of the action is the pin of the code.
set -euo pipefail

# End with one annotation; what an input says cannot end the runner's command that it is part of.
fail() {
    local code=$1 text=${2//'%'/%25}
    text=${text//$'\r'/%0D}
    echo "::error title=ci_flame::${text//$'\n'/%0A}"
    exit "$code"
}

case ${CI_FLAME_SETUP:-auto} in
auto) ;;
*) fail 2 "input setup is '$CI_FLAME_SETUP'; it may be 'auto' or 'none'" ;;
esac

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${CI_FLAME_PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    fail 3 "'$python' is $("$python" --version 2>&1 || true); ci_flame needs Python 3.11 or newer (input python, or actions/setup-python before this action)"
fi

PYTHON=$python "$root/tools/system_packages.sh" run
"$python" -m pip install --disable-pip-version-check --quiet "$root"
"$python" -m ci_flame doctor
