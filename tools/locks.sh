#!/bin/sh
# Renew containers/requirements-*.txt from setup.cfg and containers/*.in: tools/locks.sh PATH_TO_UV [--upgrade]
# Locked versions are kept while they satisfy setup.cfg; --upgrade takes the newest instead.
set -eu
uv=$1
upgrade=${2:-}
overrides=build/overrides.txt # uv writes this path into the lock, so it is the same on every machine
mkdir -p build
trap 'rm -f "$overrides"' EXIT
compile() { "$uv" pip compile ${upgrade:+"$upgrade"} --generate-hashes --quiet --no-header --python-version 3.11 "$@"; }

compile containers/demo.in --no-deps --universal --output-file containers/requirements-demo.txt

# cpu: torch is left out, since its CPU build does not come from PyPI (see the Makefile), by a marker that never holds.
# What torch alone needs is locked all the same, without that marker.
echo "torch ; sys_platform == 'never'" >"$overrides"
compile setup.cfg --extra train --extra s3 --extra slurm --extra k8s --extra notify --extra xlsx --extra serve \
    --universal --overrides "$overrides" \
    --no-emit-package torch --output-file containers/requirements-cpu.txt
sed -i "s/ and sys_platform == 'never'//; s/ ; sys_platform == 'never'//" containers/requirements-cpu.txt
compile setup.cfg --extra dev --universal --constraint containers/requirements-cpu.txt \
    --output-file containers/requirements-dev.txt
compile containers/e2e.in --universal --constraint containers/requirements-cpu.txt \
    --constraint containers/requirements-dev.txt --output-file containers/requirements-e2e.txt
compile containers/release.in --universal --output-file containers/requirements-release.txt

# cuda: everything, torch included. unsloth_zoo asks for a newer certifi than others allow.
echo certifi >"$overrides"
compile setup.cfg --extra train --extra s3 --extra slurm --extra k8s --extra notify --extra xlsx --extra serve --extra unsloth \
    --overrides "$overrides" \
    --python-platform x86_64-manylinux_2_28 --output-file containers/requirements-cuda.txt
