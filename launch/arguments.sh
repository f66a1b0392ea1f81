#!/usr/bin/env bash
# What the launch scripts share: options, refusals, variables of the processes, quoting. Sourced by them, never run.
#
# A script sets `options` and `switches`, the names of what it takes; --NAME VALUE sets the variable NAME, a switch sets
# it to true. Its first comment is its help. What follows -- is the seqgpt command.

dry_run=false
command=()
options="" switches=""
declare -A environment=() # of the processes: defaults of the script, then --env NAME=VALUE

fail() {
  echo "${0##*/launch/}: error: $*" >&2
  exit 2
}

read_arguments() {
  local option
  while (($#)); do
    option=${1#--}
    case $1 in
      --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" && exit ;;
      --dry_run) dry_run=true && shift ;;
      --) shift && command=("$@") && return ;;
      --*)
        if [[ " $switches " == *" $option "* ]]; then
          printf -v "$option" true && shift && continue
        fi
        [[ " $options env " == *" $option "* ]] || fail "unknown option $1 (--help lists them)"
        (($# > 1)) && [[ $2 != -- && -n $2 ]] || fail "$1 has no value (give $1 VALUE; --help says which)"
        if [[ $option == env ]]; then
          [[ $2 =~ ^[A-Za-z_][A-Za-z_0-9]*= ]] || fail "--env $2 has no name (give --env NAME=VALUE)"
          environment[${2%%=*}]=${2#*=}
        else
          printf -v "$option" '%s' "$2"
        fi
        shift 2
        ;;
      *) fail "'$1' is no option (the seqgpt command goes last, after --: -- train RECIPE.gin --run_dir DIR)" ;;
    esac
  done
}

need() { # names of options that must have a value
  local option
  for option in "$@"; do [[ -n ${!option} ]] || fail "--$option is missing (--help says what it is)"; done
}

need_numbers() { # names of options that must be whole numbers above 0
  local option
  for option in "$@"; do
    [[ ${!option} =~ ^[1-9][0-9]*$ ]] || fail "--$option is '${!option}' (give a whole number above 0)"
  done
}

need_name() { # --name must be one for Kubernetes and Google Cloud
  [[ ${name:?} =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] ||
    fail "--name is '$name' (use at most 40 small letters, digits and -, with a letter first and no - last)"
}

# The seqgpt command can run on `hosts` (a number, or "all"), and its results lie where all of them see them.
check_command() {
  local hosts=$1 i run_dir=""
  ((${#command[@]})) || fail "no seqgpt command (put it after --: -- train RECIPE.gin --run_dir DIR)"
  [[ $hosts == 1 || ${command[0]} == train || ${command[0]} == finetune ]] ||
    fail "seqgpt ${command[0]} runs on one host (only train and finetune run on several)"
  for ((i = 0; i < ${#command[@]}; i++)); do
    case ${command[i]} in
      --run_dir | --out) run_dir=${command[i + 1]:-} ;;
      --run_dir=* | --out=*) run_dir=${command[i]#*=} ;;
    esac
  done
  [[ ${command[0]} != train || -n $run_dir ]] || fail "--run_dir is missing (a path on a disk that all hosts share)"
  [[ $run_dir != *://* ]] || fail "$run_dir is no path (results need a file system that all hosts share)"
  [[ -z $run_dir || $run_dir == /* ]] || fail "$run_dir is relative (give an absolute path, on a disk all hosts share)"
}

# --- variables -------------------------------------------------------------------------------------------------------

gpu_environment() {
  # Overlaps communication with computation: https://docs.jax.dev/en/latest/gpu_performance_tips.html
  environment[XLA_FLAGS]=--xla_gpu_enable_latency_hiding_scheduler=true
  # Of a GPU's memory; jax takes 0.75: https://docs.nvidia.com/jax-toolbox/performance-profiling/gpu-performance
  environment[XLA_PYTHON_CLIENT_MEM_FRACTION]=0.9
}

tpu_environment() {
  # Gathers of parameters run beside computation: https://docs.jax.dev/en/latest/xla_flags.html, TPU XLA flags
  environment[LIBTPU_INIT_ARGS]="--xla_enable_async_all_gather=true --xla_tpu_enable_async_collective_fusion=true"
  environment[LIBTPU_INIT_ARGS]+=" --xla_tpu_enable_async_collective_fusion_fuse_all_gather=true"
  environment[LIBTPU_INIT_ARGS]+=" --xla_tpu_overlap_compute_collective_tc=true"
}

shared_environment() { # where all hosts see one disk as /shared
  environment[SEQGPT_DATA_DIR]=/shared/data
  environment[SEQGPT_CACHE_DIR]=/shared/cache
}

patient_environment() { # where a cluster makes machines for some processes while others run already
  environment[SEQGPT_JOIN_SECONDS]=3600
}

variables() { # their names
  printf '%s\n' "${!environment[@]}" | sort
}

# --- quoting ---------------------------------------------------------------------------------------------------------

quoted() { # words as a line of shell
  local line
  printf -v line '%q ' "$@"
  echo "${line% }"
}

json() { # a word as a JSON string, which is one of YAML too; Kubernetes fills in $(NAME), and $$( is a plain $(
  local word=$1 variable="\$("
  word=${word//"$variable"/"\$$variable"}
  word=${word//\\/\\\\} word=${word//\"/\\\"} word=${word//$'\n'/\\n} word=${word//$'\t'/\\t}
  echo "\"$word\""
}

yaml_words() { # a list of the seqgpt command's words, after so many blanks
  local word
  for word in "${command[@]}"; do printf '%*s- %s\n' "$1" "" "$(json "$word")"; done
}

yaml_variables() { # a list of the variables, after so many blanks; --wandb_secret names the Secret of one more
  local variable
  for variable in $(variables); do
    printf '%*s- {name: %s, value: %s}\n' "$1" "" "$variable" "$(json "${environment[$variable]}")"
  done
  [[ -z ${wandb_secret:-} ]] || printf '%*s- {name: WANDB_API_KEY, valueFrom: {secretKeyRef: %s}}\n' "$1" "" \
    "{name: $wandb_secret, key: WANDB_API_KEY}"
}

act() { # runs a command, or says which one it would be
  if $dry_run; then quoted "$@"; else "$@"; fi
}
