#!/bin/sh
# Renew containers/requirements-*.txt from setup.cfg and containers/demo.in: tools/locks.sh PATH_TO_UV
set -eu
uv=$1
overrides=$(mktemp)
trap 'rm -f "$overrides"' EXIT
compile() { "$uv" pip compile setup.cfg --generate-hashes --quiet --no-header --overrides "$overrides" "$@"; }
# A requirement that holds nowhere: what it alone needs is not resolved either.
leave_out() { for name; do echo "$name ; sys_platform == 'never'"; done >"$overrides"; }

# cpu: torch is left out, since its CPU build does not come from PyPI (see the Makefile).
leave_out torch llm llama-cpp-python
compile containers/demo.in --extra train --universal --python-version 3.11 \
    --no-emit-package torch --no-emit-package llm --no-emit-package llama-cpp-python \
    --output-file containers/requirements-cpu.txt
compile --extra dev --universal --python-version 3.11 --constraint containers/requirements-cpu.txt \
    --output-file containers/requirements-dev.txt

# cuda: everything, torch included. unsloth_zoo asks for a newer certifi than others allow.
leave_out llm llama-cpp-python
echo certifi >>"$overrides"
compile containers/demo.in --extra train --extra unsloth --python-version 3.11 \
    --python-platform x86_64-manylinux_2_28 --no-emit-package llm --no-emit-package llama-cpp-python --output-file containers/requirements-cuda.txt
