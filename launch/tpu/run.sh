#!/usr/bin/env bash
# Runs a seqgpt command on all workers of a Cloud TPU slice, which is asked for as a queued resource.
#
#   launch/tpu/run.sh --name seqgpt --zone us-west4-a --accelerator_type v5litepod-16 \
#     --runtime_version v2-alpha-tpuv5-lite --image REGION-docker.pkg.dev/PROJECT/REPO/seqgpt-tpu --nfs 10.0.0.2:/vol1 \
#     -- train gin/recipes/bloomz_560m.gin --run_dir /shared/runs/560m --gin 'PRETRAINED="/shared/models/bloomz-560m"'
#
# --name NAME              of the queued resource, its node and the container
# --zone ZONE              --project NAME  (that of gcloud)
# --accelerator_type TYPE  such as v5litepod-16 or v5p-32      --runtime_version NAME  that goes with it
# --image IMAGE            of launch/docker/tpu.Dockerfile, in a registry that the workers' service account can read
# --nfs HOST:/SHARE        a network disk (Filestore), which all workers see as /shared
# --spot                   on Spot machines
# --worker all|0           0: a command other than train and finetune, on a slice of one host (all)
# --restarts N             times that the command is started again, on a new slice where the old one was taken (100)
# --env_file PATH          a file on the shared disk with NAME=VALUE lines, for what is secret (WANDB_API_KEY)
# --env NAME=VALUE         repeatable
# --delete                 give the slice back when the command is done; else it stays, and is charged for
# --dry_run                print the commands and run none
#
# Waits for the slice, starts the container on every worker and shows what it prints. When the connection breaks, the
# containers run on: the same command finds them again. Exit code 2, which says that the command is wrong, ends it.
set -euo pipefail
. "$(dirname "$0")/../arguments.sh"

name="" zone="" project="" accelerator_type="" runtime_version="" image="" nfs="" spot=false worker=all restarts=100
env_file="" delete=false
options="name zone project accelerator_type runtime_version image nfs worker restarts env_file" switches="spot delete"
tpu_environment
shared_environment
read_arguments "$@"
need name zone accelerator_type runtime_version image nfs
need_numbers restarts
need_name
[[ $worker == all || $worker == 0 ]] || fail "--worker is '$worker' (all, or 0 where the slice has one host)"
check_command "${worker/0/1}"

place=("--zone=$zone" ${project:+"--project=$project"})
queue=(gcloud compute tpus queued-resources)
ssh=(gcloud compute tpus tpu-vm ssh "$name" "${place[@]}" "--worker=$worker")

state() { "${queue[@]}" describe "$name" "${place[@]}" '--format=value(state.state)' 2>/dev/null || echo MISSING; }

create() {
  local spot_flag=()
  ! $spot || spot_flag=(--spot)
  act "${queue[@]}" create "$name" "${place[@]}" "--node-id=$name" "--accelerator-type=$accelerator_type" \
    "--runtime-version=$runtime_version" "${spot_flag[@]}"
}

delete() { act "${queue[@]}" delete "$name" "${place[@]}" --force --quiet; }

wait_for_slice() {
  local found
  while found=$(state) && [[ $found != ACTIVE ]]; do
    echo "$(date +%T) queued resource $name: $found" >&2
    case $found in
      MISSING) create ;;
      SUSPENDED) delete ;; # it was taken away
      FAILED) fail "it could not be had: $(quoted "${queue[@]}" describe "$name" "${place[@]}") says why (delete it)" ;;
    esac
    sleep 30
  done
}

# What each worker runs: the container, unless it runs already; its output; its exit code.
worker_script() {
  local flags=(--detach --name "$name" --privileged --net=host --volume /shared:/shared) variable
  [[ -z $env_file ]] || flags+=(--env-file "$env_file")
  for variable in $(variables); do flags+=(--env "$variable=${environment[$variable]}"); done
  cat <<SCRIPT
set -eu
command -v mount.nfs >/dev/null || { sudo apt-get -qq update; sudo apt-get -qq install nfs-common; } >/dev/null
sudo mkdir -p /shared
mountpoint -q /shared || sudo mount -t nfs $(quoted "$nfs") /shared
if [ "\$(sudo docker inspect --format '{{.State.Running}}' $name 2>/dev/null)" != true ]; then
  sudo docker rm --force $name >/dev/null 2>&1 || true
  sudo gcloud --quiet auth configure-docker $(quoted "${image%%/*}") >/dev/null 2>&1
  sudo docker pull --quiet $(quoted "$image")
  sudo docker run $(quoted "${flags[@]}" "$image" "${command[@]}")
fi
sudo docker logs --follow $name
exit "\$(sudo docker wait $name)"
SCRIPT
}

on_workers() {
  "${ssh[@]}" "--command=$(worker_script)"
}

if $dry_run; then
  create
  echo "$(quoted "${ssh[@]}") --command=SCRIPT   # once the queued resource is ACTIVE"
  ! $delete || delete
  printf '\n# SCRIPT, on each worker\n'
  worker_script
  exit
fi
for ((attempt = 0; ; attempt++)); do
  wait_for_slice
  status=0
  on_workers || status=$?
  ((status != 0 && status != 2 && attempt < restarts)) || break
  echo "$(date +%T) exit code $status; starting again ($((attempt + 1)) of $restarts)" >&2
  sleep 30
done
if $delete; then
  delete
else
  echo "The slice is kept, and charged for; to give it back:" >&2
  quoted "${queue[@]}" delete "$name" "${place[@]}" --force >&2
fi
exit "$status"
