#!/bin/sh
# What the image is made of, step by step; the Dockerfile and the Apptainer definition run the same steps.
#
#   steps.sh system                Python, tini and the user; all that an image has besides /opt/cefr-batch
#   steps.sh tools                 what only the build needs
#   steps.sh dependencies LOCK…    /opt/cefr-batch, a virtual environment without pip, from locks with hashes
#   steps.sh torch [REQUIREMENT [INDEX]]
#                                  torch's CPU build, by default containers/torch.txt: no index serves it under the
#                                  hashes of a lock
#   steps.sh triton                what Triton would compile on its first use, for an image without a compiler
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

# What is of no use in an image: packages' own tests, and what only a linker reads.
trim() {
    find "$prefix/lib" -name '*.dist-info' -prune -o \( -type d \( -name test -o -name tests \) -o -name '*.a' \) \
        -prune -exec rm -rf {} +
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
    trim
    compile "$prefix/lib"
}

torch() {
    pip_install ${2:+--index-url "$2"} "${1:-$(cat containers/torch.txt)}"
    trim
    compile "$prefix/lib"
}

triton() {
    install_debian gcc libc6-dev libpython3-dev
    install -D containers/cc "$prefix/libexec/cc"
    work=$(mktemp -d)
    # A stand-in for the driver's library, which only machines with a GPU have: what is linked here is its name, and what
    # it is asked for.
    grep -ohE '\bcu[A-Z]\w+' "$prefix"/lib/python3*/site-packages/triton/backends/nvidia/driver.c | sort -u |
        sed 's/.*/void &(void) {}/' >"$work/cuda.c"
    gcc -shared -Wl,-soname,libcuda.so.1 -o "$work/libcuda.so.1" "$work/cuda.c"
    TRITON_CACHE_DIR=$work/cache "$prefix/bin/python" - "$work" "$prefix/libexec" <<'PYTHON'
import shutil, sys
from triton.backends.nvidia import driver
from triton.runtime.build import compile_so_from_file

work, target = sys.argv[1:]
source = f"{driver.dirname}/driver.c"
compiled = compile_so_from_file(source, "cuda_utils", [work], driver.include_dirs, driver.libraries)
shutil.copyfile(compiled, f"{target}/cuda_utils.so")
shutil.copyfile(source, f"{target}/driver.c")
PYTHON
    grep -q libcuda.so.1 "$prefix/libexec/cuda_utils.so"
    rm -rf "$work"
}

package() {
    pip_install --no-deps --no-build-isolation --root /package .
    compile "/package$prefix/lib"
}

step=$1
shift
"$step" "$@"
