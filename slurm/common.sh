# shellcheck shell=bash
# Sourced by the batch scripts: starts the ranks of a job, and stops, requeues or gives up as their end asks for.
#
# Settings, all from the environment (docs/slurm.md says more):
#   LAUNCHER        srun (default: srun starts every rank) or torchrun (srun starts one torchrun a node)
#   RANKS_PER_NODE  ranks on each node (default: what --ntasks-per-node or --ntasks ask for, else one a GPU, else 1)
#   SRUN_OPTIONS    further options of srun, such as --cpu-bind=cores
#   GRACE           seconds that ranks get to finish their block when asked to stop (default: 90)
#   MAX_CRASHES     requeues after a crash (default: 3)
#   MAX_REQUEUES    requeues for other reasons: time limit, preemption, a lost node (default: 100)
#   STATE_FOLDER    where the crashes of a job are counted (default: results/slurm, beside its log)
#   ERK_BENCH       the program (default: erk-bench on PATH, else .venv/bin/erk-bench of the repository)

stop_asked=
trap 'stop_asked=1' USR2 # first of all: the default action would end the job without a requeue

LAUNCHER=${LAUNCHER:-srun}
GRACE=${GRACE:-90}
MAX_CRASHES=${MAX_CRASHES:-3}
MAX_REQUEUES=${MAX_REQUEUES:-100}
# Statuses of the command that end the job for good, beside 0: 2 is a user's mistake, which no repetition mends.
FINAL_STATUSES=(2)
LOST=70         # where ranks are gone without a word; erk-bench's own status for a lost worker
ASK_AGAIN_S=5   # a rank that is still starting does not hear the first request to stop
POLL_S=1

# The task of an array by its own name: the bare number of its last task names the whole array.
JOB=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}}
JOB=${JOB:-${SLURM_JOB_ID:-}}
RESTARTS=${SLURM_RESTART_COUNT:-0}

say() {
    echo "[$(date +%FT%T) job $JOB] $*"
}

refuse() { # a mistake in how the job was submitted
    say "$*" >&2
    exit 2
}

help_or_job() { # SCRIPT WORDS...: show the script's own comment when asked, or outside Slurm
    if [[ ${2:-} == -h || ${2:-} == --help ]]; then
        sed -n '2,/^#SBATCH/ { /^#SBATCH/d; s/^# \{0,1\}//p }' "$1"
        exit 0
    fi
    if [[ -z ${SLURM_JOB_ID:-} ]]; then
        echo "$1 is a batch script: submit it with 'sbatch $1 ...'; 'bash $1 --help' explains it" >&2
        exit 2
    fi
}

whole_number() { # NAME LEAST
    if ! [[ ${!1} =~ ^[0-9]+$ ]] || ((${!1} < $2)); then
        refuse "$1 is '${!1}'; expected a whole number from $2 on"
    fi
}

find_program() {
    ERK_BENCH=${ERK_BENCH:-$(command -v erk-bench || echo "$ERK_BENCH_ROOT/.venv/bin/erk-bench")}
    [[ -x $ERK_BENCH ]] || refuse "no program '$ERK_BENCH'; run 'make setup', or set ERK_BENCH to your erk-bench"
    export ERK_BENCH
}

count_ranks() {
    nodes=${SLURM_JOB_NUM_NODES:-1}
    local asked=${SLURM_NTASKS:-1}
    if [[ -z ${RANKS_PER_NODE:-} && -z ${SLURM_NTASKS_PER_NODE:-} ]] && ((asked > nodes && asked % nodes)); then
        refuse "--ntasks=$asked cannot be shared evenly by $nodes nodes; use --ntasks-per-node"
    fi
    ((asked > nodes)) && asked=$((asked / nodes)) || asked=
    RANKS_PER_NODE=${RANKS_PER_NODE:-${SLURM_NTASKS_PER_NODE:-${asked:-${SLURM_GPUS_ON_NODE:-1}}}}
    whole_number RANKS_PER_NODE 1
}

start_ranks() { # COMMAND...: srun, in the foreground
    local srun=(srun --nodes="$nodes" --kill-on-bad-exit=1 --cpu-bind=none) own=()
    local rank=("$ERK_BENCH_ROOT/slurm/rank.sh" "$state" "$@")
    read -ra own <<<"${SRUN_OPTIONS:-}"
    # A step has all of the job's CPUs; these variables, which older versions of srun read, would divide them.
    unset SLURM_CPUS_PER_TASK SLURM_NTASKS_PER_NODE SLURM_NTASKS SLURM_NPROCS
    if [[ $LAUNCHER == srun ]]; then
        ((${SLURM_CPUS_ON_NODE:-1} >= RANKS_PER_NODE)) || srun+=(--overcommit)
        srun+=(--ntasks=$((nodes * RANKS_PER_NODE)) --ntasks-per-node="$RANKS_PER_NODE")
        "${srun[@]}" "${own[@]}" "${rank[@]}" </dev/null
        return
    fi
    local meeting=(--standalone)
    if ((nodes > 1)); then
        local first
        first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
        meeting=(--rdzv-backend=c10d --rdzv-endpoint="$first:${MASTER_PORT:-$((20000 + SLURM_JOB_ID % 10000))}"
            --rdzv-id="$SLURM_JOB_ID-$RESTARTS")
    fi
    # torchrun's own choice of one thread would slow down scoring.
    local cpus=${SLURM_CPUS_ON_NODE:-1}
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cpus > RANKS_PER_NODE ? cpus / RANKS_PER_NODE : 1))}
    # torchrun would die from USR2, which reaches every process of a step, and its ranks with it.
    "${srun[@]}" --ntasks="$nodes" --ntasks-per-node=1 "${own[@]}" bash -c "trap '' USR2; exec \"\$@\"" torchrun \
        "$(dirname "$ERK_BENCH")/torchrun" --nnodes="$nodes" --nproc-per-node="$RANKS_PER_NODE" "${meeting[@]}" \
        --no-python "${rank[@]}" </dev/null
}

