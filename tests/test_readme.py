"""Every command in the README runs: the long ones with a few steps, and on a small part of the data.

One tiny run of the quickstart recipe stands in for runs/quickstart; every later command of the page uses it.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
README = (REPO / "README.md").read_text("utf-8")
FEW_STEPS = (
    "SYNTHETIC_STEPS=3", "SYNTHETIC_RECORDS=20", "tokenizer.records_per_dataset=20", "held_out/evaluation.limit=1",
)  # fmt: skip
QUICKSTART_ONLY = ("MINI_REAL_STEPS=2", "MINI_REAL_RECORDS=20")
REAL_ONLY = ("REAL_STEPS=2", "REAL_RECORDS=20", "held_in/evaluation.limit=1")
REAL_DATASETS = {
    "held_in": {"en": ["wnut17", "ade_corpus", "litbank_events"], "zh": ["bdci_car_topic"]},
    "held_out": {"en": ["ag_news"], "zh": ["weibo_ner"]},
}


def code_blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    lines = (line.split("  #")[0].strip() for block in code_blocks("sh") for line in block.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def run(arguments: list[str], folder: Path, **environment: str) -> str:
    """What a command of the page prints; it runs in `folder`, with no more devices than a user has."""
    cleaned = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    env = {**cleaned, "SEQGPT_CACHE_DIR": str(folder / "cache"), **environment}
    if arguments[0] == "seqgpt":
        arguments = [sys.executable, "-m", "seqgpt_jax.cli", *arguments[1:]]
    done = subprocess.run(arguments, cwd=folder, env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def make_recipe(target: str) -> list[str]:
    """The `seqgpt train` that a make target runs."""
    line = next(
        line for line in (REPO / "Makefile").read_text().split(f"\n{target}:")[1].splitlines() if "seqgpt" in line
    )
    return ["seqgpt", *shlex.split(line.split("/seqgpt", 1)[1])]


def with_bindings(arguments: list[str], bindings: tuple[str, ...]) -> list[str]:
    return [*arguments, *(part for binding in bindings for part in ("--gin", binding))]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a user has it after `make quickstart`, but for the number of steps."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "gin").symlink_to(REPO / "gin")
    printed = run(with_bindings(make_recipe("quickstart"), FEW_STEPS + QUICKSTART_ONLY), folder)
    for expected in (
        "classification",
        "extraction",
        "Examples:",
        "[en ",
        "[zh ",
        "seqgpt predict --model runs/quickstart",
    ):
        assert expected in printed
    return folder


def test_page_names_the_two_commands() -> None:
    assert {"make quickstart", "make real"} <= set(commands())


def test_quickstart_leaves_what_the_page_says(workplace: Path) -> None:
    run_dir = workplace / "runs/quickstart"
    report = json.loads((run_dir / "report.json").read_text())
    assert [stage["name"] for stage in report["stages"]] == ["synthetic", "mini_real"]
    assert all({"steps", "loss_first", "loss_last", "tokens_per_second"} <= set(stage) for stage in report["stages"])
    held_out = report["held_out"]
    assert {"accuracy", "majority_baseline"} <= set(held_out["classification"])
    assert {"span_f1", "parse_error_rate", "hallucination_rate"} <= set(held_out["extraction"])
    assert set(held_out["per_language"]) == {"en", "zh"}
    assert len(held_out["per_task"]) == 11
    listed = re.findall(r"^\| `(\S+?)` \|", README, re.MULTILINE)
    assert len(listed) >= 8
    for name in listed:
        assert list(run_dir.glob(name.rstrip("/"))), name


def test_second_call_goes_on_from_what_is_there(workplace: Path) -> None:
    before = (workplace / "runs/quickstart/metrics.jsonl").read_text()
    run(with_bindings(make_recipe("quickstart"), FEW_STEPS + QUICKSTART_ONLY), workplace)
    assert (workplace / "runs/quickstart/metrics.jsonl").read_text() == before


@pytest.mark.parametrize("command", [c for c in commands() if c.startswith("seqgpt") and " train " not in c])
def test_shell_example(command: str, workplace: Path) -> None:
    assert run(shlex.split(command), workplace)


@pytest.mark.slow
def test_train_example(workplace: Path) -> None:
    (command,) = [c for c in commands() if c.startswith("seqgpt train")]
    run(with_bindings(shlex.split(command), FEW_STEPS + QUICKSTART_ONLY), workplace)


def test_python_examples(workplace: Path) -> None:
    for block in code_blocks("python"):
        assert run([sys.executable, "-c", block], workplace)


def test_exported_model_is_that_of_transformers(workplace: Path) -> None:
    """Logits within 1e-4 in float32, and the same greedy text on 50 prompts, read with the Auto classes alone."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    import jax.numpy as jnp

    from seqgpt_jax.atomic import decompose
    from seqgpt_jax.decoding.generate import generate
    from seqgpt_jax.hf import load_model
    from seqgpt_jax.prompt import get_format
    from seqgpt_jax.synthesis.generator import generate_mixture, generated_dataset_metas, record_meta

    export = workplace / "runs/quickstart/export"
    theirs = transformers.AutoModelForCausalLM.from_pretrained(export).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(export)
    ours, vocabulary = load_model(export)
    assert type(theirs).__name__ == "BloomForCausalLM"
    metas = {meta.name: meta for meta in generated_dataset_metas("mini_held_out")}
    prompts = []
    for record in generate_mixture("mini_held_out", 50):
        meta = metas[record.id.split("-test-")[0]]
        example = decompose(record, record_meta(meta, record), "test")[0]
        prompts.append(get_format("seqgpt_v1").render_prompt(example))
    ids = [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
    for prompt_ids in ids[:5]:
        tokens_BT = jnp.asarray([prompt_ids], jnp.int32)
        hidden, _ = ours(tokens_BT, jnp.arange(len(prompt_ids), dtype=jnp.int32)[None], jnp.ones_like(tokens_BT))
        with torch.no_grad():
            expected = theirs(torch.tensor([prompt_ids])).logits.numpy()
        assert abs(ours.head(hidden)[..., : expected.shape[-1]] - expected).max() < 1e-4
    answers = generate(ours, ids, max_new_tokens=24, eos_id=vocabulary.eos_id, pad_id=vocabulary.pad_id)
    for prompt_ids, answer in zip(ids, answers, strict=True):
        with torch.no_grad():
            out = theirs.generate(torch.tensor([prompt_ids]), max_new_tokens=24, do_sample=False)
        assert tokenizer.decode(out[0, len(prompt_ids) :].tolist()) == tokenizer.decode(answer)


@pytest.mark.slow
def test_make_real_on_some_real_datasets(workplace: Path, data_dir: Path) -> None:
    """The recipe of `make real` on NER, RE, EE and CLS datasets as they lie in the folder of records."""
    folder = workplace / "data"
    folder.mkdir()
    for languages in REAL_DATASETS.values():
        for language, names in languages.items():
            (folder / language).mkdir(exist_ok=True)
            for name in names:
                (folder / language / name).symlink_to((data_dir / language / name).resolve())
    (folder / "partitions.json").write_text(json.dumps(REAL_DATASETS))
    printed = run(with_bindings(make_recipe("real"), FEW_STEPS + REAL_ONLY), workplace, SEQGPT_DATA_DIR=str(folder))
    assert "held_in" in printed
    report = json.loads((workplace / "runs/real/report.json").read_text())
    found = {name: report[name]["num_datasets"] + len(report[name]["unscored"]) for name in REAL_DATASETS}
    assert found == {"held_in": 4, "held_out": 2}  # the one record of a dataset may have no gold
