#!/bin/sh
# A fresh virtual environment with pip: tools/venv.sh FOLDER. Debian keeps venv in a package of its own; root gets it here.
set -eu
folder=$1
python=${PYTHON:-python3}
rm -rf "$folder"
if ! "$python" -m venv "$folder" >/dev/null 2>&1; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -qq && apt-get install -qq -y python3-venv >/dev/null
    else
        echo "error: $python cannot make virtual environments; install your system's python3-venv package" >&2
        exit 1
    fi
    rm -rf "$folder"
    "$python" -m venv "$folder"
fi
"$folder/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "error: the locks in containers/ are made for Python 3.11 and newer; set PYTHON=python3.11" >&2
    exit 1
}
