"""hf:PATH: torch beside our own free greedy decoder on the same weights, and a chat template."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers

from seqgpt_jax import SeqGPT
from seqgpt_jax.answering import DecodeConfig
from seqgpt_jax.asking import NO_ROOM, RecordQuestion
from seqgpt_jax.atomic import AtomicExample, Source
from seqgpt_jax.errors import UserError
from seqgpt_jax.records import ClassificationRecord, DatasetMeta, ExtractionRecord
from seqgpt_jax.systems.open_system import open_system
from seqgpt_jax.systems.transformers_model import TransformersModel, TransformersOptions

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"


@pytest.fixture
def talking_dir(model_dir: Path, tmp_path: Path) -> Path:
    """The tiny model with weights so large that it does not repeat its last token for ever."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_pretrained(model_dir)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and "embeddings" not in name:
            torch.nn.init.normal_(parameter, std=0.5)
    folder = shutil.copytree(model_dir, tmp_path / "talking")
    model.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_answers_are_those_of_our_own_greedy_decoder(talking_dir: Path) -> None:
    meta = DatasetMeta("people", "NER", "en", ("person", "city"))
    texts = ("my card was stolen", "李红在北京大学工作。", "Ada Park lives in Norford. " * 60)  # the last loses its end
    records = [ExtractionRecord(str(i), "NER", text, ()) for i, text in enumerate(texts)]
    limits = DecodeConfig(constrained=False, max_prompt_tokens=100, max_new_tokens=16)
    theirs = TransformersModel(str(talking_dir), TransformersOptions(batch_size=3), limits)
    ours = SeqGPT.from_pretrained(talking_dir, decode=limits)
    found, expected = (each.predict_records(records, [meta] * 3) for each in (theirs, ours))
    assert found == expected
    raw = [prediction.answered[0].raw for prediction in found]
    assert len({*raw}) == 3
    assert min(map(len, raw)) > 5
    assert found[2].answered[0].tokens_cut > 0


@pytest.fixture
def chat_dir(model_dir: Path, tmp_path: Path) -> Path:
    folder = shutil.copytree(model_dir, tmp_path / "chat")
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text("utf-8")), "chat_template": TEMPLATE}), "utf-8")
    return folder


def test_a_chat_template(chat_dir: Path) -> None:
    chat = TransformersOptions("chat")
    model = open_system(f"hf:{chat_dir}", prompt="chat")
    assert isinstance(model, TransformersModel)
    assert model.options == chat
    source = Source("topics", "test", "0", "CLS", "en", "classify")
    words = "one two three four five six seven eight nine ten " * 8
    question = RecordQuestion(0, AtomicExample(f"{words}\twhich?", "classify", ("yes", "no"), (), source), False, False)
    (whole,) = model.asker.encode([question])
    assert whole is not None
    text = model.asker.decode(whole.ids)
    assert text.startswith("<system>You choose labels for a text.")
    end = " ten \twhich?\n分类: yes，no\n输出:<assistant>"
    assert text.endswith(end)
    room = len(whole.ids) - 100
    short = TransformersModel(str(chat_dir), chat, DecodeConfig(constrained=False, max_prompt_tokens=room))
    (cut,) = short.asker.encode([question])
    assert cut is not None
    assert room - 30 < len(cut.ids) <= room
    assert cut.tokens_cut == len(whole.ids) - len(cut.ids)
    assert short.asker.decode(cut.ids).endswith(end.removeprefix(" ten "))  # the question stays
    assert short.description()["settings"]["prompt"] == "chat"
    # labels that leave no room for the text, and an answer of a few tokens
    meta = DatasetMeta("topics", "CLS", "en", ("yes", "no"))
    for room, problems in ((50, (NO_ROOM,)), (2000, None)):
        limits = DecodeConfig(constrained=False, max_prompt_tokens=room, max_new_tokens=3)
        model = TransformersModel(str(chat_dir), chat, limits)
        (prediction,) = model.predict_records([ClassificationRecord("0", "CLS", "a text", ())], [meta])
        (answer,) = prediction.answered
        assert bool(answer.raw) == (problems is None)
        assert problems in (None, answer.parsed.problems)


def test_what_cannot_be_opened(model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no chat template"):
        open_system(f"hf:{model_dir}", prompt="chat")
    with pytest.raises(UserError, match="cannot be loaded"):
        open_system("hf:nobody/nothing")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="cannot be loaded"):
        open_system(f"hf:{tmp_path}")
