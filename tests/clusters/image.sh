#!/usr/bin/env bash
# Build and unpack container images on a Debian 12 machine with root, without a container engine or a registry: buildah
# with chroot isolation, over a base image made by debootstrap. Missing programs are installed from Debian.
#
#   image.sh build ARG...       as `docker build ARG...`: make image-cpu ENGINE=tests/clusters/image.sh
#   image.sh save TAG FILE      write a docker-archive, which containerd, charliecloud and skopeo read
#   image.sh unpack TAG FOLDER  unpack the image into a new folder, for `image.sh run` and ch-run
#   image.sh run FOLDER [OPTION...] -- COMMAND...
#                               run a command in it with the image's environment, as whoever calls, with a read-only
#                               root; options go to ch-run (charliecloud), such as -b /scratch/me:/work
#
# The build gets this machine's certificates and pip settings by mounts; nothing of them stays in the image. If pip here
# has package sources of its own, they are asked for torch's CPU build too, instead of download.pytorch.org; TORCH_INDEX=URL
# in the environment names another. The base has Debian's release alone, without its updates.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
base=localhost/debian:bookworm

need() { command -v "$1" >/dev/null || "$here/packages.sh" "${@:2}"; }

have() { buildah inspect --type image "$1" >/dev/null 2>&1; }

make_base() {
    need buildah buildah crun
    have "$base" && return
    need debootstrap debootstrap
    local mirror folder container
    mirror=$(awk '/^URIs:/ {print $2; exit}' /etc/apt/sources.list.d/debian.sources 2>/dev/null || true)
    folder=$(mktemp -d)
    debootstrap --variant=minbase bookworm "$folder/root" ${mirror:+"$mirror"} >"$folder/log" 2>&1 || {
        tail "$folder/log" >&2
        exit 1
    }
    rm -rf "$folder"/root/var/cache/apt/archives/*.deb "$folder"/root/var/log/*
    container=$(buildah from scratch)
    buildah add -q "$container" "$folder/root" / >/dev/null
    buildah commit -q "$container" "$base" >/dev/null
    buildah rm "$container" >/dev/null
    rm -rf "$folder"
}

# Mounts for the build's steps: the machine's certificates, its pip settings, and the local folders that those name.
machine_mounts() {
    local conf=$1 path
    {
        echo "[global]"
        { python3 -m pip config list 2>/dev/null || true; } |
            sed -nE "s/^(global|:env:)\.([[:alpha:]-]+)='(.*)'$/\2 = \3/p" |
            sed 's/\\n/ /g; /^cert /d' | sort -u -t= -k1,1
        ! cp /etc/ssl/certs/ca-certificates.crt "$conf/ca.crt" 2>/dev/null || echo "cert = /run/build/ca.crt"
    } >"$conf/pip.conf"
    echo "$conf:/run/build:ro"
    echo "$conf/pip.conf:/etc/pip.conf:ro"
    { grep -oE '(file://)?/[^ ,]+' "$conf/pip.conf" || true; } | sed -E 's#^file://##; s#/simple/?$##' | sort -u |
        while read -r path; do
            [[ $path == /run/build/* || $path == //* || ! -e $path ]] || echo "$path:$path:ro"
        done
}

build() { # one at a time: whoever comes second finds the layers of the first
    exec 9>/run/lock/cefr-batch-image
    flock 9
    make_base
    local options=() mount
    conf=$(mktemp -d)
    trap 'rm -rf "$conf"' EXIT
    while read -r mount; do options+=(-v "$mount"); done < <(machine_mounts "$conf")
    if [[ -v TORCH_INDEX ]] || grep -qE '^[[:alpha:]-]*(index|links)' "$conf/pip.conf"; then
        options+=(--build-arg "TORCH_INDEX=${TORCH_INDEX-}")
    fi
    buildah build --isolation chroot --layers --timestamp 0 --build-arg "BASE_IMAGE=$base" "${options[@]}" "$@"
}

save() {
    rm -f "$2"
    buildah push -q "$1" "docker-archive:$2:$1"
}

unpack() {
    need buildah buildah crun
    need ch-run charliecloud # here, since whoever runs the image may not be root
    local tag=$1 folder=$2 container mounted
    mkdir -p "$folder"
    container=$(buildah from "$tag")
    mounted=$(buildah mount "$container")
    cp -a "$mounted/." "$folder/"
    buildah umount "$container" >/dev/null
    buildah rm "$container" >/dev/null
    mkdir -p "$folder/ch" # ch: where ch-run looks for the image's environment
    buildah inspect --type image --format '{{range .OCIv1.Config.Env}}{{println .}}{{end}}' "$tag" >"$folder/ch/environment"
}

run() {
    need ch-run charliecloud
    local folder=$1
    shift
    USER=${USER:-$(id -un)} exec ch-run --unset-env='*' --set-env="$folder/ch/environment" "$folder" "$@"
}

command=${1:-}
case $command in
build | save | unpack | run) shift && "$command" "$@" ;;
*) sed -n '2,14p' "$0" && exit 2 ;;
esac
