"""A command of patchcl that takes --cluster, on Dask workers that are SLURM jobs of their own.

    pip install 'patchcl[cluster]'
    bash examples/dask_keys.sh                # once: the workers talk by TLS, or to anybody who reaches them
    python examples/slurm/dask_jobs.py --jobs 8 compare my_data -o runs/grid --seeds 0,1,2
    python examples/slurm/dask_jobs.py --jobs 5 train my_data -o runs/folds --folds 5

Call it on the login node, in tmux for instance, or in a small job without a GPU; it holds the scheduler and waits. Each
worker is a job with one GPU, which trains one run at a time. If a job is preempted or out of time its run saves; if it
is killed, what came after the last checkpoint is lost. Either way another worker goes on with the run, and another job
takes the place of the lost one. At the end, and after Ctrl-C, these jobs are cancelled. The same call goes on after any
stop. What a site wants beside the options below (account, partition, modules to load) can be in
~/.config/dask/jobqueue.yaml, for all calls, as dask-jobqueue has it.
"""

import argparse
import sys
import threading

import dask
from dask_jobqueue import SLURMCluster

from patchcl.cli import main as patchcl

RENEW_SECONDS = 30
"""How often jobs that were lost are replaced; Dask takes a job for lost 15 seconds after its worker."""


def main() -> None:
    """Start scheduler and jobs, and have the command work there."""
    asked = arguments()
    if dask.config.get("distributed.comm.tls.ca-file") is None:
        sys.exit("Dask has no keys here: anybody on the network could use the workers. Call bash examples/dask_keys.sh")
    with SLURMCluster(
        processes=1,
        cores=1,  # units at a time
        job_cpu=asked.cores,
        memory=asked.memory,
        walltime=asked.time,
        python=f"exec {sys.executable}",  # so that SIGTERM to the script reaches the worker
        worker_extra_args=["--no-dashboard", "--memory-limit", "0"],  # SLURM looks after the memory
        scheduler_options={"dashboard_address": "127.0.0.1:0"},
        job_script_prologue=[f"export OMP_NUM_THREADS={asked.cores}"],
        job_extra_directives=["--signal=B:TERM@120", *(asked.sbatch or ["--gres=gpu:1"])],
        log_directory=asked.logs,
    ) as cluster:
        ended = threading.Event()
        threading.Thread(target=renew, args=(cluster, asked.jobs, ended), daemon=True).start()
        sys.argv = ["patchcl", *asked.command, "--cluster", cluster.scheduler_address]
        try:
            patchcl()
        finally:
            ended.set()


def arguments() -> argparse.Namespace:
    """The options of this script, and the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=4, help="how many workers (4)")
    parser.add_argument("--cores", type=int, default=8, help="of each (8)")
    parser.add_argument("--memory", default="32GB", help="of each (32GB)")
    parser.add_argument("--time", default="04:00:00", help="of each; then another takes its place (04:00:00)")
    parser.add_argument("--sbatch", action="append", help="an option for sbatch, can come again (--gres=gpu:1)")
    parser.add_argument("--logs", default="dask-jobs", help="folder for what the jobs print (dask-jobs)")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="as after `patchcl`, without --cluster")
    return parser.parse_args()


def renew(cluster: SLURMCluster, jobs: int, ended: threading.Event) -> None:
    """Submit as many jobs as are missing, again and again."""
    cluster.scale(jobs=jobs)
    while not ended.wait(RENEW_SECONDS):
        cluster.scale(jobs=jobs)


if __name__ == "__main__":
    main()
