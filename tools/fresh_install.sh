#!/bin/sh
# Install the wheel as a user does, in a fresh environment outside the clone, and use it there:
#   tools/fresh_install.sh PATH_TO_UV WHEEL [--lowest] EXTRA...
# EXTRA: one of setup.cfg, or core for none. --lowest takes the lowest versions that setup.cfg allows instead of the newest.
# uv's own variables name another index, as for torch's CPU build. Prints what each takes on the disk, and how long it took.
set -eu
uv=$(realpath "$1")
wheel=$(realpath "$2")
shift 2
resolution=highest
if [ "$1" = --lowest ]; then
    resolution=lowest-direct
    shift
fi

# What a user would do first. Nothing here needs a network: what would is told in words.
use() {
    cefr-batch --version
    cefr-batch init --level A1 --slurm --k8s 2>unknown
    cefr-batch config show --level A1 >settings
    cefr-batch data check data/a1.csv
    cefr-batch data build data/a1.csv --level A1 --out built --examples 20 >/dev/null
    cefr-batch list
    if HF_HOME=$PWD/hf HF_HUB_OFFLINE=1 cefr-batch plan --level A1 2>error; then
        echo "error: a model that is not here was planned for" >&2
        return 1
    fi
    grep -q "is not in this machine's cache" error || { cat error >&2; return 1; }
}

use_extra() {
    case $1 in
    core) ;;
    xlsx)
        python -c 'import openpyxl; book = openpyxl.Workbook()
for row in (("Kelime", "Cümle"), ("cat", "The cat sleeps.")): book.active.append(row)
book.save("words.xlsx")'
        cefr-batch data check words.xlsx --columns word=Kelime,sentence=Cümle
        ;;
    s3 | crt) python -c 'import cefr_batch.store.s3' ;;
    search)
        python -c 'from cefr_batch.config.sweep import parse_choices
from cefr_batch.search.sampling import propose
print(propose(parse_choices(["lora.rank=8,16", "training.learning_rate=1e-4..1e-3:log"]), "tpe", 0, []))'
        ;;
    notify) python -c 'import apprise; assert apprise.Apprise.instantiate("json://127.0.0.1/")' ;;
    slurm) python -c 'import submitit' ;;
    k8s) python -c 'from cefr_batch.schedulers.k8s import client; import kubernetes, requests, urllib3, oauthlib' ;;
    train)
        cefr-batch data check data/a1.csv --level A1
        python -c 'import torch, transformers, trl, peft, datasets; import cefr_batch.training.trainer'
        ;;
    *) ;;
    esac
}

for extra in "$@"; do
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    started=$(date +%s)
    "$uv" venv --quiet --python "${PYTHON:-python3}" "$folder/venv"
    set -- "$wheel"
    [ "$extra" = core ] || set -- "${wheel}[$extra]"
    [ "$extra" != train ] || set -- "$@" torch
    "$uv" pip install --quiet --python "$folder/venv" --resolution "$resolution" "$@"
    "$uv" pip check --quiet --python "$folder/venv"
    took=$(($(date +%s) - started))
    mkdir "$folder/work"
    (
        cd "$folder/work"
        PATH="$folder/venv/bin:$PATH"
        use
        use_extra "$extra"
    ) >"$folder/log" 2>&1 || { cat "$folder/log" >&2; echo "error: $extra ($resolution) does not work" >&2; exit 1; }
    echo "$extra ($resolution): $(du -sm "$folder/venv" | cut -f1) MB, installed in $took s, works"
    rm -rf "$folder"
    trap - EXIT
done
