"""What a training run is, as plain data: the model, the tokenizer, the data, and a list of stages.

Everything here is a frozen dataclass with a default where one makes sense, so a recipe can be written in Python as
well as in gin (configuration.py gives these classes to gin under the names in brackets).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from seqgpt_jax.checked import Checked
from seqgpt_jax.data.packing import row_shapes
from seqgpt_jax.data.plan import PlanConfig
from seqgpt_jax.data.texts import Objective
from seqgpt_jax.errors import UserError
from seqgpt_jax.models.decoder import DecoderConfig
from seqgpt_jax.models.lora import LoraConfig
from seqgpt_jax.models.loss import DEFAULT_LOSS, LossConfig
from seqgpt_jax.models.presets import get_preset
from seqgpt_jax.negatives import AskConfig
from seqgpt_jax.prompt import get_format
from seqgpt_jax.training.optimizers import OptimizerConfig


@dataclass(frozen=True)
class ModelSettings(Checked):
    """[model] A preset, and what to change of it; or weights to start from."""

    section = "model"
    preset: str = "bloom_nano"  # a size of models/presets.py
    pretrained: str | None = None  # Hugging Face directory whose weights and tokenizer stage 1 starts from
    num_layers: int | None = None  # None here and below: as the preset has it
    width: int | None = None
    num_heads: int | None = None
    param_dtype: str | None = None
    compute_dtype: str | None = None
    remat: str | None = None
    attention: str | None = None
    layer_loop: str | None = None
    lora: LoraConfig | None = None  # train low-rank additions alone (bind @lora())

    def check(self) -> None:
        self.config(vocab_size=1)

    def config(self, vocab_size: int) -> DecoderConfig:
        """The model's configuration for a tokenizer of this many ids. UserError for an unknown preset or value."""
        settings = {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self)}
        changes = {
            name: value
            for name, value in settings.items()
            if name not in ("preset", "pretrained") and value is not None
        }
        return dataclasses.replace(get_preset(self.preset, vocab_size), **changes)


@dataclass(frozen=True)
class TokenizerSettings(Checked):
    """[tokenizer] A tokenizer that exists, or one trained on training texts."""

    section = "tokenizer"
    path: str | None = None  # directory or hub id; None: that of model.pretrained, else train one
    mixture: str | None = None  # whose training texts; None: those of every stage
    vocab_size: int = 8192  # of a trained one, [GEN] and the special tokens included
    records_per_dataset: int = 2000  # read for training it

    def check(self) -> None:
        self.at_least(300, "vocab_size")  # 256 bytes and the special tokens
        self.at_least(1, "records_per_dataset")


@dataclass(frozen=True)
class PromptSettings(Checked):
    """[prompt] The text format, of which every byte is part of a trained model."""

    section = "prompt"
    format: str = "seqgpt_v1"

    def check(self) -> None:
        get_format(self.format)


@dataclass(frozen=True)
class DataSettings(Checked):
    """[data] Where data comes from, and the shape of a step."""

    section = "data"
    data_dir: str | None = None  # real datasets; None: SEQGPT_DATA_DIR
    cache_dir: str | None = None  # token caches; None: SEQGPT_CACHE_DIR, else ~/.cache/seqgpt_jax
    rows_per_step: int = 32  # over all devices and hosts
    row_tokens: int | tuple[int, ...] = 128  # tokens of a packed row; several lengths: a step has rows of one of them
    row_supervised: int = 48  # supervised tokens a row can hold, where answers alone are supervised
    max_tokens: int | None = None  # of one example, longer texts lose their end; None: those of the longest row
    window: int = 4096  # examples packed together
    ask: AskConfig = field(default_factory=AskConfig)  # which labels a training question asks
    drop_leaks: bool = True  # leave out training records that an evaluation split holds too (`seqgpt data leaks`)

    def check(self) -> None:
        self.at_least(1, "window", "max_tokens")
        longest = row_shapes(self.rows_per_step, self.row_tokens, self.row_supervised)[-1].tokens
        if self.example_tokens > longest:
            raise UserError(f"data.max_tokens is {self.max_tokens} (a row has only data.row_tokens={longest})")

    @property
    def longest_row(self) -> int:
        """Tokens of the longest row, whose number and supervised tokens rows_per_step and row_supervised are."""
        return self.row_tokens if isinstance(self.row_tokens, int) else max(self.row_tokens)

    @property
    def example_tokens(self) -> int:
        return self.longest_row if self.max_tokens is None else self.max_tokens

    def data_path(self) -> Path | None:
        return Path(self.data_dir) if self.data_dir else None

    def cache_path(self) -> Path:
        default = Path(os.environ.get("SEQGPT_CACHE_DIR") or Path.home() / ".cache" / "seqgpt_jax")
        return Path(self.cache_dir) if self.cache_dir else default


@dataclass(frozen=True)
class MeshSettings(Checked):
    """[mesh] Devices along each axis; one may be -1, which takes what the others leave."""

    section = "mesh"
    data: int = -1  # rows
    fsdp: int = 1  # rows, and parameters by their width
    tensor: int = 1  # heads, MLP and vocabulary


@dataclass(frozen=True)
class CheckpointSettings(Checked):
    """[checkpoint] When to save. The last step of a stage is always saved."""

    section = "checkpoint"
    every: int = 200  # steps
    keep: int = 2  # newest checkpoints of a stage
    keep_every: int | None = None  # steps whose multiples are kept for good; None: none are

    def check(self) -> None:
        self.at_least(1, "every", "keep", "keep_every")
        if self.keep_every is not None and self.keep_every % self.every:
            raise UserError(
                f"checkpoint.keep_every is {self.keep_every} (take a multiple of checkpoint.every={self.every})"
            )


