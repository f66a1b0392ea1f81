#!/usr/bin/env bash
# Submits a seqgpt command as a SLURM job: one process a node, with all its GPUs.
#
#   launch/slurm/run.sh --nodes 2 --gpus_per_node 8 --time 12:00:00 \
#     -- train gin/recipes/bloomz_7b1.gin --run_dir /shared/runs/7b1 --gin 'PRETRAINED="/shared/models/bloomz-7b1"'
#
# --nodes N            (1)         --gpus_per_node N   (1)        --cpus_per_task N   (16)
# --time LIMIT         (24:00:00)  --partition NAME    --account NAME
# --name NAME          of the job (seqgpt)
# --log_dir DIR        where NAME-JOB.out goes (.)
# --image FILE.sif     run in this Apptainer image of launch/docker/gpu.Dockerfile; else the seqgpt on the PATH
# --bind DIR           with --image: a folder that the container sees too (/shared)
# --restarts N         times that the job is put back into the queue (100)
# --env NAME=VALUE     repeatable; the rest of the environment is that of the submitting shell
# --dry_run            print the batch script and submit nothing
#
# The command gets SIGTERM 3 minutes before the time limit and when it is preempted, saves, and ends with exit code 75;
# then the job is queued again and goes on. --run_dir must be on a disk that all nodes share.
set -euo pipefail
. "$(dirname "$0")/../arguments.sh"

name=seqgpt nodes=1 gpus_per_node=1 cpus_per_task=16 time=24:00:00 partition="" account="" log_dir=. image=""
bind=/shared restarts=100
options="name nodes gpus_per_node cpus_per_task time partition account log_dir image bind restarts"
gpu_environment
read_arguments "$@"
need_numbers nodes gpus_per_node cpus_per_task restarts
need_name
check_command "$nodes"

batch_script() {
  local where=() variable
  [[ -z $image ]] || where=(apptainer exec --nv --bind "$bind" "$image")
  cat <<SCRIPT
#!/usr/bin/env bash
#SBATCH --job-name=$name
#SBATCH --nodes=$nodes
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=$gpus_per_node
#SBATCH --cpus-per-task=$cpus_per_task
#SBATCH --time=$time
#SBATCH --output=$log_dir/%x-%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=TERM@180
${partition:+#SBATCH --partition=$partition
}${account:+#SBATCH --account=$account
}set -euo pipefail
$(for variable in $(variables); do echo "export $(quoted "$variable=${environment[$variable]}")"; done)
status=0
# One process that is done saving must not end the others: no --kill-on-bad-exit.
srun --kill-on-bad-exit=0 --cpus-per-task=$cpus_per_task $(quoted "${where[@]}" seqgpt "${command[@]}") || status=\$?
if ((status == 75 && \${SLURM_RESTART_COUNT:-0} < $restarts)); then
  scontrol requeue "\$SLURM_JOB_ID"
fi
exit "\$status"
SCRIPT
}

if $dry_run; then batch_script; else batch_script | sbatch; fi
