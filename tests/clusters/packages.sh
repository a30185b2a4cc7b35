#!/usr/bin/env bash
# packages.sh NAME...   install Debian packages that are missing; one caller at a time, since apt refuses a second
set -euo pipefail
dpkg-query --show --showformat '${db:Status-Status}\n' "$@" 2>/dev/null | grep -cx installed | grep -qx $# && exit
exec 9>/run/lock/cefr-batch-packages
flock 9
{ apt-get update -q || true # one of several sources may be out of reach
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@"; } >/dev/null 2>&1 9>&- || {
    echo "error: cannot be installed: apt-get install $*" >&2
    exit 1
}
