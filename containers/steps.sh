#!/bin/sh
# What the image is made of, step by step; the Dockerfile and the Apptainer definition run the same steps.
#
#   steps.sh system                Python, tini and the user; all that an image has besides /opt/cefr-batch
#   steps.sh tools                 what only the build needs
#   steps.sh dependencies LOCK…    /opt/cefr-batch, a virtual environment without pip, from locks with hashes
#   steps.sh torch REQUIREMENT [INDEX]
#                                  torch's CPU build: no index serves it under the hashes of a lock
#   steps.sh package               cefr-batch itself, from the current folder, under /package
set -eu
umask 022
export PYTHONHASHSEED=0 # compiled files come out the same in each build
prefix=/opt/cefr-batch

install_debian() {
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@" >/dev/null
    # Left behind by apt: package lists, and logs and caches with the time of the build in them.
    rm -rf /var/lib/apt/lists/* /var/log/* /var/cache/* /var/lib/dpkg/*-old
}

system() {
    install_debian ca-certificates python3 tini
    groupadd --gid 10001 cefr
    useradd --uid 10001 --gid 10001 --home-dir /work --no-create-home --shell /usr/sbin/nologin cefr
    # Writable to any user, as /tmp is: sites run images as whoever submitted the job.
    install -d -o 10001 -g 10001 -m 1777 /work /work/cache
}

tools() {
    install_debian python3-pip
}

pip_install() {
    python3 -m pip --python "$prefix/bin/python" install \
        --quiet --disable-pip-version-check --no-warn-script-location --no-cache-dir --no-compile "$@"
}

# Compiled here, since the image's user cannot; checked by no time stamp, so that two builds agree. A few packages carry
# files for other Pythons, which do not compile; they are never imported.
compile() {
    "$prefix/bin/python" -m compileall -q -q -j 0 --invalidation-mode unchecked-hash "$1" || true
}

dependencies() {
    [ -d "$prefix" ] || python3 -m venv --without-pip "$prefix"
    for lock in "$@"; do
        pip_install --require-hashes --no-deps -r "$lock"
    done
    compile "$prefix/lib"
}

torch() {
    pip_install ${2:+--index-url "$2"} "$1"
    compile "$prefix/lib"
}

package() {
    pip_install --no-deps --no-build-isolation --root /package .
    compile "/package$prefix/lib"
}

step=$1
shift
"$step" "$@"
