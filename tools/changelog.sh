#!/bin/sh
# Print a version's section of CHANGELOG.md, without its heading: tools/changelog.sh VERSION
set -eu
version=$1
notes=$(awk -v heading="## [$version]" '/^## / { inside = index($0, heading) == 1; next } inside' "$(dirname "$0")/../CHANGELOG.md")
if [ -z "$(printf '%s' "$notes" | tr -d '[:space:]')" ]; then
    echo "error: CHANGELOG.md has nothing under \"## [$version]\"; write what changed there" >&2
    exit 1
fi
printf '%s\n' "$notes"
