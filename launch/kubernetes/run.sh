#!/usr/bin/env bash
# Runs a seqgpt command as a Kubernetes Job: one pod a node, with all its NVIDIA GPUs.
#
#   launch/kubernetes/run.sh --name real --image REGISTRY/seqgpt-gpu --claim shared --nodes 2 --gpus_per_node 8 \
#     -- train gin/recipes/bloomz_7b1.gin --run_dir /shared/runs/7b1 --gin 'PRETRAINED="/shared/models/bloomz-7b1"'
#
# --name NAME          of the Job and its Service          --image IMAGE       of launch/docker/gpu.Dockerfile
# --claim NAME         a PersistentVolumeClaim that all nodes can write to (ReadWriteMany), seen as /shared
# --nodes N            (1)                                 --gpus_per_node N   (1)
# --cpus N             a pod asks for (8)                  --memory SIZE       a pod asks for (64Gi)
# --gpu_product NAME   only nodes whose label nvidia.com/gpu.product is this
# --namespace NAME     (that of kubectl)
# --restarts N         times that the pods are started again after a failure (10); preemption and exit code 75 are free
# --wandb_secret NAME  a Secret whose key WANDB_API_KEY is that of Weights & Biases
# --env NAME=VALUE     repeatable
# --dry_run            print the manifest and apply nothing
#
# A pod that is told to go has 2 minutes to save. Exit code 2, which says that the command is wrong, ends the Job.
set -euo pipefail
. "$(dirname "$0")/../arguments.sh"

name="" image="" claim="" nodes=1 gpus_per_node=1 cpus=8 memory=64Gi gpu_product="" namespace="" restarts=10
wandb_secret=""
options="name image claim nodes gpus_per_node cpus memory gpu_product namespace restarts wandb_secret"
gpu_environment
shared_environment
patient_environment
read_arguments "$@"
need name image claim
need_numbers nodes gpus_per_node cpus restarts
need_name
check_command "$nodes"

processes() { # where process 0 is, and which one this is
  # shellcheck disable=SC2016  # Kubernetes fills it in
  ((nodes == 1)) || printf '            - "%s"\n' --coordinator "$name-0.$name:8476" --num_processes "$nodes" \
    --process_id '$(JOB_COMPLETION_INDEX)'
}

manifest() {
  cat <<YAML
apiVersion: v1
kind: Service  # gives each pod the name that process 0 is found by
metadata:
  name: $name
spec:
  clusterIP: None
  publishNotReadyAddresses: true
  selector:
    batch.kubernetes.io/job-name: $name
---
apiVersion: batch/v1
kind: Job
metadata:
  name: $name
spec:
  completionMode: Indexed
  completions: $nodes
  parallelism: $nodes
  backoffLimit: $((restarts * nodes))
  podFailurePolicy:
    rules:
      - action: FailJob
        onExitCodes: {containerName: seqgpt, operator: In, values: [2]}
      - action: Ignore
        onExitCodes: {containerName: seqgpt, operator: In, values: [75]}
      - action: Ignore
        onPodConditions: [{type: DisruptionTarget}]
  template:
    spec:
      restartPolicy: Never
      subdomain: $name
      terminationGracePeriodSeconds: 120${gpu_product:+
      nodeSelector: {nvidia.com/gpu.product: $(json "$gpu_product")\}}
      containers:
        - name: seqgpt
          image: $(json "$image")
          args:
$(yaml_words 12)
$(processes)
          env:
$(yaml_variables 12)
          resources:
            requests: {cpu: $cpus, memory: $memory}
            limits: {nvidia.com/gpu: $gpus_per_node}
          volumeMounts:
            - {name: shared, mountPath: /shared}
            - {name: shm, mountPath: /dev/shm}
      volumes:
        - name: shared
          persistentVolumeClaim: {claimName: $claim}
        - name: shm  # NCCL needs more than a container's 64 MiB
          emptyDir: {medium: Memory}
YAML
}

if $dry_run; then manifest; else manifest | kubectl ${namespace:+--namespace "$namespace"} apply --filename -; fi
