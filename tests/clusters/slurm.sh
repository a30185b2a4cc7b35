#!/usr/bin/env bash
# A real Slurm on a Debian 12 machine with root, in the version that Debian 12 has or a newer one: the programs come from a
# Debian suite, unpacked into a folder of their own and bound to that suite's own libraries (patchelf), so that nothing of
# the machine is changed and jobs see its files as they are. MariaDB and munged are the machine's, with a database, a key and
# sockets of this script's own.
#
#   slurm.sh up                   fetch what is missing, start what does not run; the line on standard output puts the
#                                 commands in PATH: eval "$(slurm.sh up)"
#   slurm.sh env                  that line alone
#   slurm.sh down                 stop what this script started, and drop its state (the programs stay)
#   slurm.sh running              succeed if its controller runs
#   slurm.sh kill-node n1         kill a node's slurmd and everything that runs on it, with SIGKILL
#   slurm.sh start-node n1        bring it back
#   slurm.sh restart-controller   stop slurmctld and start it again
#   slurm.sh user-signal on|off   whether a preempted job gets its own --signal first (preempt_send_user_signal), or SIGTERM,
#                                 as from the start; both kinds of site exist
#
# SLURM_VERSION: 22.05 (the default), 24.11 or 26.05. Several versions can run at once.
# Partitions: gpu (the default; its jobs can be preempted, with 20 s of grace, and are requeued), urgent (preempts gpu).
# Two nodes n1 and n2, each with 4 processors and one gpu:rtx4090 (a count: there is no device behind it).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
version=${SLURM_VERSION:-22.05}
case $version in
22.05) suite=bookworm ports=25000 ;;
24.11) suite=trixie ports=26000 ;;
26.05) suite=forky ports=27000 ;; # when this was written
*)
    echo "slurm.sh: SLURM_VERSION is $version; valid: 22.05, 24.11, 26.05" >&2
    exit 2
    ;;
esac
state=/run/slurm-e2e-$version
prefix=/opt/slurm-e2e/$suite
root=$prefix/root
lib=$root/usr/lib/x86_64-linux-gnu
host=$(hostname)
conf=$state/etc
export SLURM_CONF=$conf/slurm.conf

# shellcheck source=SCRIPTDIR/waiting.sh
source "$here/waiting.sh"

alive() { [[ -f $1 ]] && kill -0 "$(cat "$1")" 2>/dev/null; }

install_packages() {
    local program missing=
    for program in munged mariadbd patchelf; do command -v "$program" >/dev/null || missing=1; done
    [[ -z $missing ]] || "$here/packages.sh" munge mariadb-server patchelf
    getent passwd slurm >/dev/null || # as Debian's packages of Slurm would make it
        useradd --system --uid 64030 --home-dir /nonexistent --shell /usr/sbin/nologin slurm
}

