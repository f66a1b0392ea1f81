"""A recipe from start to end: train its stages, export the model, judge it, write the report, show what it can do."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from seqgpt_jax import hf
from seqgpt_jax.analysis.html_report import write_html
from seqgpt_jax.averages import Evaluation
from seqgpt_jax.configuration import operative_config_str
from seqgpt_jax.data.datasets import Dataset, sample_records
from seqgpt_jax.data.mixtures import resolve_mixture
from seqgpt_jax.errors import UserError
from seqgpt_jax.evaluation import datasets_with, evaluate
from seqgpt_jax.models.decoder import Decoder
from seqgpt_jax.occurrences import normalise_text
from seqgpt_jax.predictor import SeqGPT
from seqgpt_jax.recipe import EvaluationSettings, Recipe
from seqgpt_jax.records import ClassificationRecord, ExtractionRecord, Record, RelationRecord
from seqgpt_jax.report import few_shot_note, write_report
from seqgpt_jax.sections import section_to_text
from seqgpt_jax.training.checkpoints import load_run, newest_stage
from seqgpt_jax.training.hosts import is_main
from seqgpt_jax.training.loop import train
from seqgpt_jax.training.profiler import ProfileWindow
from seqgpt_jax.training.stage_evaluation import Evaluator
from seqgpt_jax.training.start import check_stages
from seqgpt_jax.vocabulary import Vocabulary

_SHOWN_PER_LANGUAGE = 3
_SHOWN_CHARACTERS = 240  # of a text or an answer: real ones may be articles


def run_recipe(
    recipe: Recipe,
    run_dir: Path,
    before: Mapping[str, Evaluation] | None = None,
    *,
    profile: ProfileWindow | None = None,
    wandb_project: str | None = None,
    allow_changed_config: bool = False,
    resume: bool = True,
) -> dict[str, Evaluation]:
    """Everything that `seqgpt train` does; results lie in run_dir (docs: README, "What a run leaves").

    Returns the recipe's evaluations by name. before: sections of the report that come first. Of several processes all
    train and evaluate in step, and process 0 writes.

    Raises UserError, before anything is trained, for a stage or an evaluation that cannot be run.
    """
    check_stages(recipe)
    mixtures = evaluation_datasets(recipe)
    result = train(
        recipe,
        run_dir,
        evaluator=make_evaluator(recipe),
        config_text=operative_config_str(),
        profile=profile,
        wandb_project=wandb_project,
        allow_changed_config=allow_changed_config,
        resume=resume,
    )
    predictor = SeqGPT(result.model, result.vocabulary, prompt_format=recipe.prompt.format)
    sections = judge(predictor, recipe, mixtures, run_dir / "predictions" if is_main() else None, str(run_dir))
    examples = [
        list(example_predictions(predictor, mixtures[settings.name], settings.split))
        for settings in recipe.evaluations[-1:]
    ]
    if not is_main():
        return sections
    written = {**(before or {}), **sections}
    write_report(run_dir, result.stages, written)
    for name in written:
        write_html(run_dir / "eval" / f"{name}.json")
    export_run(run_dir, run_dir / "export")
    note = few_shot_note({stage.name: stage.protocol for stage in result.stages})
    if note:
        print(f"\n{note}")
    for name, evaluation in sections.items():
        print("\n" + section_to_text(name, evaluation))
    for lines in examples:
        print("\nExamples:", *lines, sep="\n")
    print(next_commands(run_dir))
    return sections


def evaluation_datasets(recipe: Recipe) -> dict[str, list[Dataset]]:
    """The datasets of the recipe's evaluations, by their names. UserError for a mixture that cannot be judged on."""
    return {settings.name: _datasets(settings, recipe) for settings in recipe.evaluations}


def judge(
    predictor: SeqGPT,
    recipe: Recipe,
    mixtures: Mapping[str, list[Dataset]],
    predictions_dir: Path | None = None,
    name: str | None = None,
) -> dict[str, Evaluation]:
    """The recipe's evaluations of a model, by name. mixtures: of evaluation_datasets. name: of the model."""
    return {
        settings.name: evaluate(
            predictor,
            mixtures[settings.name],
            settings.split,
            settings.limit,
            predictions_dir,
            progress=is_main(),
            seed=settings.seed,
            name=name,
        )
        for settings in recipe.evaluations
    }


def make_evaluator(recipe: Recipe) -> Evaluator:
    """Judges a model during training as `seqgpt eval` would. UserError for a mixture that no stage can be judged on."""
    mixtures = {settings: _datasets(settings, recipe) for stage in recipe.stages for settings in stage.evaluations}

    def evaluator(model: Decoder, vocabulary: Vocabulary, settings: EvaluationSettings) -> dict[str, float]:
        predictor = SeqGPT(model, vocabulary, prompt_format=recipe.prompt.format)
        datasets, split, limit, seed = mixtures[settings], settings.split, settings.limit, settings.seed
        evaluation = evaluate(predictor, datasets, split, limit, progress=is_main(), num_unconstrained=0, seed=seed)
        return evaluation.summary()

    return evaluator