@dataclass(frozen=True)
class EvaluationSettings(Checked):
    """[evaluation] A mixture that a model is judged on, at the end of a run or during a stage."""

    section = "evaluation"
    name: str  # its section of the report
    mixture: str
    split: str = "test"
    limit: int | None = None  # records a dataset, the same ones for every model; None: all
    seed: int = 0  # of the choice of these records

    def check(self) -> None:
        self.at_least(1, "limit")


@dataclass(frozen=True)
class Stage(Checked):
    """[stage] One stage of training. Its length is one of steps, epochs and examples; they are all counted from the
    stage's own beginning."""

    section = "stage"
    name: str
    mixture: str  # such as synthetic, mini_real, held_in, held_in_zh
    steps: int | None = None  # optimiser steps
    split: str = "train"
    limit: int | None = None  # records a dataset; None: all
    passes: int = 1  # times each record is asked, with other labels and another order
    rate_cap: int | None = None  # a task counts as at most this many examples; None: no cap
    num_microbatches: int = 1  # parts a step is computed in, one after the other, to save memory
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    temperature: float = 1.0  # T of rate ** (1 / T): above 1, small tasks come more often
    weights: dict[str, float] = field(default_factory=dict)  # of datasets or tasks, by name: {"duee": 2.0}
    protocol: Literal["zero_shot", "few_shot"] = "zero_shot"  # few_shot: held-out datasets may be trained on
    epochs: float | None = None  # of the mixture: one is as many examples as its tasks have together
    examples: int | None = None  # drawn from the mixture
    init: str | None = None  # run or Hugging Face directory whose weights it starts from; None: the stage before
    frozen: tuple[str, ...] = ()  # parameters that are not trained, by path: ["embedding", "blocks/*_norm/*"]
    freeze_half: bool = False  # a random half of the blocks stays as it is, others for each seed and stage
    objective: Objective = "answers"  # language_modelling: the records' texts alone, of which every token is supervised
    evaluations: tuple[EvaluationSettings, ...] = ()  # what the model is judged on during the stage and at its end
    evaluate_every: float | None = None  # steps, or below 1 a share of the stage; None: at the end of the stage alone
    patience: int | None = None  # evaluations without a better score after which the stage ends, with its best weights

    def check(self) -> None:
        if len(self.length) != 1:
            given = " and ".join(f"stage.{unit}" for unit in self.length) or "no length"
            raise UserError(f"stage '{self.name}' has {given} (set one of stage.steps, stage.epochs, stage.examples)")
        self.at_least(1, "steps", "examples", "limit", "passes", "rate_cap", "num_microbatches", "temperature")
        self.at_least(1, "patience")
        if self.objective == "language_modelling" and self.passes > 1:
            raise UserError(f"stage.passes is {self.passes} (a text is the same in every pass: leave it at 1)")
        for name in ("epochs", "evaluate_every"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"stage.{name} is {value} (it must be above 0)")
        if self.evaluate_every is not None and not self.evaluations:
            raise UserError(
                "stage.evaluate_every has nothing to evaluate (set stage.evaluations = [@dev/evaluation()])"
            )
        if self.patience is not None and self.evaluate_every is None:
            raise UserError("stage.patience counts evaluations, of which there is one (set stage.evaluate_every)")
        _check_names("stage.evaluations", self.evaluations)
        for name, weight in self.weights.items():
            if not weight > 0:
                raise UserError(f"stage.weights['{name}'] is {weight} (it must be above 0)")
        if not self.name or not all(letter.isalnum() or letter in "_-" for letter in self.name):
            raise UserError(f"stage.name is {self.name!r} (use letters, digits, - and _: it names a folder)")

    @property
    def length(self) -> dict[str, float]:
        """How long the stage is, as asked: {"epochs": 2.0}."""
        given = {"steps": self.steps, "epochs": self.epochs, "examples": self.examples}
        return {unit: number for unit, number in given.items() if number is not None}


@dataclass(frozen=True)
class Recipe(Checked):
    """[recipe] A whole run."""

    section = "recipe"
    stages: tuple[Stage, ...]
    evaluations: tuple[EvaluationSettings, ...] = ()
    model: ModelSettings = ModelSettings()
    tokenizer: TokenizerSettings = TokenizerSettings()
    prompt: PromptSettings = PromptSettings()
    data: DataSettings = DataSettings()
    mesh: MeshSettings = MeshSettings()
    loss: LossConfig = DEFAULT_LOSS
    checkpoint: CheckpointSettings = CheckpointSettings()
    seed: int = 0  # of the initial weights and of the order of the data

    def check(self) -> None:
        if not self.stages:
            raise UserError("recipe.stages is empty (give at least one stage)")
        _check_names("recipe.stages", self.stages)
        _check_names("recipe.evaluations", self.evaluations)
        for stage in self.stages:
            if self.model.lora and (stage.frozen or stage.freeze_half):
                raise UserError(
                    f"stage '{stage.name}' freezes parameters, but model.lora trains nothing but what it adds "
                    "(use one of the two)"
                )
            if stage.optimizer.ema_decay and self.model.config(1).param_dtype != "float32":
                raise UserError(
                    f"stage '{stage.name}': optimizer.ema_decay adds small parts that {self.model.param_dtype} loses "
                    "(leave model.param_dtype at 'float32')"
                )

    def plan_config(self, stage: Stage) -> PlanConfig:
        """How the rows of a stage are filled; its `shapes` are those of the stage's steps."""
        data = self.data
        supervised = data.row_supervised if stage.objective == "answers" else data.longest_row
        return PlanConfig(data.rows_per_step, data.row_tokens, supervised, data.window, self.seed)


def _check_names(field: str, items: Sequence[Stage | EvaluationSettings]) -> None:
    names = [item.name for item in items]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{field} has two named '{name}' (give each a name of its own)")
