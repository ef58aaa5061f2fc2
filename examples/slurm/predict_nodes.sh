#!/bin/bash
# A folder of scans segmented by all devices of several nodes; stopped and queued again as examples/slurm/train.sh is.
#
#   pip install 'patchcl[cluster]'
#   bash examples/dask_keys.sh     # once: the workers talk by TLS, or to anybody who reaches them
#   sbatch examples/slurm/predict_nodes.sh runs/first new_scans -o masks
#
# A Dask scheduler and the command itself are on the first node, and a worker for each device, here 2 nodes with 4 each.
# Run, scans and masks lie in a folder that all nodes see. A worker that is killed is started again, and costs the scans
# that it had in hand. After SIGTERM, as when the job is preempted or its time is nearly over, the command ends with exit
# code 143, the job queues again, and masks that are done are not done again. `patchcl evaluate`, or any other command
# that takes --cluster, can stand in the place of `patchcl predict`.
#
#SBATCH --job-name=patchcl
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gres=gpu:4
#SBATCH --cpus-per-task=8
#SBATCH --mem=128G
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120

if [[ "$(dask config get distributed.comm.tls.ca-file)" != */* ]]; then
    echo "Dask has no keys here: anybody on the network could use the workers. Call bash examples/dask_keys.sh"
    exit 2
fi
scheduler=dask-$SLURM_JOB_ID.json
rm -f "$scheduler"  # of the turn before
trap 'kill $(jobs -p) 2>/dev/null; rm -f "$scheduler"' EXIT
dask scheduler --port 0 --dashboard-address 127.0.0.1:0 --scheduler-file "$scheduler" &
until [ -s "$scheduler" ]; do kill -0 $! || exit 1; sleep 1; done

# Every worker takes its own of the cards that SLURM shows it. SLURM looks after the memory.
export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
srun bash -c '
    IFS=, read -ra cards <<<"$CUDA_VISIBLE_DEVICES"
    [ ${#cards[@]} -eq 0 ] || export CUDA_VISIBLE_DEVICES=${cards[SLURM_LOCALID % ${#cards[@]}]}
    exec dask worker --scheduler-file "$0" --nthreads 1 --memory-limit 0 --no-dashboard --death-timeout 60
' "$scheduler" &

srun --overlap --nodes=1 --ntasks=1 --gres=none patchcl predict "$@" --cluster "$scheduler"
code=$?
if [ "$code" -eq 143 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
