#!/bin/sh
# Build the BPF object that is committed, byte for byte the same on every machine:
# one pinned compiler, no build folder inside. Usage: tools/build_bpf.sh [OUTPUT-FOLDER]
set -eu
cd "$(dirname "$0")/../ci_flame/collect/bpf"
out=${1:-.}
for tool in clang-14 llvm-strip-14; do
    if ! command -v "$tool" >/dev/null; then
        echo "build_bpf.sh: $tool is missing" >&2
        echo "  hint: sudo apt-get install clang-14 llvm-14 libbpf-dev linux-libc-dev" >&2
        exit 2
    fi
done
target=$out/collector.bpf.o
clang-14 -O2 -g -mcpu=v3 -target bpf -Wall -Werror -Wno-unused-parameter \
    "-ffile-prefix-map=$PWD=." -fdebug-compilation-dir=. \
    "-I/usr/include/$(uname -m)-linux-gnu" -c collector.bpf.c -o "$target.part"
llvm-strip-14 -g "$target.part"
chmod 644 "$target.part"
mv "$target.part" "$target"
