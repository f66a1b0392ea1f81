#!/usr/bin/env bash
# Runs a seqgpt command on a TPU slice of Google Kubernetes Engine, as a JobSet: one pod a host of the slice.
#
#   launch/gke/run.sh --name real --image REGION-docker.pkg.dev/PROJECT/REPO/seqgpt-tpu --claim shared \
#     --accelerator tpu-v5-lite-podslice --topology 4x4 \
#     -- train gin/recipes/bloomz_560m.gin --run_dir /shared/runs/560m --gin 'PRETRAINED="/shared/models/bloomz-560m"'
#
# --name NAME           of the JobSet                      --image IMAGE     of launch/docker/tpu.Dockerfile
# --claim NAME          a PersistentVolumeClaim that all hosts can write to (Filestore, ReadWriteMany), seen as /shared
# --accelerator TYPE    tpu-v5-lite-podslice, tpu-v5p-slice, tpu-v6e-slice ...: node label gke-tpu-accelerator
# --topology SHAPE      of the slice, such as 4x4 or 2x2x4: node label gke-tpu-topology
# --chips_per_host N    of the node pool's machine (4)
# --spot                on Spot machines
# --namespace NAME      (that of kubectl)
# --restarts N          times that all pods are started again (100)
# --wandb_secret NAME   a Secret whose key WANDB_API_KEY is that of Weights & Biases
# --env NAME=VALUE      repeatable
# --dry_run             print the manifest and apply nothing
#
# The cluster needs JobSet (https://jobset.sigs.k8s.io). When a pod ends with an error or its host is taken away, all
# start again and go on from the last checkpoint. Exit code 2, which says that the command is wrong, ends the JobSet.
set -euo pipefail
. "$(dirname "$0")/../arguments.sh"

name="" image="" claim="" accelerator="" topology="" chips_per_host=4 spot=false namespace="" restarts=100
wandb_secret=""
options="name image claim accelerator topology chips_per_host namespace restarts wandb_secret" switches="spot"
tpu_environment
shared_environment
patient_environment
read_arguments "$@"
need name image claim accelerator topology
need_numbers chips_per_host restarts
need_name
[[ $topology =~ ^[1-9][0-9]*(x[1-9][0-9]*){1,2}$ ]] ||
  fail "--topology is '$topology' (give the chips along 2 or 3 axes, such as 4x4 or 2x2x4)"
chips=$((${topology//x/*}))
((chips >= chips_per_host)) || chips_per_host=$chips
((chips % chips_per_host == 0)) ||
  fail "--topology $topology has $chips chips (give a --chips_per_host that divides them, as the machines have)"
hosts=$((chips / chips_per_host))
check_command "$hosts"

spot_label=""
! $spot || spot_label=$'\n                cloud.google.com/gke-spot: "true"'

manifest() {
  cat <<YAML
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $name
  annotations:
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool  # a slice is a node pool
spec:
  failurePolicy:
    maxRestarts: $restarts
    rules:
      - action: FailJobSet
        onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
    - name: slice
      replicas: 1
      template:
        spec:
          completionMode: Indexed
          completions: $hosts
          parallelism: $hosts
          backoffLimit: 0
          podFailurePolicy:
            rules:
              - action: FailJob
                onExitCodes: {containerName: seqgpt, operator: In, values: [2]}
          template:
            spec:
              restartPolicy: Never
              terminationGracePeriodSeconds: 120
              nodeSelector:
                cloud.google.com/gke-tpu-accelerator: $accelerator
                cloud.google.com/gke-tpu-topology: $topology$spot_label
              containers:
                - name: seqgpt
                  image: $(json "$image")
                  args:
$(yaml_words 20)
                  env:
$(yaml_variables 20)
                  ports:
                    - containerPort: 8471  # chips of the slice to each other
                    - containerPort: 8482  # process 0 to the others
                  resources:
                    limits: {google.com/tpu: $chips_per_host}
                  volumeMounts:
                    - {name: shared, mountPath: /shared}
              volumes:
                - name: shared
                  persistentVolumeClaim: {claimName: $claim}
YAML
}

if $dry_run; then manifest; else manifest | kubectl ${namespace:+--namespace "$namespace"} apply --filename -; fi