# Slurm's packages and all they depend on, down to libc, from the suite: downloaded and unpacked, never installed.
fetch() {
    [[ ! -e $prefix/ready ]] || return 0
    local apt=$prefix/apt file
    local options=(-q -o Dir::Etc::SourceList="$apt/sources.list" -o Dir::Etc::SourceParts=/dev/null
        -o Dir::State::Lists="$apt/lists" -o Dir::Cache="$apt/cache" -o Dir::State::status="$apt/status"
        -o APT::Sandbox::User=root)
    rm -rf "$prefix"
    mkdir -p "$apt"/{lists/partial,cache/archives/partial} "$root"
    : >"$apt/status" # nothing is installed there, so that the closure is complete
    local mirror # the machine's own
    mirror=$(sed -nE 's/^URIs: *//p; s/^deb (\[[^]]*\] )?([^ ]+) .*/\2/p' /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2>/dev/null | head -n 1) || true
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" \
        >"$apt/sources.list"
    apt-get "${options[@]}" update >&2
    apt-get "${options[@]}" --yes --download-only --no-install-recommends install \
        slurmctld slurmd slurmdbd slurm-client >&2
    for file in "$apt"/cache/archives/*.deb; do dpkg-deb --extract "$file" "$root"; done
    [[ -e $lib/ld-linux-x86-64.so.2 ]] || ln -s "$root"/lib/x86_64-linux-gnu/* "$lib/" # a suite before the merged /usr
    # DT_RPATH, not DT_RUNPATH: it holds for the libraries of libraries and of plugins too, and goes before ld.so.cache
    for file in "$root"/usr/bin/s* "$root"/usr/sbin/slurm*; do
        [[ -f $file && ! -L $file && $(head -c 4 "$file" | tail -c 3) == ELF ]] || continue
        patchelf --set-interpreter "$lib/ld-linux-x86-64.so.2" --force-rpath --set-rpath "$lib/slurm-wlm:$lib" "$file"
    done
    # Debian calls some of the daemons slurmctld-wlm and the like; here all of them are
    for file in slurmctld slurmd slurmdbd slurmstepd; do
        [[ ! -f $root/usr/sbin/$file ]] || mv "$root/usr/sbin/$file" "$root/usr/sbin/$file-wlm"
    done
    for file in "$lib"/slurm-wlm/*.so; do
        patchelf --force-rpath --set-rpath "$lib/slurm-wlm:$lib" "$file"
    done
    rm -rf "$apt"
    touch "$prefix/ready"
}

# The commands, for PATH: they know where this Slurm's configuration is, whatever SLURM_CONF says.
write_commands() {
    local file
    mkdir -p "$state/bin"
    for file in sacct sacctmgr salloc sattach sbatch sbcast scancel scontrol sdiag sinfo sprio squeue sreport srun sshare sstat \
        strigger; do
        printf '#!/bin/sh\nSLURM_CONF=%s exec %s "$@"\n' "$SLURM_CONF" "$root/usr/bin/$file" >"$state/bin/$file"
    done
    # A daemon knows what it is by argv[0].
    for file in slurmctld slurmd slurmdbd slurmstepd; do
        # shellcheck disable=SC2016 # $@ is the command's
        printf '#!/bin/bash\nSLURM_CONF=%s MYSQL_UNIX_PORT=%s exec -a %s %s "$@"\n' \
            "$SLURM_CONF" "$state/mysql/socket" "$file" "$root/usr/sbin/$file-wlm" >"$state/bin/$file"
    done
    chmod +x "$state"/bin/*
    PATH=$state/bin:$PATH
}

start_munge() {
    alive "$state/munge/munged.pid" && return
    [[ -s $state/munge/key ]] || mungekey --create --keyfile="$state/munge/key"
    chown -R munge: "$state/munge"
    su -s /bin/sh munge -c "/usr/sbin/munged --socket=$state/munge/socket --key-file=$state/munge/key \
        --pid-file=$state/munge/munged.pid --log-file=$state/munge/munged.log --seed-file=$state/munge/munged.seed"
    wait_for 10 munge sh -c "munge -S $state/munge/socket -n | unmunge -S $state/munge/socket"
}

sql() { mariadb --no-defaults --socket="$state/mysql/socket" "$@"; }

start_database() {
    [[ -d $state/mysql/data/mysql ]] || mariadb-install-db --no-defaults --user=mysql --datadir="$state/mysql/data" \
        --auth-root-authentication-method=socket >/dev/null 2>&1
    if ! sql -e 'select 1' >/dev/null 2>&1; then # in the foreground of `if`, so that no shell stays that holds our output
        setsid mariadbd --no-defaults --user=mysql --datadir="$state/mysql/data" --socket="$state/mysql/socket" \
            --pid-file="$state/mysql/pid" --skip-networking --innodb-buffer-pool-size=64M \
            >"$state/log/mariadb.log" 2>&1 </dev/null &
    fi
    wait_for 30 MariaDB mariadb --no-defaults --socket="$state/mysql/socket" -e 'select 1'
    sql -e "create database if not exists slurm_acct_db;
        create user if not exists slurm@localhost identified via unix_socket; -- slurmdbd runs as this user
        grant all on slurm_acct_db.* to slurm@localhost;"
}

configure() {
    cat >"$conf/slurmdbd.conf" <<END
AuthType=auth/munge
AuthInfo=socket=$state/munge/socket
PluginDir=$lib/slurm-wlm
DbdHost=localhost
DbdPort=$((ports + 819))
SlurmUser=slurm
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StorageLoc=slurm_acct_db
LogFile=$state/log/slurmdbd.log
PidFile=$state/run/slurmdbd.pid
END
    chown slurm "$conf/slurmdbd.conf"
    chmod 600 "$conf/slurmdbd.conf"
    # there may be no cgroup that is ours; jobs are found by their parents (22.05 does so by itself)
    [[ $version = 22.05 ]] || echo CgroupPlugin=disabled >"$conf/cgroup.conf"
    printf 'NodeName=n1 Name=gpu Type=rtx4090 File=/dev/null\nNodeName=n2 Name=gpu Type=rtx4090 File=/dev/zero\n' \
        >"$conf/gres.conf"
    [[ ! -e $SLURM_CONF ]] || return 0 # what `user-signal` changed stays until `down`
    cat >"$SLURM_CONF" <<END
ClusterName=e2e
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$((ports + 817))
AuthType=auth/munge
AuthInfo=socket=$state/munge/socket
CredType=cred/munge
PluginDir=$lib/slurm-wlm
SlurmUser=slurm
SlurmdUser=root
MpiDefault=none
ProctrackType=proctrack/linuxproc
ReturnToService=2
StateSaveLocation=$state/ctld
SlurmdSpoolDir=$state/%n
SlurmctldPidFile=$state/run/slurmctld.pid
SlurmdPidFile=$state/run/slurmd.%n.pid
SlurmctldLogFile=$state/log/slurmctld.log
SlurmdLogFile=$state/log/slurmd.%n.log
SlurmdParameters=config_overrides
SlurmctldTimeout=30
# One message asks both nodes: while it waits for a killed one, nothing is heard of the other, which is not to be given up.
SlurmdTimeout=30
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
GresTypes=gpu
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort=$((ports + 819))
AccountingStoragePass=$state/munge/socket
AccountingStorageTRES=gres/gpu
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=2
SchedulerParameters=sched_interval=2,bf_interval=2,requeue_delay=1
KillWait=10
MinJobAge=300
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((ports + 821)) CPUs=4 RealMemory=16000 Gres=gpu:rtx4090:1
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((ports + 822)) CPUs=4 RealMemory=16000 Gres=gpu:rtx4090:1
PartitionName=gpu Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
PartitionName=urgent Nodes=n1,n2 MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
END
}

start_database_daemon() {
    alive "$state/run/slurmdbd.pid" || slurmdbd
    wait_for 30 slurmdbd sacctmgr -n list cluster
}

start_node() {
    alive "$state/run/slurmd.$1.pid" || slurmd -N "$1" -d "$state/bin/slurmstepd"
}

start_controller() {
    alive "$state/run/slurmctld.pid" || slurmctld
    wait_for 30 slurmctld scontrol ping
}

wait_for_nodes() { # after a restart of the controller they are unknown for some seconds, and jobs for them refused
    wait_for 60 "the nodes" sh -c '! sinfo -h -N -o %T | grep -vE "idle|mixed|allocated|completing"'
}

stop() { # a daemon, by the file that has its number
    ! alive "$1" || kill "$(cat "$1")"
    wait_for 30 "the end of $1" sh -c "! { [ -f '$1' ] && kill -0 \$(cat '$1'); }"
}

kill_node() { # slurmd, its slurmstepd (which are no longer its children), and all that they started
    local process
    kill -9 "$(cat "$state/run/slurmd.$1.pid")"
    rm -f "$state/run/slurmd.$1.pid"
    for process in $(steps); do
        pgrep -P "$process" | sed 's|.*|/proc/&/environ|' | xargs grep -q -s -a "SLURMD_NODENAME=$1" /dev/null || continue
        kill_tree "$process"
    done
}

steps() { # this Slurm's slurmstepd alone
    local process
    for process in $(pgrep slurmstepd); do
        [[ $(readlink "/proc/$process/exe") != "$root"/* ]] || echo "$process"
    done
}

kill_tree() {
    local child
    kill -STOP "$1" 2>/dev/null || true
    for child in $(pgrep -P "$1"); do kill_tree "$child"; done
    kill -9 "$1" 2>/dev/null || true
}

restart_controller() {
    stop "$state/run/slurmctld.pid"
    start_controller
}

user_signal() {
    sed -i "/^SlurmctldParameters=/d" "$SLURM_CONF"
    [[ $1 = off ]] || sed -i "1a SlurmctldParameters=preempt_send_user_signal" "$SLURM_CONF"
    scontrol reconfigure
    wait_for 30 "the new configuration" scontrol ping
}

up() {
    install_packages
    fetch
    mkdir -p "$state"/{etc,run,log,ctld,n1,n2,mysql/data,munge}
    chown slurm "$state"/{run,log,ctld}
    chown -R mysql "$state/mysql"
    chmod 755 "$state" "$state/munge"
    write_commands
    start_munge
    start_database
    configure
    start_database_daemon
    start_controller
    start_node n1
    start_node n2
    wait_for_nodes
    say "$(sinfo --version), cluster e2e, configuration $SLURM_CONF"
    print_env
}

print_env() { echo "export PATH=$state/bin:\$PATH SLURM_CONF=$SLURM_CONF"; }

down() {
    local name process
    for name in run/slurmd.n1.pid run/slurmd.n2.pid run/slurmctld.pid run/slurmdbd.pid mysql/pid munge/munged.pid; do
        stop "$state/$name"
    done
    for process in $(steps); do kill_tree "$process"; done # what still runs would report to the next Slurm
    rm -rf "$state.old" # a state is there whole or not at all, whenever this is killed
    [[ ! -d $state ]] || mv "$state" "$state.old"
    rm -rf "$state.old"
}

# The commands of this state, if there is one already.
PATH=$state/bin:$PATH
case ${1:-} in
up | down) alone "$@" && "$1" ;;
env) print_env ;;
running) alive "$state/run/slurmctld.pid" ;;
start-node) start_node "$2" ;;
kill-node) kill_node "$2" ;;
restart-controller) restart_controller ;;
user-signal) user_signal "$2" ;;
*)
    sed -n '7,22p' "$0"
    exit 2
    ;;
esac
