#!/usr/bin/env bash
# A real SLURM cluster of one node on this machine, started from nothing.
#
#   tests/clusters/slurm.sh install          once, as root: the Debian or Ubuntu packages
#   eval "$(tests/clusters/slurm.sh start)"  start it, wait until its node is idle, export SLURM_CONF
#   sbatch --wait --wrap hostname            any SLURM client now talks to this cluster
#   tests/clusters/slurm.sh stop             end its jobs and its three daemons; the logs stay
#
# Everything lies in one folder: the second argument, else $SLURM_TEST_DIR, else /tmp/slurm-test-UID.
# Nothing is written to /etc. The daemons run as the user who starts them, so only that user's jobs run.
# The node claims 2 CPUs and 1 GPU (its device file is /dev/null: none need exist), so that a request
# for a GPU is accepted anywhere. There is no accounting: sacct fails here, as on many small clusters.
# $SLURM_TEST_PORT (default 16817) and the port after it must be free.
set -euo pipefail

command=${1:-}
dir=$(realpath -m "${2:-${SLURM_TEST_DIR:-/tmp/slurm-test-$UID}}")
port=${SLURM_TEST_PORT:-16817}
node=$(hostname -s)
daemons=(slurmd slurmctld munged) # in the order in which they are stopped
export SLURM_CONF=$dir/slurm.conf
PATH=$PATH:/usr/sbin:/sbin # where Debian puts the daemons, which is not on every user's path

say() { echo "slurm.sh: $*" >&2; }

# The process ids of a daemon of this cluster, known by its environment (its pid file comes late, and not
# at all where it never reaches the controller). Fails if there is none; a zombie has no environment.
pids_of() {
    local pid found=1
    for pid in $(pgrep -x "$1"); do
        if grep -qzxF "SLURM_CONF=$SLURM_CONF" "/proc/$pid/environ" 2>/dev/null; then
            echo "$pid"
            found=0
        fi
    done
    return $found
}

# wait_for SECONDS COMMAND...: until the command succeeds; fails if it does not in time.
wait_for() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        ((SECONDS < end)) || return 1
        sleep 0.2
    done
}

is_idle() { [[ $(timeout 5 sinfo --noheader --format=%T 2>/dev/null) == idle ]]; }
is_up() { timeout 5 sinfo --noheader --format=%T 2>/dev/null | grep -qE '^(idle|mixed|allocated)$'; }
no_jobs() { [[ -z $(timeout 5 squeue --noheader 2>/dev/null) ]]; }
ended() { ! pids_of "$1" >/dev/null; }

write_config() {
    local memory
    memory=$(awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo)
    # linuxproc and task/none: no cgroups, which a container does not let us write.
    # config_overrides: believe the NodeName line, not what the hardware says.
    # MailProg: no mailer is needed. KillWait: from SIGTERM to SIGKILL, 30 s by default.
    cat >"$SLURM_CONF" <<END
ClusterName=test
SlurmctldHost=$node(127.0.0.1)
SlurmctldPort=$port
SlurmdPort=$((port + 1))
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$dir/munged.socket
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
KillWait=5
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=$node NodeAddr=127.0.0.1 CPUs=2 RealMemory=$memory Gres=gpu:1 State=UNKNOWN
PartitionName=test Nodes=$node Default=YES MaxTime=INFINITE State=UP
END
    echo "NodeName=$node Name=gpu File=/dev/null" >"$dir/gres.conf"
}

missing() {
    for program in munged slurmctld slurmd sbatch sinfo; do
        command -v "$program" >/dev/null || echo "$program"
    done
}

start() {
    local lacks
    lacks=$(missing | xargs)
    if [[ -n $lacks ]]; then
        say "missing: $lacks. Install them: apt-get install slurm-wlm munge (or: slurm.sh install)"
        exit 1
    fi
    if is_up && pids_of munged >/dev/null && pids_of slurmd >/dev/null; then
        say "already up in $dir"
    else
        stop # what an earlier start may have left half up
        rm -rf "$dir/state" "$dir/spool" "$dir"/*.log "$dir/munge.key"
        mkdir -p "$dir/state" "$dir/spool"
        chmod 755 "$dir" # munged wants the way to its socket open to all, and nobody else writing there
        (umask 077 && head -c 128 /dev/urandom >"$dir/munge.key")
        write_config
        # The daemons must not hold our stdout, or $(slurm.sh start) would never end.
        {
            munged --key-file="$dir/munge.key" --socket="$dir/munged.socket" --pid-file="$dir/munged.pid" \
                --log-file="$dir/munged.log" --seed-file="$dir/munge.seed" &&
                slurmctld -c && slurmd -c && wait_for 60 is_idle
        } </dev/null >"$dir/start.log" 2>&1 || {
            say "the node did not become idle; the logs in $dir say:"
            { timeout 5 sinfo -R -l || true; tail -n 30 "$dir"/*.log; } >&2 2>&1
            stop
            exit 1
        }
        say "up in $dir"
    fi
    echo "export SLURM_CONF=$SLURM_CONF"
}

stop() {
    # Jobs first: once slurmd has gone, nobody ends them.
    if pids_of slurmctld >/dev/null && pids_of slurmd >/dev/null; then
        squeue --noheader --format=%A 2>/dev/null | sort -u | xargs --no-run-if-empty scancel 2>/dev/null || true
        wait_for 20 no_jobs || say "jobs did not end: $(timeout 5 squeue --noheader | xargs)"
    fi
    local daemon
    for daemon in "${daemons[@]}"; do
        pids_of "$daemon" | xargs --no-run-if-empty kill 2>/dev/null || true
        wait_for 10 ended "$daemon" || pids_of "$daemon" | xargs --no-run-if-empty kill -9 || true
    done
    rm -f "$dir"/*.pid "$dir"/munged.socket*
}

case $command in
    install)
        apt-get update
        DEBIAN_FRONTEND=noninteractive apt-get install --yes slurm-wlm munge
        ;;
    start) start ;;
    stop) stop ;;
    *)
        sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0" >&2
        exit 2
        ;;
esac
