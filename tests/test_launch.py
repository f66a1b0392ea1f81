"""The launch scripts: what they say they would do is something that seqgpt, SLURM and Kubernetes understand."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from seqgpt_jax.cli import build_parser
from seqgpt_jax.configuration import load_recipe
from seqgpt_jax.training.hosts import JOIN_SECONDS

REPO = Path(__file__).resolve().parent.parent
LAUNCH = REPO / "launch"
SCRIPTS = sorted(LAUNCH.glob("*/run.sh"))
REQUIRED = {  # options without which a script does nothing
    "gke": "--name real --image reg/tpu --claim shared --accelerator tpu-v5-lite-podslice --topology 4x4",
    "kubernetes": "--name real --image reg/gpu --claim shared --nodes 2 --gpus_per_node 8",
    "slurm": "--nodes 2 --gpus_per_node 8",
    "tpu": "--name real --zone z --accelerator_type v5litepod-16 --runtime_version v2 --image reg/tpu --nfs 10.0.0.2:/",
}
BINDING = """PRETRAINED = 'a "b" $(SEQGPT_DATA_DIR) \\\\ c'"""  # everything that a shell or YAML could take for its own
COMMAND = [
    "train",
    "gin/recipes/bloomz_560m.gin",
    "--run_dir",
    "/shared/run",
    "--gin",
    BINDING,
    "--gin",
    "DATA_DIR='d'",
]


def run(script: str, *more: str, command: Sequence[str] = COMMAND, path: Path | None = None) -> tuple[int, str, str]:
    """Exit code, output and errors. path: a folder of programs that are found first."""
    arguments = ["bash", str(LAUNCH / script / "run.sh"), *shlex.split(REQUIRED[script]), *more]
    environment = {**os.environ, "PATH": f"{path or ''}:{os.environ['PATH']}"}
    done = subprocess.run([*arguments, "--", *command], capture_output=True, text=True, env=environment, cwd=REPO)
    return done.returncode, done.stdout, done.stderr


def printed(script: str, *more: str, command: Sequence[str] = COMMAND) -> str:
    code, output, errors = run(script, "--dry_run", *more, command=command)
    assert (code, errors) == (0, "")
    return output


def manifests(script: str, *more: str, command: Sequence[str] = COMMAND) -> dict[str, Any]:
    """By kind."""
    found = list(yaml.safe_load_all(printed(script, *more, command=command)))
    return {manifest["kind"]: manifest for manifest in found}


def line_with(text: str, word: str) -> list[str]:
    """The words of the one line of shell that has the word."""
    (line,) = [line for line in text.splitlines() if f" {word} " in line]
    return shlex.split(line.split(" || ")[0])


def container(pod: dict[str, Any]) -> dict[str, Any]:
    (only,) = pod["spec"]["containers"]
    return only


def expanded(word: str) -> str:
    """What Kubernetes makes of an argument in the first pod: $(NAME) is a variable's value, $$ a dollar."""
    values = {"JOB_COMPLETION_INDEX": "0", "SEQGPT_DATA_DIR": "/shared/data"}
    return re.sub(r"\$(\$|\((\w+)\))", lambda m: "$" if m[1] == "$" else values.get(m[2], m[0]), word)


def seqgpt_words(script: str) -> list[str]:
    """The seqgpt command as the machines get it."""
    if script in ("gke", "kubernetes"):
        found = manifests(script)
        job = (
            found["Job"]["spec"]
            if script == "kubernetes"
            else found["JobSet"]["spec"]["replicatedJobs"][0]["template"]["spec"]
        )
        return [expanded(word) for word in container(job["template"])["args"]]
    words = line_with(printed(script), "seqgpt" if script == "slurm" else "run")
    return words[words.index("seqgpt" if script == "slurm" else "reg/tpu") + 1 :]


def test_scripts_are_found() -> None:
    assert [path.parent.name for path in SCRIPTS] == sorted(REQUIRED)


@pytest.mark.parametrize("path", [*SCRIPTS, LAUNCH / "arguments.sh"], ids=lambda path: path.parent.name)
def test_shellcheck_finds_nothing(path: Path) -> None:
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert shellcheck is not None
    done = subprocess.run([shellcheck, "-x", "-P", "SCRIPTDIR", str(path)], capture_output=True, text=True)
    assert done.stdout == ""
    assert "set -euo pipefail" in path.read_text() or path.name == "arguments.sh"


