# shellcheck shell=bash disable=SC2154 # state is the script's that sources this
# For the cluster scripts, which source it: messages, waiting for a condition or for one another. $state is the folder of
# their logs.

say() { echo "${0##*/}: $*" >&2; }

wait_for() { # SECONDS WHAT COMMAND...
    local left=$1 what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        left=$((left - 1))
        [[ $left -gt 0 ]] || {
            say "gave up waiting for $what; see the logs in $state"
            exit 1
        }
        sleep 1
    done
}

alone() { # ARG...: run this script once more, when no other one of this name runs; no daemon of it keeps the lock
    [[ ${CLUSTER_LOCK:-} = "${0##*/}" ]] || CLUSTER_LOCK=${0##*/} exec flock --close "/run/lock/${0##*/}" "$0" "$@"
}
