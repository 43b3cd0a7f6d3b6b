#!/usr/bin/env bash
# A real Ray cluster of two node processes with one CPU each on this machine, started from nothing.
#
#   eval "$(tests/clusters/ray.sh start)"    start it, wait until both nodes live, export RAY_ADDRESS
#   python -c 'import ray; ray.init(); print(ray.nodes())'    a driver finds it by RAY_ADDRESS
#   tests/clusters/ray.sh stop               end both nodes and their workers; the logs stay
#
# $PYTHON (default python3) must be an interpreter that has ray: pip install ray.
# Everything lies in one folder: the second argument, else $RAY_TEST_DIR, else /tmp/ray-test-UID. Keep its
# path short: Ray puts sockets under it, whose paths may have 107 bytes.
# $RAY_TEST_PORT (default 21379) must be free, and not one of the 10002 to 19999 which workers take. No usage
# statistics are sent, but Ray listens on every interface and asks for no password: not on an open network.
set -euo pipefail

command=${1:-}
dir=$(realpath -m "${2:-${RAY_TEST_DIR:-/tmp/ray-test-$UID}}")
python=${PYTHON:-python3}
address=127.0.0.1:${RAY_TEST_PORT:-21379}
nodes=(worker head) # in the order in which they are stopped
export RAY_USAGE_STATS_ENABLED=0
unset RAY_ADDRESS # the head would join the cluster it names

say() { echo "ray.sh: $*" >&2; }

# Each node is one session, so that stop can end just its processes; `ray stop` would end every Ray here.
# The processes of a node that live (not the zombies that a container's first process may leave), if any
# of them is Ray's: else the session's number was used again, by a stranger.
processes() {
    local session
    session=$(cat "$dir/$1.pid" 2>/dev/null) || return 0
    ps -eo sid=,pid=,stat=,args= | awk -v session="$session" '
        $1 == session && $3 !~ /^Z/ {pids = pids $2 "\n"; if (/ray/) ours = 1}
        END {if (ours) printf "%s", pids}'
}

launch() {
    local name=$1
    shift
    setsid "$python" -m ray.scripts.scripts start --block --num-cpus=1 --object-store-memory=100000000 \
        --node-ip-address=127.0.0.1 --disable-usage-stats "$@" </dev/null >"$dir/$name.log" 2>&1 &
    echo $! >"$dir/$name.pid"
}

# Ray's own clients wait for minutes for a head that is not there: look whether its port is open first.
wait_for_head() {
    local end=$((SECONDS + 60))
    until (: <"/dev/tcp/${address/:/\/}") 2>/dev/null; do
        [[ -n $(processes head) ]] && ((SECONDS < end)) || return 1
        sleep 0.2
    done
}

wait_for_nodes() {
    timeout 60 "$python" - "$address" <<'END'
import sys, time
import ray

ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)
while sum(node["Alive"] for node in ray.nodes()) != 2:
    time.sleep(0.2)
END
}

start() {
    if ! "$python" -c 'import ray' 2>/dev/null; then
        say "$python has no ray: pip install ray, or set PYTHON to an interpreter that has it"
        exit 1
    fi
    if [[ -n $(processes head) && -n $(processes worker) ]] && wait_for_nodes >/dev/null 2>&1; then
        say "already up in $dir"
    else
        stop # what an earlier start may have left half up
        rm -rf "$dir"/session_* "$dir"/*.log
        mkdir -p "$dir"
        launch head --head --port="${address#*:}" --include-dashboard=false --temp-dir="$dir"
        { wait_for_head && launch worker --address="$address" && wait_for_nodes; } >"$dir/start.log" 2>&1 || {
            say "the nodes did not come up; the logs in $dir say:"
            tail -n 30 "$dir"/*.log >&2
            stop
            exit 1
        }
        say "up in $dir"
    fi
    echo "export RAY_ADDRESS=$address"
}

stop() {
    local name end
    for name in "${nodes[@]}"; do
        processes "$name" | xargs --no-run-if-empty kill 2>/dev/null || true
        end=$((SECONDS + 10))
        while [[ -n $(processes "$name") ]]; do
            ((SECONDS < end)) || { processes "$name" | xargs --no-run-if-empty kill -9 2>/dev/null || true; }
            sleep 0.2
        done
        rm -f "$dir/$name.pid"
    done
}

case $command in
    start) start ;;
    stop) stop ;;
    *)
        sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0" >&2
        exit 2
        ;;
esac
