"""What `seqgpt eval --model` names, made ready to be evaluated."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from seqgpt_jax.asking import Answered, AnswerLoss, RecordPrediction
from seqgpt_jax.atomic import AtomicExample
from seqgpt_jax.data.datasets import Dataset
from seqgpt_jax.errors import UserError
from seqgpt_jax.records import DatasetMeta, Record
from seqgpt_jax.systems.options import OPTIONS
from seqgpt_jax.systems.system import System

if TYPE_CHECKING:
    from seqgpt_jax.predictor import SeqGPT


def open_system(spec: str, datasets: Sequence[Dataset] = (), **options: Any) -> System:
    """Returns the system that `spec` names; `options` are the fields of its own options, the others have defaults.

    openai:NAME             chat_server.ServerOptions
    hf:PATH                 transformers_model.TransformersOptions
    tfidf, gazetteer        training_data.TrainingOptions
    majority                none; `datasets` are those that it will be asked about
    anything else           a model of ours: a run directory, a Hugging Face directory or a hub id; its options are
                            max_extract_labels and unconstrained

    UserError for an option that the system does not have, a package that it needs and is not there, and whatever it
    cannot be made of.
    """
    kind = kind_of(spec)
    allowed = OPTIONS.get(kind, ())
    for name in options:
        if name not in allowed:
            systems = " and ".join(each for each, own in OPTIONS.items() if name in own)
            raise UserError(f"--{name} does not go with --model {spec} (it is for {systems})")
    return _MAKERS[kind](spec.partition(":")[2] or spec, datasets, options)


def kind_of(spec: str) -> str:
    head, colon, rest = spec.partition(":")
    if head in ("openai", "hf") and colon:
        if not rest:
            raise UserError(f"--model {spec} lacks a name (such as openai:gpt-4o-mini, or hf:Qwen/Qwen2.5-0.5B)")
        return head
    return spec if spec in ("majority", "tfidf", "gazetteer") else "seqgpt"


class OurModel:
    """A model of our own as a system; it can also be asked without constraints, and for losses (evaluation.py)."""

    def __init__(self, model: SeqGPT, name: str) -> None:
        self._model, self._name = model, name

    def predict_records(
        self, records: Sequence[Record], metas: Sequence[DatasetMeta], split: str = "test", progress: bool = False
    ) -> list[RecordPrediction]:
        return self._model.predict_records(records, metas, split, progress)

    def answer_questions(
        self, examples: Sequence[AtomicExample], progress: bool = False, constrained: bool = True
    ) -> list[Answered]:
        return self._model.answer_questions(examples, progress, constrained)

    def answer_losses(self, examples: Sequence[AtomicExample], progress: bool = False) -> list[AnswerLoss | None]:
        return self._model.answer_losses(examples, progress)

    def description(self) -> dict[str, Any]:
        answerer = self._model.answerer
        settings = {"format": answerer.format.name, **asdict(answerer.decode)}
        return {"name": self._name, "kind": "seqgpt", "settings": settings}


def _open_our_model(path: str, datasets: Sequence[Dataset], options: dict[str, Any]) -> System:
    from seqgpt_jax.answering import DecodeConfig
    from seqgpt_jax.predictor import SeqGPT

    constrained = not options.pop("unconstrained", False)
    decode = DecodeConfig(constrained=constrained, **options)
    return OurModel(SeqGPT.from_pretrained(path, decode=decode), path)


def _open_chat_server(name: str, datasets: Sequence[Dataset], options: dict[str, Any]) -> System:
    _need("openai", "httpx2", "tenacity")
    from seqgpt_jax.systems.chat_server import ChatServer, ServerOptions

    return ChatServer(name, ServerOptions(**options))


def _open_transformers_model(path: str, datasets: Sequence[Dataset], options: dict[str, Any]) -> System:
    _need("hf", "torch", "transformers")
    from seqgpt_jax.systems.transformers_model import TransformersModel, TransformersOptions

    return TransformersModel(path, TransformersOptions(**options))


def _open_majority(name: str, datasets: Sequence[Dataset], options: dict[str, Any]) -> System:
    from seqgpt_jax.systems.majority import Majority

    return Majority(datasets)


def _open_tfidf(name: str, datasets: Sequence[Dataset], options: dict[str, Any]) -> System:
    _need("tfidf", "sklearn")
    from seqgpt_jax.systems.tfidf import Tfidf
    from seqgpt_jax.systems.training_data import TrainingOptions

    return Tfidf(TrainingOptions(**options), progress=True)


def _open_gazetteer(name: str, datasets: Sequence[Dataset], options: dict[str, Any]) -> System:
    from seqgpt_jax.systems.gazetteer import Gazetteer
    from seqgpt_jax.systems.training_data import TrainingOptions

    return Gazetteer(TrainingOptions(**options), progress=True)


_MAKERS: dict[str, Callable[[str, Sequence[Dataset], dict[str, Any]], System]] = {
    "seqgpt": _open_our_model,
    "openai": _open_chat_server,
    "hf": _open_transformers_model,
    "majority": _open_majority,
    "tfidf": _open_tfidf,
    "gazetteer": _open_gazetteer,
}


def _need(extra: str, *packages: str) -> None:
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise UserError(f"this system needs {' and '.join(missing)} (pip install 'seqgpt_jax[{extra}]')")