def _datasets(settings: EvaluationSettings, recipe: Recipe) -> list[Dataset]:
    datasets = resolve_mixture(settings.mixture, recipe.data.data_path())
    try:
        datasets_with(datasets, settings.split)
    except UserError as error:
        raise UserError(f"evaluation '{settings.name}': {error}") from None
    return datasets


def export_run(run_dir: Path, out_dir: Path, dtype: str = "float32", max_shard_bytes: int = hf.MAX_SHARD_BYTES) -> None:
    """Writes the newest weights of a run as a Hugging Face directory; UserError if there is no run or no checkpoint."""
    model, vocabulary = load_run(run_dir)
    card = _model_card(run_dir)
    hf.export_model(model, vocabulary, out_dir, model_card=card, dtype=dtype, max_shard_bytes=max_shard_bytes)


def export_run_adapter(run_dir: Path, out_dir: Path) -> None:
    """Writes the LoRA of a run in PEFT's format; UserError if there is no run, or it trained no LoRA on a model."""
    base = newest_stage(run_dir).pretrained
    if base is None:
        raise UserError(f"{run_dir} started from random weights: no base model to put a LoRA on (export it whole)")
    model, _ = load_run(run_dir)
    hf.export_adapter(model, base, out_dir)


def _model_card(run_dir: Path) -> hf.ModelCard:
    """What the run's report says about the model: what it was trained on, and how it did."""
    file = run_dir / "report.json"
    report = json.loads(file.read_text("utf-8")) if file.is_file() else {"stages": []}
    data = [
        (stage["name"], f"{stage['steps']} steps, loss {_shown(stage['loss_first'])} to {_shown(stage['loss_last'])}")
        for stage in report["stages"]
    ]
    note = few_shot_note({stage["name"]: stage.get("protocol", "") for stage in report["stages"]})
    results = [
        (f"{section}, {group} {metric}", f"{report[section][group][metric]:.3f}")
        for section in report
        if isinstance(report[section], dict)
        for group, metric in (("classification", "accuracy"), ("extraction", "span_f1"))
        if group in report[section]
    ]
    limits = (note,) if note else ()
    return hf.ModelCard(name=f"SeqGPT {run_dir.name}", training_data=tuple(data), results=tuple(results), limits=limits)


def _shown(loss: float | None) -> str:
    return "not a number" if loss is None else f"{loss:.2f}"


def example_predictions(predictor: SeqGPT, datasets: list[Dataset], split: str) -> Iterator[str]:
    """A few records of each language with what the model says and what is right, in turn over tasks."""
    for language in ("en", "zh"):
        chosen = [dataset for dataset in datasets if dataset.meta.language == language and split in dataset.splits]
        stride = max(1, len(chosen) // _SHOWN_PER_LANGUAGE)
        for dataset in chosen[::stride][:_SHOWN_PER_LANGUAGE]:
            (gold,) = sample_records(dataset, split, 1)
            (predicted,) = predictor.predict_records([gold], [dataset.record_meta(gold)], split, False)
            yield f"  [{language} {dataset.meta.task}] {_shortened(normalise_text(gold.text))}"
            yield f"      model  {_shortened(_answer_line(predicted.record))}"
            yield f"      gold   {_shortened(_answer_line(gold))}"


def _shortened(line: str) -> str:
    return line if len(line) <= _SHOWN_CHARACTERS else f"{line[:_SHOWN_CHARACTERS].rstrip()} ..."


def _answer_line(record: Record) -> str:
    if isinstance(record, ClassificationRecord):
        return ", ".join(record.labels) or "None"
    if isinstance(record, ExtractionRecord):
        return "; ".join(f"{span.label}: {span.text}" for span in record.spans) or "None"
    if isinstance(record, RelationRecord):
        text = [entity.text for entity in record.entities]
        return "; ".join(f"{text[r.head]} -{r.label}-> {text[r.tail]}" for r in record.relations) or "None"
    return "; ".join(f"{event.type}: {event.trigger.text}" for event in record.events) or "None"


def next_commands(run_dir: Path) -> str:
    return f"""
Everything is in {run_dir}: report.md, eval/*.html, figures/, predictions/, export/. Next:
  seqgpt predict --model {run_dir} --classify 'book ticket' 'cancel booking' -- 'please cancel my seat for Monday'
  seqgpt predict --model {run_dir} --extract person city -- 'Ada Park moved to Norford.'
  seqgpt eval --model {run_dir} --mixture mini_held_out_zh --limit 20
  seqgpt export --run {run_dir} --out exported"""