stop_ranks() { # PID: ask the ranks to stop after their block; returns when they have, or GRACE has passed
    local waited=0
    say "asked to stop: ranks finish their block, for up to $GRACE s"
    while kill -0 "$1" 2>/dev/null && ((waited < GRACE)); do
        # Without --batch or --full this reaches the ranks alone.
        ((waited % ASK_AGAIN_S)) || scancel --signal=USR2 "$JOB" || true
        sleep "$POLL_S" || true
        waited=$((waited + POLL_S))
    done
}

supervise() { # COMMAND...: run it with every rank of the job; does not return
    local status=0 crashes=0 ranks
    case $LAUNCHER in srun | torchrun) ;; *) refuse "unknown LAUNCHER '$LAUNCHER'. Known: srun, torchrun" ;; esac
    whole_number GRACE 1
    whole_number MAX_CRASHES 0
    whole_number MAX_REQUEUES 0
    find_program
    count_ranks
    STATE_FOLDER=${STATE_FOLDER:-results/slurm}
    mkdir -p "$STATE_FOLDER"
    state=$(cd "$STATE_FOLDER" && pwd)/$JOB # where ranks leave word, see rank.sh
    ((RESTARTS)) || rm -f "$state.crashes" # of another job of this number, long ago
    crashes=$(cat "$state.crashes" 2>/dev/null || echo 0)
    rm -f "$state.done" "$state.stopped" "$state.mistake"
    say "starts on $(hostname), restart $RESTARTS, $nodes x $RANKS_PER_NODE ranks by $LAUNCHER: erk-bench $*"

    start_ranks "$ERK_BENCH" "$@" &
    ranks=$!
    while [[ -z $stop_asked ]] && kill -0 "$ranks" 2>/dev/null; do
        sleep "$POLL_S" || true # not 'wait', which misses a signal that comes just before it
    done
    if kill -0 "$ranks" 2>/dev/null; then
        stop_ranks "$ranks"
        if kill -0 "$ranks" 2>/dev/null; then
            requeue "stopped, with blocks unfinished after $GRACE s, which are lost"
        fi
    fi
    wait "$ranks" || status=$?
    conclude "$status"
}

conclude() { # STATUS
    local status=$1
    [[ ! -e $state.mistake ]] || status=2 # the first rank to end; the others' ends are srun's doing
    # srun's own status is no proof: with a lost node it may be 0.
    if ((status == 0)) && [[ ! -e $state.done && ! -e $state.stopped ]]; then
        status=$LOST
    fi
    if [[ " ${FINAL_STATUSES[*]} " == *" $status "* ]]; then
        finish "$status" "ended with status $status, see above; not requeued, as running it again would not help"
    elif [[ -e $state.stopped || (-n $stop_asked && $status != 0) ]]; then
        requeue "stopped, with its blocks finished"
    elif ((status == 0)); then
        finish 0 "done"
    elif ((crashes >= MAX_CRASHES)); then
        finish "$status" "crashed with status $status, after $crashes requeues for crashes; gave up. Finished blocks" \
            "are kept: submit it again to go on"
    else
        echo "$((++crashes))" >"$state.crashes"
        requeue "crashed with status $status (crash $crashes, at most $MAX_CRASHES are requeued)"
    fi
}

finish() { # STATUS WORDS...: the last line of a job that is not requeued
    rm -f "$state.crashes" "$state.done" "$state.stopped" "$state.mistake"
    say "${*:2}"
    exit "$1"
}

requeue() { # WORDS...
    local now
    # A job that Slurm is ending (scancel, time limit, preemption) must not be brought back by us.
    now=$(squeue --noheader --jobs="$JOB" --format=%T) || now=RUNNING
    [[ $now == RUNNING ]] || finish 1 "$*; not requeued, as Slurm is ending the job ($now)"
    if ((RESTARTS - crashes >= MAX_REQUEUES)); then
        finish 1 "$*; not requeued, as it has been $RESTARTS times. Finished blocks are kept: submit it again to go on"
    fi
    say "$*; requeued, and goes on where it was"
    for _ in 1 2 3; do
        ! scontrol requeue "$JOB" || exit 0
        sleep 5
    done
    finish 1 "requeueing failed, see above. Finished blocks are kept: submit it again to go on"
}
