#!/usr/bin/env bash
# A real Slurm on one Debian 12 machine with root, from Debian's packages: munge, MariaDB, slurmdbd (so that sacct works),
# slurmctld and two nodes n1 and n2, each with one gpu:rtx4090 (a count: there is no device behind it).
#
#   slurm.sh up                    install what is missing, start what does not run; sinfo, sbatch and sacct then work
#   slurm.sh down                  stop what this script started, and drop its state
#   slurm.sh kill-node n1          kill a node's slurmd and everything that runs on it, with SIGKILL
#   slurm.sh start-node n1         bring it back
#   slurm.sh restart-controller    stop slurmctld and start it again (killed, it forgets jobs of the last seconds)
#   slurm.sh user-signal on|off    whether a preempted job gets its own --signal first (preempt_send_user_signal), or
#                                  SIGTERM, as from the start; both kinds of site exist
#
# Partitions: gpu (the default; its jobs can be preempted, with 20 s of grace, and are requeued), urgent (preempts gpu).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
state=${SLURM_STATE:-/run/slurm-e2e}
host=$(hostname)

# shellcheck source=SCRIPTDIR/waiting.sh
source "$here/waiting.sh"

alive() { [[ -f $1 ]] && kill -0 "$(cat "$1")" 2>/dev/null; }

install_packages() {
    local program missing=
    for program in slurmctld slurmdbd munged mariadbd; do command -v "$program" >/dev/null || missing=1; done
    [[ -z $missing ]] || "$here/packages.sh" slurm-wlm slurmdbd munge mariadb-server
}

start_munge() {
    [[ -s /etc/munge/munge.key ]] || mungekey -c
    chown munge: /etc/munge/munge.key
    munge -n >/dev/null 2>&1 || su -s /bin/sh munge -c /usr/sbin/munged
    wait_for 10 munge sh -c 'munge -n | unmunge'
}

start_database() {
    local sql=(mariadb --socket=/run/mysqld/mysqld.sock)
    [[ -d $state/mysql/mysql ]] || mariadb-install-db --user=mysql --datadir="$state/mysql" \
        --auth-root-authentication-method=socket >/dev/null 2>&1
    "${sql[@]}" -e 'select 1' >/dev/null 2>&1 || setsid mariadbd --no-defaults --user=mysql --datadir="$state/mysql" \
        --socket=/run/mysqld/mysqld.sock --pid-file="$state/mysql/pid" --skip-networking \
        --innodb-buffer-pool-size=64M >"$state/log/mariadb.log" 2>&1 </dev/null &
    wait_for 30 MariaDB "${sql[@]}" -e 'select 1'
    "${sql[@]}" -e "create database if not exists slurm_acct_db;
        create user if not exists slurm@localhost identified by 'slurm-e2e';
        grant all on slurm_acct_db.* to slurm@localhost;"
}

configure() {
    cat >/etc/slurm/slurmdbd.conf <<EOF
AuthType=auth/munge
DbdHost=localhost
SlurmUser=slurm
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StoragePass=slurm-e2e
StorageLoc=slurm_acct_db
LogFile=$state/log/slurmdbd.log
PidFile=$state/slurmdbd.pid
EOF
    chown slurm /etc/slurm/slurmdbd.conf
    chmod 600 /etc/slurm/slurmdbd.conf
    cat >/etc/slurm/slurm.conf <<EOF
ClusterName=e2e
SlurmctldHost=$host(127.0.0.1)
AuthType=auth/munge
SlurmUser=slurm
SlurmdUser=root
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
StateSaveLocation=$state/ctld
SlurmdSpoolDir=$state/%n
SlurmctldPidFile=$state/slurmctld.pid
SlurmdPidFile=$state/slurmd.%n.pid
SlurmctldLogFile=$state/log/slurmctld.log
SlurmdLogFile=$state/log/slurmd.%n.log
SlurmdParameters=config_overrides
SlurmctldTimeout=30
SlurmdTimeout=15
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
GresTypes=gpu
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStorageTRES=gres/gpu
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=2
SchedulerParameters=sched_interval=2,bf_interval=2,requeue_delay=1
KillWait=10
MinJobAge=300
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=17001 CPUs=4 RealMemory=16000 Gres=gpu:rtx4090:1
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=17002 CPUs=4 RealMemory=16000 Gres=gpu:rtx4090:1
PartitionName=gpu Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
PartitionName=urgent Nodes=n1,n2 MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
EOF
    printf 'NodeName=n1 Name=gpu Type=rtx4090 File=/dev/null\nNodeName=n2 Name=gpu Type=rtx4090 File=/dev/zero\n' \
        >/etc/slurm/gres.conf
}

