#!/usr/bin/env bash
# One rank of a job, started by srun or torchrun: rank.sh STATE COMMAND...
#
# Tells the command its rank, and leaves word for the batch script in STATE.done, STATE.stopped or STATE.mistake. A rank
# that was asked to stop then ends with status 0, as srun and torchrun would end the others in the middle of their blocks.
set -uo pipefail

STOPPED=75
trap '' USR2 # also until the command listens; the batch script repeats the request

state=$1
shift
if [[ -n ${TORCHELASTIC_RUN_ID:-} ]]; then
    export ERK_BENCH_LAUNCHER=$PPID # torchrun: the command ends with it, not with this script alone
else
    if ((${SLURM_STEP_NUM_TASKS:-1} > 1)); then
        export RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_STEP_NUM_TASKS LOCAL_RANK=$SLURM_LOCALID
    else
        unset RANK WORLD_SIZE LOCAL_RANK # one rank alone: erk-bench starts its own workers
    fi
fi

"$@"
status=$?
case $status in
0) ((${RANK:-0})) || : >"$state.done" ;; # the first rank ends when the work of all is there
"$STOPPED")
    : >"$state.stopped" || exit "$status"
    exit 0
    ;;
2) : >"$state.mistake" ;;
esac
exit "$status"
