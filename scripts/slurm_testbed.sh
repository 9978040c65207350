#!/usr/bin/env bash
# A Slurm cluster of one node on this machine, for trying the launchers and testing them.
set -euo pipefail

usage() {
    cat <<'END'
usage: scripts/slurm_testbed.sh start|stop|status

Runs a Slurm cluster of one node on the loopback interface, with its own munge, inside one private folder. Needs no
systemd, no accounting database and no cgroups, so it also works as root in a container.

  start    make the folder, start munged, slurmctld and slurmd, wait until the node is idle, and print the line to
           type for the shell that is to use the cluster: export SLURM_CONF=...
  status   show the daemons, the node and its jobs
  stop     cancel the jobs, end the daemons and remove the folder

Environment, read by start:
  TESTBED_FOLDER          the private folder (default: erk-bench-slurm-USERID under TMPDIR or /tmp); read by all three
  TESTBED_CPUS            CPUs that Slurm hands out (default: those of this machine, but at least 2)
  TESTBED_MAX_ARRAY_SIZE  Slurm's MaxArraySize (default: 1001)
  TESTBED_REQUEUE_S       seconds before a requeued job may start again (default and least: 5; Slurm's own: 120)

Needs Debian's or Ubuntu's packages slurm-wlm and munge: apt-get install slurm-wlm munge
END
}

PATH=$PATH:/usr/sbin:/sbin
FOLDER=${TESTBED_FOLDER:-${TMPDIR:-/tmp}/erk-bench-slurm-$(id -u)}
export SLURM_CONF=$FOLDER/slurm.conf
START_S=60 # a daemon that is not up by then will not come

fail() {
    echo "slurm_testbed: $*" >&2
    exit 1
}

check_installed() {
    local program
    for program in munged mungekey slurmctld slurmd sbatch srun scontrol; do
        command -v "$program" >/dev/null ||
            fail "'$program' is not installed; as root: apt-get install slurm-wlm munge"
    done
    command -v python3 >/dev/null || fail "'python3' is not installed; it looks for free ports"
}

number() { # NAME VALUE LEAST
    if ! [[ $2 =~ ^[0-9]+$ ]] || (($2 < $3)); then
        fail "$1 is '$2'; expected a whole number from $3 on"
    fi
}

free_ports() { # COUNT
    python3 - "$1" <<'END'
import socket
import sys

sockets = [socket.socket() for _ in range(int(sys.argv[1]))]
for each in sockets:
    each.bind(("127.0.0.1", 0))
print(*(each.getsockname()[1] for each in sockets))
END
}

write_config() { # CPUS MAX_ARRAY_SIZE REQUEUE_S
    local host user controller_port node_port
    host=$(hostname -s)
    user=$(id -un)
    read -r controller_port node_port < <(free_ports 2)
    cat >"$SLURM_CONF" <<END
ClusterName=testbed
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$controller_port
SlurmdPort=$node_port
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
CredType=cred/munge
# A requeued job waits for cred_expire seconds before it may start again.
AuthInfo=socket=$FOLDER/munge.socket,cred_expire=$3

StateSaveLocation=$FOLDER/state
SlurmdSpoolDir=$FOLDER/spool
SlurmctldPidFile=$FOLDER/slurmctld.pid
SlurmdPidFile=$FOLDER/slurmd.pid
SlurmctldLogFile=$FOLDER/slurmctld.log
SlurmdLogFile=$FOLDER/slurmd.log
MailProg=$(type -P true)

# Nothing that needs cgroups, a database or a network.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
# Finished jobs, requeued ones included, with their states.
JobCompType=jobcomp/filetxt
JobCompLoc=$FOLDER/jobs.txt

# Short timers: a test waits for each of them.
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,nohold_on_prolog_fail
KillWait=3
BatchStartTimeout=10
CompleteWait=0
MessageTimeout=30
InactiveLimit=0
ReturnToService=2
MinJobAge=3600
MaxArraySize=$2
MaxJobCount=$((10 * $2 + 100))

SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
NodeName=testbed NodeHostname=$host NodeAddr=127.0.0.1 CPUs=$1 State=UNKNOWN
PartitionName=main Nodes=testbed Default=YES MaxTime=INFINITE DefaultTime=60 State=UP
END
}

running() { # NAME: whether its daemon of this folder runs
    local pid
    pid=$(pid_of "$1") && [[ -n $pid ]] && kill -0 "$pid" 2>/dev/null
}

pid_of() {
    cat "$FOLDER/$1.pid" 2>/dev/null
}

await() { # COMMAND...: until it succeeds, or START_S have passed
    local deadline=$((SECONDS + START_S))
    until "$@"; do
        ((SECONDS < deadline)) || return 1
        sleep 0.2
    done
}

start_daemon() { # NAME COMMAND...
    local name=$1
    shift
    "$@" >>"$FOLDER/$name.out" 2>&1 && await running "$name" && return
    echo "slurm_testbed: $name did not start; its last words:" >&2
    tail -n 15 "$FOLDER/$name.out" "$FOLDER/$name.log" >&2 || true
    stop
    exit 1
}

node_idle() {
    [[ $(sinfo --noheader --format=%T 2>/dev/null) == idle ]]
}

start() {
    local cpus least=2
    cpus=$(nproc)
    cpus=${TESTBED_CPUS:-$((cpus > least ? cpus : least))}
    number TESTBED_CPUS "$cpus" 1
    number TESTBED_MAX_ARRAY_SIZE "${TESTBED_MAX_ARRAY_SIZE:-1001}" 1
    number TESTBED_REQUEUE_S "${TESTBED_REQUEUE_S:-5}" 5
    check_installed
    [[ ! -e $FOLDER ]] || fail "'$FOLDER' is there already; 'stop' first, or choose another TESTBED_FOLDER"
    ((${#FOLDER} < 80)) || fail "'$FOLDER' is too long a path for a socket; choose a shorter TESTBED_FOLDER"
    mkdir -m 700 "$FOLDER" || fail "cannot make '$FOLDER'; does the folder above it exist?"
    mkdir "$FOLDER/state" "$FOLDER/spool"
    write_config "$cpus" "${TESTBED_MAX_ARRAY_SIZE:-1001}" "${TESTBED_REQUEUE_S:-5}"
    mungekey --create --keyfile="$FOLDER/munge.key"
    # --force: munged would have other users reach its socket, too.
    start_daemon munged munged --force --socket="$FOLDER/munge.socket" --key-file="$FOLDER/munge.key" \
        --pid-file="$FOLDER/munged.pid" --log-file="$FOLDER/munged.log" --seed-file="$FOLDER/munged.seed"
    start_daemon slurmctld slurmctld -c
    start_daemon slurmd slurmd -N testbed
    await node_idle || {
        sinfo >&2 || true
        tail -n 15 "$FOLDER/slurmctld.log" "$FOLDER/slurmd.log" >&2 || true
        stop
        fail "the node did not become idle in $START_S s; see the logs above"
    }
    echo "# A node with $cpus CPUs is idle. In the shell that is to use it:" >&2
    echo "export SLURM_CONF=$SLURM_CONF"
}

stop() {
    local name pid
    [[ -d $FOLDER ]] || fail "no testbed in '$FOLDER'; nothing to stop"
    [[ -f $SLURM_CONF ]] || fail "'$FOLDER' has no slurm.conf, so it is no testbed; remove it by hand"
    if running slurmctld && running munged; then
        timeout 20 scancel --state=PENDING --user="$(id -un)" || true
        timeout 20 scancel --user="$(id -un)" || true
        await no_jobs || true
    fi
    for name in slurmd slurmctld munged; do
        running "$name" || continue
        pid=$(pid_of "$name")
        kill "$pid"
        for ((i = 0; i < 100; i++)); do
            kill -0 "$pid" 2>/dev/null || break
            sleep 0.1
        done
        ! kill -0 "$pid" 2>/dev/null || kill -KILL "$pid"
    done
    rm -rf "$FOLDER"
}

no_jobs() {
    [[ -z $(squeue --noheader 2>/dev/null) ]]
}

status() {
    local name problem=0
    [[ -d $FOLDER ]] || fail "no testbed in '$FOLDER'; 'start' makes one"
    for name in munged slurmctld slurmd; do
        if running "$name"; then
            echo "$name runs (process $(pid_of "$name"))"
        else
            echo "$name does not run; see $FOLDER/$name.log"
            problem=1
        fi
    done
    ((problem == 0)) || exit 1
    sinfo
    squeue
    echo "export SLURM_CONF=$SLURM_CONF"
}

case ${1:-} in
start | stop | status)
    (($# == 1)) || fail "unexpected '$2'; settings are environment variables, see --help"
    "$1"
    ;;
-h | --help | help) usage ;;
'')
    usage >&2
    exit 2
    ;;
*) fail "unknown command '$1'. Known: start, stop, status" ;;
esac
