#!/bin/sh
# Install the Debian 12 / Ubuntu 24.04 packages that are missing, and nothing else.
#
#   tools/system_packages.sh record what recording needs, in an environment that is there: git, libbpf
#   tools/system_packages.sh run    the same, and what `make` needs: Python with venv
#   tools/system_packages.sh test   what the tests need besides: perf, bpftrace, bcc, clang, Chromium, Node, Java
#
# Each line below is a capability and the package that brings it, so a machine that has the
# capability from elsewhere (a Node from another repository, perf from a kernel package) is left
# alone. Needs root or `sudo -n` only where something is missing.
set -eu

level=${1:-run}
case $level in
record | run | test) ;;
*)
    echo "tools/system_packages.sh: '$level' is not a level; use 'record', 'run' or 'test'" >&2
    exit 2
    ;;
esac

distribution=unknown
# shellcheck disable=SC1091 # the system's own file
[ -r /etc/os-release ] && distribution=$(. /etc/os-release && echo "${ID:-unknown}")
if [ "$distribution" = ubuntu ]; then
    perf=linux-tools-generic
    headers=linux-headers-generic
    bpftool=linux-tools-common
else
    perf=linux-perf
    headers=linux-headers-amd64
    bpftool=bpftool
fi

missing=""
# need PACKAGE TEST…: PACKAGE is missing when TEST fails.
need() {
    package=$1
    shift
    "$@" >/dev/null 2>&1 || missing="$missing $package"
}
has() { command -v "$1"; }
has_all() { for name; do command -v "$name" || return 1; done; }
has_headers() { ls -d /usr/src/linux-headers-*/Makefile; }
has_any() { for name; do command -v "$name" && return 0; done; return 1; }
has_library() {
    # A plain user's PATH on Debian has no /sbin, where ldconfig lives.
    PATH="$PATH:/usr/sbin:/sbin" ldconfig -p | grep -q "$1"
}
has_venv() {
    for python in "${PYTHON:-python3}" python3 python3.15 python3.14 python3.13 python3.12 python3.11; do
        "$python" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' && return 0
    done
    return 1
}

need git has git
need libbpf1 has_library 'libbpf\.so\.1'
need libelf1 has_library 'libelf\.so\.1'
if [ "$level" != record ]; then
    need make has make
    need python3-venv has_venv
fi
if [ "$level" = test ]; then
    need "$perf" perf --version
    need clang-14 has clang-14
    need llvm-14 has llvm-strip-14
    need libbpf-dev test -r /usr/include/bpf/bpf_helpers.h
    need gcc has cc
    need g++ has c++
    need bpftrace has bpftrace
    need "$bpftool" has bpftool
    need python3-bpfcc test -d /usr/lib/python3/dist-packages/bcc
    need "$headers" has_headers
    need patchelf has patchelf
    need openjdk-17-jdk-headless has_all java javac jcmd
    need libc6-dev test -r /usr/include/stdio.h
    need nodejs has node
    need npm has npm
    # Ubuntu's chromium is a snap and does not run in containers; Chrome or Playwright's build do.
    [ "$distribution" = ubuntu ] || need chromium test -x /usr/bin/chromium
fi

if [ -n "$missing" ]; then
    missing=${missing# }
    if ! command -v apt-get >/dev/null; then
        echo "ci_flame: missing here: $missing (names as in Debian 12); this machine has no apt-get" >&2
        echo "  hint: install them with this system's package manager, then run this again" >&2
        exit 1
    fi
    as_root=""
    if [ "$(id -u)" -ne 0 ]; then
        if ! sudo -n true 2>/dev/null; then
            echo "ci_flame: missing here: $missing; installing needs root and 'sudo -n' is refused" >&2
            echo "  hint: sudo apt-get install -y $missing" >&2
            exit 1
        fi
        as_root="sudo -n"
    fi
    echo "Installing $missing"
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q
    # shellcheck disable=SC2086 # one word per package
    $as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -q --no-install-recommends $missing </dev/null
fi

if [ "$level" = test ] && [ "$distribution" = ubuntu ] && ! has_any google-chrome chromium >/dev/null; then
    echo "ci_flame: no Chromium for the browser tests; after 'make setup' run:"
    echo "  .venv/bin/playwright install --with-deps chromium"
fi