start_node() { alive "$state/slurmd.$1.pid" || slurmd -N "$1"; }

kill_node() { # slurmd, its slurmstepd (which are no longer its children), and all that they started
    local process
    kill -9 "$(cat "$state/slurmd.$1.pid")"
    rm -f "$state/slurmd.$1.pid"
    for process in $(pgrep -x slurmstepd); do
        pgrep -P "$process" | sed 's|.*|/proc/&/environ|' | xargs grep -q -s -a "SLURMD_NODENAME=$1" /dev/null || continue
        kill_tree "$process"
    done
}

kill_tree() {
    local child
    kill -STOP "$1" 2>/dev/null || true
    for child in $(pgrep -P "$1"); do kill_tree "$child"; done
    kill -9 "$1" 2>/dev/null || true
}

restart_controller() {
    kill "$(cat "$state/slurmctld.pid")"
    wait_for 30 "the end of slurmctld" sh -c '! pgrep -x slurmctld'
    slurmctld
    wait_for 30 slurmctld scontrol ping
}

user_signal() {
    sed -i '/^SlurmctldParameters=/d' /etc/slurm/slurm.conf
    [[ $1 = off ]] || echo "SlurmctldParameters=preempt_send_user_signal" >>/etc/slurm/slurm.conf
    scontrol reconfigure
    wait_for 30 "the new configuration" scontrol ping
}

up() {
    [[ ! -e /etc/slurm/slurm.conf ]] || grep -q '^ClusterName=e2e$' /etc/slurm/slurm.conf || {
        say "/etc/slurm/slurm.conf is of another Slurm; this script would overwrite it"
        exit 1
    }
    install_packages
    mkdir -p "$state"/{log,ctld,n1,n2,mysql} /run/munge /run/mysqld /etc/slurm
    chown munge /run/munge
    chown slurm "$state" "$state"/{log,ctld}
    chown mysql "$state/mysql" /run/mysqld
    start_munge
    start_database
    configure
    alive "$state/slurmdbd.pid" || slurmdbd
    wait_for 30 slurmdbd sacctmgr -n list cluster
    alive "$state/slurmctld.pid" || slurmctld
    wait_for 30 slurmctld scontrol ping
    start_node n1
    start_node n2
    wait_for 60 "the nodes" sh -c '! sinfo -h -N -o %T | grep -vE "idle|mixed|allocated|completing"'
}

down() {
    local name process
    for name in slurmd.n1.pid slurmd.n2.pid slurmctld.pid slurmdbd.pid mysql/pid; do
        ! alive "$state/$name" || kill "$(cat "$state/$name")"
        wait_for 30 "the end of $name" sh -c "! { [ -f '$state/$name' ] && kill -0 \$(cat '$state/$name'); }"
    done
    # what still runs would report to the next Slurm, whose jobs have the same numbers
    for process in $(pgrep -x slurmstepd); do kill_tree "$process"; done
    rm -rf "$state" /etc/slurm/{slurm,slurmdbd,gres}.conf
}

case ${1:-} in
up) up ;;
down) down ;;
start-node) start_node "$2" ;;
kill-node) kill_node "$2" ;;
restart-controller) restart_controller ;;
user-signal) user_signal "$2" ;;
*)
    sed -n '2,13p' "$0"
    exit 2
    ;;
esac
