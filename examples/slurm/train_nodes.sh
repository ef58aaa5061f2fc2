#!/bin/bash
# One training over all devices of several nodes; stopped and queued again as examples/slurm/train.sh is.
#
#   sbatch examples/slurm/train_nodes.sh my_data runs/first --method patchcl --labeled 7
#
# SLURM starts one process for each device, here 2 nodes with 4 each, and they share every batch: 8 must divide
# training.labeled_per_batch and training.unlabeled_per_batch. Data and run lie in a folder that all nodes see. SIGTERM to
# any process stops all of them after one checkpoint, with exit code 143. If a process dies the others end with exit code
# 1: sbatch again goes on from the last checkpoint. The processes meet at the first node; where its name does not resolve,
# or another network is to be taken, say `export MASTER_ADDR=...` first.
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

data=$1
run=$2

export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}  # srun does not take it over by itself
srun patchcl train "$data" -o "$run" --resume-if-there \
    --devices "$SLURM_NTASKS_PER_NODE" --nodes "$SLURM_JOB_NUM_NODES" "${@:3}"
code=$?
if [ "$code" -eq 143 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
