"""What a run starts from: its tokenizer, the model's sizes, and weights from elsewhere where the recipe names some."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from seqgpt_jax.data.cache import CacheSpec
from seqgpt_jax.data.mixtures import training_datasets
from seqgpt_jax.data.questions import training_texts
from seqgpt_jax.data.rates import task_weights
from seqgpt_jax.data.texts import dataset_tasks
from seqgpt_jax.models.decoder import Decoder, DecoderConfig, embedding_rows
from seqgpt_jax.recipe import Recipe, Stage
from seqgpt_jax.training.partitioning import ModelSkeleton, Params, params_of
from seqgpt_jax.vocabulary import Vocabulary, train_tokenizer
from seqgpt_jax.whole import whole_folder


@dataclass(frozen=True)
class StartingPoint:
    """load_params gives the weights to start from, or is None for random ones."""

    vocabulary: Vocabulary
    config: DecoderConfig
    load_params: Callable[[], Params] | None


def prepare_start(recipe: Recipe, run_dir: Path) -> StartingPoint:
    """The starting point of a run; its tokenizer is in run_dir/tokenizer afterwards.

    Tokenizer: that of the run, if it has one already > tokenizer.path > model.pretrained > trained on the stages'
    training texts. Raises UserError where a path or mixture is wrong.
    """
    pretrained = _Pretrained(recipe.model.pretrained) if recipe.model.pretrained else None
    folder = run_dir / "tokenizer"
    if (folder / "tokenizer.json").is_file():
        vocabulary = Vocabulary.from_pretrained(folder)
    else:
        if recipe.tokenizer.path:
            vocabulary = Vocabulary.from_pretrained(recipe.tokenizer.path)
        elif pretrained:
            vocabulary = pretrained.load()[1]
        else:
            vocabulary = train_tokenizer(stage_texts(recipe), recipe.tokenizer.vocab_size)
        with whole_folder(folder) as unfinished:
            vocabulary.save(unfinished)
        vocabulary = Vocabulary.from_pretrained(folder)
    if pretrained is None:
        return StartingPoint(vocabulary, recipe.model.config(embedding_rows(vocabulary.size)), None)
    own = pretrained.load()[0].config
    numerics = recipe.model.config(own.vocab_size)
    names = ("param_dtype", "compute_dtype", "remat", "attention", "layer_loop", "lora")
    config = dataclasses.replace(own, **{name: getattr(numerics, name) for name in names})
    return StartingPoint(vocabulary, config, pretrained.params)


def cache_spec(recipe: Recipe, stage: Stage, tokenizer: Path | str) -> CacheSpec:
    """What the token cache of a stage is made of."""
    return CacheSpec(
        mixture=stage.mixture,
        tokenizer=str(tokenizer),
        data_dir=recipe.data.data_dir,
        split=stage.split,
        prompt_format=recipe.prompt.format,
        max_tokens=recipe.data.example_tokens,
        max_supervised=recipe.data.row_supervised,
        ask=recipe.data.ask,
        passes=stage.passes,
        limit=stage.limit,
        seed=recipe.seed,
        protocol=stage.protocol,
        drop_leaks=recipe.data.drop_leaks,
    )


def stage_skeleton(skeleton: ModelSkeleton, stage: Stage, seed: int) -> ModelSkeleton:
    """The model with what a stage leaves as it is. UserError for a pattern of stage.frozen that fits no parameter."""
    layers: list[int] = []
    if stage.freeze_half:
        draw = random.Random(f"freeze_half/{seed}/{stage.name}")
        layers = sorted(draw.sample(range(skeleton.num_layers), skeleton.num_layers // 2))
    return skeleton.freezing(stage.frozen, layers)


def check_stages(recipe: Recipe) -> None:
    """UserError, before anything is trained, for a mixture that a stage cannot read or a weight that names nothing."""
    for stage in recipe.stages:
        datasets = cache_spec(recipe, stage, "").datasets()
        tasks = [name for dataset in datasets for name in dataset_tasks(dataset, stage.objective)]
        task_weights(tasks, stage.weights)
    if recipe.tokenizer.mixture is not None:
        training_datasets(recipe.tokenizer.mixture, "train", recipe.data.data_path())


def stage_texts(recipe: Recipe) -> Iterator[str]:
    """What a tokenizer of this recipe is trained on: texts, labels and answers of every dataset of every stage, or of
    tokenizer.mixture.
    """
    if recipe.tokenizer.mixture is not None:
        datasets = training_datasets(recipe.tokenizer.mixture, "train", recipe.data.data_path())
        config = cache_spec(recipe, recipe.stages[0], "").encode_config()
        yield from training_texts(datasets, "train", recipe.tokenizer.records_per_dataset, config, recipe.seed)
        return
    seen: set[tuple[str, str]] = set()
    for stage in recipe.stages:
        limit = min(recipe.tokenizer.records_per_dataset, stage.limit or recipe.tokenizer.records_per_dataset)
        spec = cache_spec(recipe, stage, "")
        new = [dataset for dataset in spec.datasets() if (dataset.meta.name, stage.split) not in seen]
        seen |= {(dataset.meta.name, stage.split) for dataset in new}
        yield from training_texts(new, stage.split, limit, spec.encode_config(), recipe.seed)


class _Pretrained:
    """A Hugging Face directory that is read at most once."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._loaded: tuple[Decoder, Vocabulary] | None = None

    def load(self) -> tuple[Decoder, Vocabulary]:
        from seqgpt_jax import hf

        if self._loaded is None:
            self._loaded = hf.load_model(Path(self._path))
        return self._loaded

    def params(self) -> Params:
        return params_of(self.load()[0])
