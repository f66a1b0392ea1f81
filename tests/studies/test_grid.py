"""What a study may declare, and the studies of launch/studies/."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from seqgpt_jax.errors import UserError
from seqgpt_jax.studies.grid import load_config, parse_study
from seqgpt_jax.studies.jobs import chosen_jobs, study_jobs
from seqgpt_jax.studies.sizes import SIZES
from tests.studies.toy import toy_config

REPO = Path(__file__).resolve().parents[2]
FILES = sorted((REPO / "launch/studies").glob("*.py"))
VARIANTS = [f"{file}:{size}" for file in FILES for size in SIZES]
VARIANTS += [f"{REPO}/launch/studies/examples_per_dataset.py:{size}_fixed_total" for size in SIZES]


@pytest.mark.parametrize("given", VARIANTS, ids=lambda given: given.rsplit("/", 1)[-1])
def test_studies_build_and_their_cells_are_distinct(given: str, tmp_path: Path) -> None:
    study = parse_study(load_config(given), given)
    jobs = study_jobs(study, tmp_path, given)  # every recipe and binding is built
    names = [job.name for job in jobs]
    assert len(names) == len(set(names))
    evaluations = [job for job in jobs if job.arguments[0] == "eval"]
    assert len(evaluations) == len(study.cells) * len(study.seeds)
    asked = [(job.needs, [part for part in job.arguments if "evaluations" not in part]) for job in evaluations]
    assert all(asked.count(each) == 1 for each in asked)  # no two cells are the same thing under two names
    configs = [job.settings["config"] for job in jobs if job.arguments[0] == "train"]
    assert len(configs) == len(set(configs))
    first = {name for job in jobs for name in job.needs}
    assert all(names.index(name) < names.index(job.name) for job in jobs for name in job.needs)
    assert {"train-stage1-seed0", "train-stage1-2x64-seed0", "train-stage1-560m-seed0"} & first


def test_every_study_is_there() -> None:
    assert [file.stem for file in FILES] == [
        "chunk_size", "constrained", "examples_per_dataset", "languages", "leave_one_task_out", "negatives",
        "num_datasets", "stage1_by_size",
    ]  # fmt: skip


def changed(**fields: Any) -> dict[str, Any]:
    return {**toy_config(), **fields}


AXIS = {"name": "size", "values": [{"name": "nano"}, {"name": "mini"}]}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (changed(seed=[0]), "toy.py: seed: no such field (did you mean seeds)"),
        ({"title": "T"}, "toy.py: recipe: missing (give it)"),
        (changed(seeds=[]), "toy.py: seeds: [] is not a list of whole numbers (such as (0, 1))"),
        (changed(seeds=[1, 1]), "toy.py: seeds: [1, 1] holds one twice (leave it out)"),
        (changed(axes=[{"name": "size", "values": []}]), "axis 'size': values: empty (give at least one)"),
        (changed(axes=[{"name": "a", "values": [{"name": "x/y"}]}]), "values[0].name: 'x/y' is no folder name"),
        (changed(axes=[{"name": "a", "values": [{"name": "x"}] * 2}]), "axis 'a': two are named 'x'"),
        (changed(axes=[AXIS], baseline={"siz": "nano"}), "baseline['siz']: no such axis (there is size)"),
        (changed(axes=[AXIS], baseline={"size": "maxi"}), "baseline['size']: no value 'maxi' (there is nano or mini)"),
        (changed(evaluation={"mixture": "m", "limit": 0}), "evaluation.limit: 0 is not a whole number above 0"),
        (changed(figure={"kind": "lines"}), "axis 'size': value 'nano': no x above 0"),
        (changed(figure={"kind": "pie"}), "figure.kind: 'pie' is unknown (choose lines or bars)"),
        (changed(measures=["NRE"]), "measure 'NRE' is unknown"),
        (changed(measures=["own"]), "measures: 'own', but nano-on has no measure (give its value a measure)"),
        (changed(gin="a=1"), "gin: 'a=1' is not a list of strings"),
    ],
)  # fmt: skip
def test_bad_configs_are_refused_by_file_field_and_remedy(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_study(config, "toy.py")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file"),
        ("x = 1", "no function get_config"),
        ("raise RuntimeError('boom')", "RuntimeError: boom"),
        ("def get_config(): return {}", "get_config returns dict (return an ml_collections.ConfigDict)"),
        ("def get_config(): return 1 / 0", "get_config: ZeroDivisionError"),
    ],
)
def test_files_that_are_no_study(tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "study.py"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError) as caught:
        load_config(str(file))
    assert message in str(caught.value) and "study.py" in str(caught.value)


@pytest.mark.parametrize(
    ("gin", "message"),
    [
        (["model.widht=8"], "model has no 'widht' (did you mean width"),
        (["no/stage.steps=8"], "there is no no/stage"),
        (["START='{stage2}/export'"], "{stage2} stands for nothing (there is {seed}, {stage1})"),
    ],
)
def test_bindings_that_gin_does_not_know(tmp_path: Path, gin: list[str], message: str) -> None:
    given = f"{REPO}/launch/studies/num_datasets.py:cpu"
    config = load_config(given)
    study = parse_study({**config, "gin": [*config["gin"], *gin]}, "toy.py")
    with pytest.raises(UserError) as caught:
        study_jobs(study, tmp_path, "toy.py")
    assert message in str(caught.value) and str(caught.value).startswith("toy.py: ")


def test_a_recipe_that_is_missing_and_options_that_eval_has_not(tmp_path: Path) -> None:
    config = load_config(f"{REPO}/launch/studies/num_datasets.py:cpu")
    with pytest.raises(UserError, match="toy.py: studies/gone.gin: no such gin file"):
        study_jobs(parse_study({**config, "recipe": "studies/gone.gin"}, "toy.py"), tmp_path, "toy.py")
    evaluation = {"mixture": "held_out", "options": ["--beams=4"]}
    with pytest.raises(UserError, match="options of the evaluation: .*unrecognized arguments: --beams=4"):
        study_jobs(parse_study({**config, "evaluation": evaluation}, "toy.py"), tmp_path, "toy.py")


def test_only_chooses_cells_with_what_they_need(tmp_path: Path) -> None:
    given = f"{REPO}/launch/studies/num_datasets.py:cpu"
    study = parse_study(load_config(given), given)
    jobs = study_jobs(study, tmp_path, given)
    names = [job.name for job in chosen_jobs(jobs, study, ["8-seed1"])]
    assert names == ["train-stage1-seed1", "train-8-seed1", "eval-8-seed1"]
    assert len(chosen_jobs(jobs, study, ["8"])) == 6
    assert [job.name for job in chosen_jobs(jobs, study, ["stage1-seed0"])] == ["train-stage1-seed0"]
    with pytest.raises(UserError, match="--only 9: no such cell \\(there is 4, 8, 16, 32, 64, 100; each"):
        chosen_jobs(jobs, study, ["9"])


def test_the_baseline_of_a_cell_differs_in_the_named_axis_alone() -> None:
    study = parse_study(toy_config(), "toy.py")
    assert [study.baseline_of(cell).name for cell in study.cells] == ["nano-off", "nano-off", "mini-off", "mini-off"]