@pytest.mark.parametrize("script", REQUIRED)
def test_help_lists_the_options_and_an_example_that_runs(script: str) -> None:
    done = subprocess.run(["bash", str(LAUNCH / script / "run.sh"), "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    source = (LAUNCH / script / "run.sh").read_text()
    taken = " ".join(re.findall(r'^options="(.*?)"|switches="(.*?)"', source, re.MULTILINE)[0])
    for option in [*taken.split(), "env", "dry_run"]:
        assert f"--{option} " in done.stdout or f"--{option}\n" in done.stdout, option
    example = re.search(r"^ +(launch/[^\\\n]*(\\\n[^\\\n]*)+)", done.stdout, re.MULTILINE)
    assert example is not None
    words = shlex.split(example[1].replace("\\\n", " "))
    words.insert(1, "--dry_run")
    assert subprocess.run(["bash", *words], capture_output=True, cwd=REPO).returncode == 0
    options = build_parser().parse_args(words[words.index("--") + 1 :])
    load_recipe(options.recipe, [*options.gin, "DATA_DIR = 'data'"])


@pytest.mark.parametrize("script", REQUIRED)
def test_the_command_arrives_word_for_word(script: str) -> None:
    words = seqgpt_words(script)
    options = build_parser().parse_args(words)
    assert (options.recipe, str(options.run_dir)) == ("gin/recipes/bloomz_560m.gin", "/shared/run")
    assert options.gin == [BINDING, "DATA_DIR='d'"]
    assert load_recipe(options.recipe, options.gin).model.pretrained == 'a "b" $(SEQGPT_DATA_DIR) \\ c'


def test_kubernetes_manifests_are_of_kubernetes() -> None:
    found = manifests("kubernetes", "--wandb_secret", "keys", "--gpu_product", "NVIDIA-H100-80GB-HBM3")
    for manifest in found.values():
        kubernetes_validate.validate(manifest, "1.35", strict=True)
    job, service = found["Job"]["spec"], found["Service"]["spec"]
    pod = job["template"]["spec"]
    assert (job["completions"], job["parallelism"], job["completionMode"]) == (2, 2, "Indexed")
    assert container(job["template"])["resources"]["limits"] == {"nvidia.com/gpu": 8}
    assert pod["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}
    check_pod(job)
    # The name of process 0: that of pod 0, in the Service of its subdomain, which finds the pods by their Job.
    assert service["clusterIP"] == "None"
    assert service["selector"] == {"batch.kubernetes.io/job-name": found["Job"]["metadata"]["name"]}
    options = build_parser().parse_args([expanded(word) for word in container(job["template"])["args"]])
    assert (options.coordinator, options.num_processes) == (f"real-0.{pod['subdomain']}:8476", 2)
    assert container(job["template"])["args"][-2:] == ["--process_id", "$(JOB_COMPLETION_INDEX)"]
    assert found["Service"]["metadata"]["name"] == pod["subdomain"]
    (secret,) = [each for each in container(job["template"])["env"] if "valueFrom" in each]
    assert secret["valueFrom"]["secretKeyRef"] == {"name": "keys", "key": "WANDB_API_KEY"}


def check_pod(job: dict[str, Any]) -> None:
    """What a schema does not say: names that must match."""
    pod = job["template"]["spec"]
    assert {each["name"] for each in container(job["template"])["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
    names = {rule["onExitCodes"]["containerName"] for rule in job["podFailurePolicy"]["rules"] if "onExitCodes" in rule}
    assert names == {container(job["template"])["name"]}
    codes = {rule["onExitCodes"]["values"][0]: rule["action"] for rule in job["podFailurePolicy"]["rules"][:2]}
    assert codes[2] == "FailJob"
    assert pod["restartPolicy"] == "Never"  # a policy for failures asks for it


def test_one_kubernetes_pod_needs_no_coordinator() -> None:
    found = manifests("kubernetes", "--nodes", "1", command=["eval", "--model", "/shared/m", "--mixture", "held_out"])
    assert container(found["Job"]["spec"]["template"])["args"][-1] == "held_out"


def test_the_jobset_is_of_one_slice() -> None:
    found = manifests("gke", "--spot", "--env", "A=b c")["JobSet"]
    assert found["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    assert set(found["spec"]) == {"failurePolicy", "replicatedJobs"}
    (replicated,) = found["spec"]["replicatedJobs"]
    assert (set(replicated), replicated["replicas"]) == ({"name", "replicas", "template"}, 1)
    job = replicated["template"]["spec"]
    kubernetes_validate.validate(
        {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}, "spec": job}, "1.35", strict=True
    )
    check_pod(job)
    assert (job["completions"], job["parallelism"], job["backoffLimit"]) == (4, 4, 0)  # 16 chips, 4 a host
    assert container(job["template"])["resources"]["limits"] == {"google.com/tpu": 4}
    assert job["template"]["spec"]["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "4x4",
        "cloud.google.com/gke-spot": "true",
    }
    # A wrong command fails its Job for that reason, and the reason fails the set.
    (rule,) = found["spec"]["failurePolicy"]["rules"]
    assert rule == {"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    assert {"name": "A", "value": "b c"} in container(job["template"])["env"]
    waits = [each for each in container(job["template"])["env"] if each["name"] == JOIN_SECONDS]
    assert waits == [{"name": JOIN_SECONDS, "value": "3600"}]


@pytest.mark.parametrize(
    ("topology", "per_host", "hosts"), [("2x2", "4", 1), ("1x1", "4", 1), ("2x2x4", "4", 4), ("2x4", "8", 1)]
)
def test_hosts_of_a_slice(topology: str, per_host: str, hosts: int) -> None:
    found = manifests("gke", "--topology", topology, "--chips_per_host", per_host)["JobSet"]
    assert found["spec"]["replicatedJobs"][0]["template"]["spec"]["completions"] == hosts


def test_flags_of_xla_are_known() -> None:
    """XLA ends a process whose XLA_FLAGS it does not know."""
    (value,) = [word for word in printed("slurm").split() if word.startswith("XLA_FLAGS=")]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": value.removeprefix("XLA_FLAGS=")}
    subprocess.run([sys.executable, "-c", "import jax; jax.devices()"], check=True, env=environment)


# --- what they do ----------------------------------------------------------------------------------------------------


def stub(folder: Path, name: str, body: str) -> None:
    """A program that writes its name and words into `calls`, then does as the body says."""
    folder.mkdir(exist_ok=True)
    file = folder / name
    file.write_text(f'#!/usr/bin/env bash\nfolder={folder}\necho "{name} $*" >> $folder/calls\n{body}\n')
    file.chmod(0o755)


@pytest.mark.parametrize(
    ("code", "restarts", "queued"), [(75, "", True), (75, "100", False), (0, "", False), (2, "", False)]
)
def test_a_stopped_slurm_job_is_queued_again(tmp_path: Path, code: int, restarts: str, queued: bool) -> None:
    stub(tmp_path, "srun", f"exit {code}")
    stub(tmp_path, "scontrol", "")
    stub(tmp_path, "sbatch", "cat > $folder/batch")
    assert run("slurm", path=tmp_path)[0] == 0
    batch = (tmp_path / "batch").read_text()
    assert batch == printed("slurm")
    assert batch.index("#SBATCH --signal=TERM@180") < batch.index("set -euo pipefail")
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    if restarts:
        environment["SLURM_RESTART_COUNT"] = restarts
    assert subprocess.run(["bash", str(tmp_path / "batch")], env=environment).returncode == code
    assert ("scontrol requeue 7" in (tmp_path / "calls").read_text()) == queued


@pytest.mark.parametrize("script", ["gke", "kubernetes"])
def test_what_is_applied_is_what_was_shown(script: str, tmp_path: Path) -> None:
    stub(tmp_path, "kubectl", "cat > $folder/applied")
    assert run(script, "--namespace", "team", path=tmp_path)[0] == 0
    assert (tmp_path / "applied").read_text() == printed(script)
    assert (tmp_path / "calls").read_text() == "kubectl --namespace team apply --filename -\n"


# Each `describe` takes a line of `states`, each ssh one of `codes`.
GCLOUD = """
next() { head -1 $folder/$1; sed -i 1d $folder/$1; }
case "$*" in
  *describe*) state=$(next states); [[ $state != MISSING ]] || exit 1; echo $state ;;
  *ssh*) exit "$(next codes)" ;;
esac
"""


@pytest.mark.parametrize(
    ("states", "codes", "calls", "end"),
    [
        ("MISSING WAITING_FOR_RESOURCES ACTIVE", "0", "create ssh", 0),
        ("ACTIVE", "2", "ssh", 2),
        ("ACTIVE SUSPENDING SUSPENDED MISSING ACTIVE", "75 0", "ssh delete create ssh", 0),
        ("ACTIVE ACTIVE ACTIVE", "1 1 1", "ssh ssh ssh", 1),
        ("FAILED", "", "", 2),
    ],
)
def test_a_tpu_slice_that_is_taken_away(tmp_path: Path, states: str, codes: str, calls: str, end: int) -> None:
    stub(tmp_path, "gcloud", GCLOUD)
    stub(tmp_path, "sleep", "")
    (tmp_path / "states").write_text(states.replace(" ", "\n") + "\n")
    (tmp_path / "codes").write_text(codes.replace(" ", "\n") + "\n")
    code, _, errors = run("tpu", "--restarts", "2", path=tmp_path)
    assert code == end, errors
    made = re.findall(r"^gcloud compute tpus \S+ (create|delete|ssh)", (tmp_path / "calls").read_text(), re.MULTILINE)
    assert " ".join(made) == calls
    assert (tmp_path / "states").read_text() == ""
    assert ("says why" in errors) == (states == "FAILED")


# --- bad input -------------------------------------------------------------------------------------------------------

RUN = ["train", "gin/recipes/real.gin", "--run_dir"]


@pytest.mark.parametrize(
    ("script", "more", "command", "message"),
    [
        ("slurm", ["--nods", "2"], COMMAND, "unknown option --nods (--help lists them)"),
        ("slurm", ["--nodes", "0"], COMMAND, "--nodes is '0' (give a whole number above 0)"),
        ("slurm", ["--nodes"], COMMAND, "--nodes has no value (give --nodes VALUE"),
        ("slurm", ["--env", "A"], COMMAND, "--env A has no name (give --env NAME=VALUE)"),
        ("slurm", ["train"], COMMAND, "'train' is no option (the seqgpt command goes last, after --"),
        ("slurm", [], [], "no seqgpt command (put it after --"),
        ("slurm", [], ["eval", "--model", "m"], "seqgpt eval runs on one host (only train and finetune"),
        ("slurm", [], [*RUN, "gs://bucket/run"], "gs://bucket/run is no path (results need a file system"),
        ("slurm", [], [*RUN, "runs/real"], "runs/real is relative (give an absolute path"),
        ("slurm", [], RUN[:2], "--run_dir is missing (a path on a disk"),
        ("kubernetes", ["--name", "Real_1"], COMMAND, "--name is 'Real_1' (use at most 40 small letters"),
        ("gke", ["--topology", "16"], COMMAND, "--topology is '16' (give the chips along 2 or 3 axes"),
        ("gke", ["--topology", "3x3"], COMMAND, "--topology 3x3 has 9 chips (give a --chips_per_host that divides"),
        ("tpu", ["--worker", "1"], COMMAND, "--worker is '1' (all, or 0 where the slice has one host)"),
        ("tpu", [], ["eval", "--model", "m"], "seqgpt eval runs on one host"),
    ],
)
def test_bad_arguments_are_one_line(script: str, more: list[str], command: list[str], message: str) -> None:
    code, output, errors = run(script, "--dry_run", *more, command=command)
    assert (code, output) == (2, "")
    assert errors.startswith(f"{script}/run.sh: error: {message}")
    assert errors.count("\n") == 1


@pytest.mark.parametrize("script", ["gke", "kubernetes", "tpu"])
def test_what_is_missing_is_named(script: str) -> None:
    done = subprocess.run(["bash", str(LAUNCH / script / "run.sh")], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (
        2,
        f"{script}/run.sh: error: --name is missing (--help says what it is)\n",
    )


# --- images ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chip", ["gpu", "tpu"])
def test_an_image_holds_what_is_installed(chip: str) -> None:
    text = (LAUNCH / "docker" / f"{chip}.Dockerfile").read_text()
    copied = {word for line in re.findall(r"^COPY (.*)", text, re.MULTILINE) for word in line.split()[:-1]}
    assert all((REPO / word).exists() for word in copied)
    kept = {line[1:] for line in (REPO / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == kept
    setup = (REPO / "setup.py").read_text()
    assert {"README.md", "LICENSE", "seqgpt_jax", "tasks", "gin"} <= copied  # what setup.py reads
    (extra,) = re.findall(r"\.\[(\w+)\]", text)
    assert f'"{extra}": ' in setup
    assert re.search(r'^ENTRYPOINT \["seqgpt"\]$', text, re.MULTILINE)
    assert f"launch/docker/{chip}.Dockerfile" in text
