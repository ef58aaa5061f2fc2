#!/bin/bash
# One training on a cluster that may stop it at any time; the same job goes on until the training is done.
#
#   sbatch examples/slurm/train.sh my_data runs/first --method patchcl --labeled 7
#
# Two minutes before the time is over, and when another job takes the place, SLURM sends SIGTERM to the training. It
# finishes its step, saves all, and ends with exit code 143. Then the job queues again, with the same number, and
# --resume-if-there goes on where the run stopped; on CPUs the weights become those of a run that was never stopped, on a
# card the same up to rounding. If the machine fails, SLURM queues the job again by itself, and what is lost are the steps
# since the last checkpoint, which is at most training.checkpoint_minutes old (and one log row). A run that is done already
# ends at once, with exit code 0; one that cannot go on (a mistake in the data or settings: 2, training that diverged: 1)
# does not queue again.
#
#SBATCH --job-name=patchcl
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120

data=$1
run=$2

export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}  # srun does not take it over by itself
srun patchcl train "$data" -o "$run" --resume-if-there "${@:3}"
code=$?
if [ "$code" -eq 143 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
