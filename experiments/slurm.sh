#!/bin/bash
# A matrix as one SLURM job that goes on by itself where its time was over:
#
#   sbatch --nodes=2 --gpus-per-node=8 --cpus-per-task=32 --time=2-0 slurm.sh full.yaml --results "$SCRATCH/results"
#
# Nodes, GPUs, cores, time, partition and account are sbatch's own options; what follows the script's name goes to
# `matrix`. Submit it from an environment that has Nashboard, seen by all nodes under one path, as results and data are.
#
# SLURM tells this shell alone, minutes before the end (--signal=B:TERM@300; more, where saving takes longer), and the
# driver runs beside Ray in it, not under srun, which would kill it. The driver saves and ends with 130, and the job is
# put into the queue again under its number. Whatever else ends the driver (scancel, `stop`, a fault) ends the job.
#
#SBATCH --job-name=nashboard
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --time=1-0
#SBATCH --signal=B:TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out

refuse() { echo "slurm.sh: $*" >&2; exit 2; }
say() { echo "$(date '+%F %T') job $SLURM_JOB_ID, lifetime $((${SLURM_RESTART_COUNT:-0} + 1)): $*"; }

[ -n "${SLURM_JOB_ID:-}" ] || refuse "this is no job of SLURM; submit it: sbatch slurm.sh EXPERIMENT.yaml --results FOLDER"
[ $# -gt 0 ] || refuse "no experiment; name one: sbatch slurm.sh EXPERIMENT.yaml --results FOLDER"
python -c 'import cli, ray' || refuse "$(command -v python) has no Nashboard; activate the environment that has, then sbatch"

asked="" driver=""
ask() { asked=yes; say "asked to end"; [ -z "$driver" ] || kill -TERM "$driver" 2> /dev/null; }
trap ask TERM

# ── Ray, one node of it on each of SLURM's, with what SLURM gives there ───────
export RAY_HEAD="$SLURMD_NODENAME:$((20000 + SLURM_JOB_ID % 10000))"    # Ray's workers listen at 10002 to 19999
RAY_AUTH_TOKEN=$(head -c 32 /dev/urandom | od -An -vtx1 | tr -d ' \n')  # in the environment alone: srun hands it on
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN RAY_USAGE_STATS_ENABLED=0
srun --nodes="$SLURM_NNODES" --ntasks="$SLURM_NNODES" --ntasks-per-node=1 --kill-on-bad-exit=0 bash -c '
    given="--num-cpus=$SLURM_CPUS_ON_NODE --num-gpus=${SLURM_GPUS_ON_NODE:-0} --object-store-memory=104857600"
    if [ "$SLURM_NODEID" = 0 ]; then
        exec ray start --head --port="${RAY_HEAD##*:}" --include-dashboard=false --block $given
    fi
    until (exec 3<> "/dev/tcp/${RAY_HEAD%:*}/${RAY_HEAD##*:}") 2> /dev/null; do sleep 1; done
    exec ray start --address="$RAY_HEAD" --block $given' &
nodes=$!
trap 'kill "$nodes" 2> /dev/null' EXIT

python -c '
import socket, sys, time
import ray

address, nodes = sys.argv[1], int(sys.argv[2])
host, _, port = address.rpartition(":")
joined = 0
while joined < nodes:
    time.sleep(1)
    try:
        if not ray.is_initialized():
            socket.create_connection((host, int(port)), timeout=5).close()
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        joined = sum(node["Alive"] for node in ray.nodes())
    except (OSError, RuntimeError, ValueError):
        pass  # it is on its way up; where it is not, srun ends
' "$RAY_HEAD" "$SLURM_NNODES" &
waiting=$!
while kill -0 "$waiting" 2> /dev/null; do
    wait -n "$waiting" "$nodes"
    if [ -n "$asked" ]; then
        say "Ray was not up before that, so the job is not put into the queue again; submit it with more --time"
        exit 130
    fi
    if ! kill -0 "$nodes" 2> /dev/null; then
        say "Ray ended before all $SLURM_NNODES nodes were up; what it says stands above"
        exit 1
    fi
done
wait "$waiting" || exit 1
say "Ray is up on $SLURM_NNODES nodes, $RAY_HEAD"

# ── the driver, until it is done or time is over ──────────────────────────────
python -m cli matrix "$@" --ray-address "$RAY_HEAD" &
driver=$!
[ -z "$asked" ] || kill -TERM "$driver" 2> /dev/null
wait "$driver"
code=$?
while kill -0 "$driver" 2> /dev/null; do # the signal ended the wait, not the driver
    wait "$driver"
    code=$?
done
say "the driver ended with $code"

# 143: it was told before it listened. A job that is being cancelled is in another state, and `stop` asks the driver, not
# this shell.
state() { squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T; }
if [[ -n $asked && $code =~ ^(130|143)$ && $(state) = RUNNING ]]; then
    say "goes on in its next lifetime"
    scontrol requeue "$SLURM_JOB_ID" || say "can't be put into the queue again here; submit the same job, which goes on"
fi
exit "$code"
