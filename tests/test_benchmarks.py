"""The short versions of the benchmarks end, and say what they should."""

from __future__ import annotations

import importlib
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from seqgpt_jax import hf
from seqgpt_jax.models.architectures import make_model
from seqgpt_jax.models.attention import BACKENDS, KERNELS
from seqgpt_jax.models.presets import get_preset
from seqgpt_jax.vocabulary import train_tokenizer

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
SIDES = ("ours", "padded", "packed")
sys.path.insert(0, str(FOLDER))  # as Python does for a script
device, train_speed = importlib.import_module("device"), importlib.import_module("train_speed")
decode_speed, decode_sides = importlib.import_module("decode_speed"), importlib.import_module("_decode_sides")


def _run(code: list[str], json_file: Path) -> dict:
    """The JSON object of a run on one device, which is its last line and its file."""
    environment = os.environ | {"PYTHONPATH": str(FOLDER.parent), "XLA_FLAGS": ""}
    command = [sys.executable, *code, "--quick", "--json", str(json_file)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    result = json.loads(shown.splitlines()[-1])
    assert json.loads(json_file.read_text()) == result
    assert set(result) == {"ratios", "figures", "settings", "device", "command"}
    return result


@pytest.mark.slow
def test_train_speed(tmp_path: Path) -> None:
    result = _run([str(FOLDER / "train_speed.py")], tmp_path / "speed.json")
    figures, settings = result["figures"], result["settings"]
    assert set(result["ratios"]) == {"padded_quick", "packed_quick"}
    for side in SIDES:
        assert figures[f"{side}_quick_examples_per_s"] > 0
        assert figures[f"{side}_quick_peak_mib"] > 100
        assert 0 < figures[f"{side}_quick_needed_of_peak"] < figures[f"{side}_quick_computed_of_peak"] < 1.2
        # near the logarithm of the vocabulary at first, and every side learns
        assert figures[f"{side}_quick_loss_last"] < figures[f"{side}_quick_loss_first"] < math.log(2048) + 1
    for side in ("padded", "packed"):
        ratio = figures["ours_quick_examples_per_s"] / figures[f"{side}_quick_examples_per_s"]
        assert result["ratios"][f"{side}_quick"] == pytest.approx(ratio, abs=0.006)
    assert {"row_tokens", "row_supervised", "rows_per_step", "fill", "padded_batch"} <= set(settings)
    assert {"steps", "examples", "micro_rows"} <= set(settings["quick"])


@pytest.mark.slow
def test_data_speed(tmp_path: Path) -> None:
    result = _run([str(FOLDER / "data_speed.py"), "--row_tokens", "256", "1024"], tmp_path / "data.json")
    figures, settings = result["figures"], result["settings"]
    for name in ("cache_examples_per_s", "plan_examples_per_s", "loader_tokens_per_s", "seqio_tokens_per_s"):
        assert figures[name] > 0
    assert 0.8 < figures["fill"] <= 1
    assert 0.8 < figures["seqio_fill"] <= 1
    assert 0 < figures["seek_s"] < figures["seek_cold_s"]
    assert figures["seqio_cut"] == 0  # it has the tokens of our steps, all of them
    assert result["ratios"]["fill"] == pytest.approx(figures["fill"] / figures["seqio_fill"], abs=0.001)
    assert settings["examples"] > 100


@pytest.mark.slow
def test_loop_overhead(tmp_path: Path) -> None:
    result = _run([str(FOLDER / "loop_overhead.py")], tmp_path / "loop.json")
    figures = result["figures"]
    assert figures["loop_step_s"] > 0
    assert figures["overhead"] == result["settings"]["overheads"][0]  # of one round
    assert figures["overhead"] == pytest.approx(figures["loop_step_s"] / figures["bare_step_s"] - 1, abs=1.0)
    assert 0 <= figures["data_wait"] < 1
    assert 0 < figures["save_calls"] <= figures["checkpoint_hold"] < 1


def test_sides_of_train_speed_have_the_same_tokens(tmp_path: Path) -> None:
    data = train_speed.Data(
        str(tmp_path), "synthetic", records_per_dataset=2, vocab_size=600, row_tokens=(256,), most_steps=2
    )
    train_speed.prepare(data)
    loader, examples = train_speed._plan_and_loader(data)[1], train_speed.Examples(tmp_path)
    ours: list[tuple[int, int]] = []  # the token that predicts, and its target
    for batch in (loader.batch(step) for step in range(2)):
        for row, place in np.argwhere(batch.target_mask_BS):
            predictor = batch.tokens_BT[row, batch.target_positions_BS[row, place]]
            ours.append((int(predictor), int(batch.targets_BS[row, place])))
    members = train_speed._members(data, 2)
    tokens = sorted(np.concatenate([examples.ids(index) for index in members]).tolist())
    assert len(ours) == examples.lengths[members, 1].sum() > 0
    for batches in (train_speed._padded(data, 2), train_speed._packed(data, 2)):
        found, predictions = [], []
        for batch in batches:
            ids, labels = batch["input_ids"], batch["labels"]
            found += ids[ids != train_speed.PAD_ID].tolist()
            for row, place in np.argwhere(labels[:, 1:] != train_speed.IGNORED):  # t answers for labels[t + 1]
                predictions.append((int(ids[row, place]), int(labels[row, place + 1])))
            if "attention_mask" in batch:
                np.testing.assert_array_equal(batch["attention_mask"], ids != train_speed.PAD_ID)
                assert ids.shape[1] == batch["attention_mask"].sum(1).max()
                assert len(ids) <= train_speed.PADDED_BATCH
        assert sorted(found) == tokens
        assert sorted(predictions) == sorted(ours)


@pytest.mark.slow
def test_decode_speed(tmp_path: Path) -> None:
    cells = tmp_path / "cells.json"
    code = [str(FOLDER / "decode_speed.py"), "--cells", str(cells)]
    result = _run(code, tmp_path / "decode.json")
    figures = result["figures"]
    assert set(result["ratios"]) == {"extract_b1", "sentiment_b16"}
    for name, ratio in result["ratios"].items():
        ours, theirs = (figures[f"{side}_{name}_examples_per_s"] for side in ("ours", "theirs"))
        assert ratio == pytest.approx(ours / theirs, rel=0.02)
        assert figures[f"bound_tokens_{name}"] > 1
        for side in ("ours", "theirs"):
            assert figures[f"{side}_{name}_wrong_answers"] == 0  # both say what the hook wants
            assert figures[f"{side}_{name}_score"] > 0.9
            assert 0 < figures[f"{side}_{name}_p50_s"] <= figures[f"{side}_{name}_p95_s"]
            assert figures[f"{side}_{name}_peak_mib"] > 100
    assert len(json.loads(cells.read_text())) == 4
    begin = time.monotonic()
    assert _run(code, tmp_path / "again.json")["figures"] == figures  # nothing is measured twice
    assert time.monotonic() - begin < 20


def test_records_of_decode_speed_have_as_many_labels_and_words_as_are_asked() -> None:
    for kind in ("classify", "extract"):
        work = decode_sides.read_work(f"{kind} 50 40 mini_real_en_ner", 2)
        assert len(work.records) == 2
        assert len(work.records[0].text.split()) == 40
        questions = work.questions()
        labels = [label for question in questions[: len(questions) // 2] for label in question.labels]
        assert len(labels) == len(set(labels)) == 50
        assert sum(bool(question.answer) for question in questions) == 2
        assert [len(batch) for batch in work.batches(16)] == [2]


def test_every_beam_of_decode_speed_says_the_answer() -> None:
    torch = pytest.importorskip("torch")
    force = decode_sides._forced([[5, 6, 2], [7, 2]], width=3)
    said = [force(torch.zeros(8, 3 + place, dtype=torch.long), torch.zeros(8, 9)) for place in range(4)]
    assert [scores.argmax(dim=1).tolist() for scores in said] == [
        [5] * 4 + [7] * 4,
        [6] * 4 + [2] * 4,
        [2] * 8,
        [2] * 8,
    ]
    assert all(int(torch.isfinite(scores).sum()) == 8 for scores in said)


def test_figures_of_decode_speed_by_hand() -> None:
    pair = [decode_sides.Cell(side, "data", 1, 4, "model", False) for side in ("ours", "theirs")]
    shared = {"cores_busy": 2.0, "load_s": 1.0, "warmup_s": 1.0, "peak_mib": 500.0, "score": 0.5}
    cells = decode_speed.Cells(None)
    cells[pair[0]] = {"calls_s": [0.1, 0.1, 0.2, 0.4], "passes": 8, "tokens": 400, **shared}
    cells[pair[1]] = {"calls_s": [1.0, 1.0, 2.0, 4.0], "passes": 80, "tokens": 6_000, **shared}
    ratio, figures = decode_speed._compare("extract_b1", pair, cells)
    assert ratio == 10.0
    assert (figures["ours_extract_b1_examples_per_s"], figures["theirs_extract_b1_p50_s"]) == (5.0, 1.5)
    assert (figures["ours_extract_b1_p95_s"], figures["ours_extract_b1_tokens"]) == (0.4, 100.0)
    assert (figures["bound_tokens_extract_b1"], figures["bound_passes_extract_b1"]) == (15.0, 10.0)


def test_the_figure_of_decode_speed(tmp_path: Path) -> None:
    shapes, cells = decode_speed._figure_cells("mini_real_en_ner", "model"), decode_speed.Cells(None)
    for (kind, labels, words), pair in shapes.items():
        for cell, slower in zip(pair, (1, 10), strict=True):
            seconds = slower * (0.01 * labels + 0.002 * words) * (3 if kind == "extract" else 1)
            cells[cell] = {"calls_s": [seconds, seconds]}
    decode_speed._draw(shapes, cells, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_train_speed_says_where_data_is_missing(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(FOLDER.parent), "SEQGPT_DATA_DIR": str(tmp_path / "none")}
    command = [sys.executable, str(FOLDER / "train_speed.py"), "--sizes", "mini", "--steps", "1"]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert ended.returncode == 2
    assert "SEQGPT_DATA_DIR" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.slow
def test_device_without_tensorflow(tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(FOLDER)!r}); import device; device.main(); "
        "loaded = {'tensorflow', 'seqio', 'torch', 'transformers'} & set(sys.modules); assert not loaded, loaded"
    )
    result = _run(["-c", code], tmp_path / "device.json")
    figures = result["figures"]
    assert result["settings"]["peak_from"] == "product"
    assert 0 < figures["tiny_mfu_causal"] < figures["tiny_mfu"] < 1.2
    peak = figures["product_tflops"]
    assert figures["tiny_none_b2_mfu"] == figures["tiny_mfu"]
    assert result["settings"]["peak_tflops"] == peak
    for backend in (*BACKENDS, *KERNELS):
        assert f"tiny_attention_{backend}_ms" in figures or figures[f"tiny_attention_{backend}_error"]
    assert figures["tiny_attention_reference_ms"] > 0
    assert figures["tiny_decode_b1_tokens_per_s"] > 0
    assert figures["tiny_decode_b4_tokens_per_s"] > 0


class _Device:
    def __init__(self, device_kind: str) -> None:
        self.device_kind = device_kind


@pytest.mark.parametrize(
    ("kind", "tflops"),
    [
        ("NVIDIA H200", 989.4),
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("TPU v4", 275.0),
        ("TPU v5 lite", 197.0),
        ("TPU v5p", 459.0),
        ("TPU v5", 459.0),
        ("TPU v6 lite", 918.0),
    ],
)
def test_peak_of_a_device(kind: str, tflops: float) -> None:
    assert device.peak_of(_Device(kind), None, 1.0) == (tflops * 1e12, "table")


def test_peak_by_flag_and_of_an_unknown_device() -> None:
    assert device.peak_of(_Device("NVIDIA H200"), 800.0, 1.0) == (800e12, "flag")
    assert device.peak_of(_Device("cpu"), None, 5e10) == (5e10, "product")


def test_made_up_rows_are_whole_documents() -> None:
    batch = device.made_up_rows(vocab_size=50, batch=3, row_tokens=256)
    assert batch.segment_ids_BT[0, [0, 127, 128, 255]].tolist() == [1, 1, 2, 2]
    assert batch.positions_BT[2, [0, 127, 128]].tolist() == [0, 127, 0]
    assert batch.targets_BS.shape == (3, 2 * device.ANSWER_TOKENS)
    for row in range(3):
        np.testing.assert_array_equal(batch.tokens_BT[row, batch.target_positions_BS[row] + 1], batch.targets_BS[row])


@pytest.mark.slow
def test_weight_precision(tmp_path: Path) -> None:
    vocabulary = train_tokenizer(["输入: 抽取: 分类: 输出: None\n the of and in"] * 3, 300)
    hf.export_model(make_model(get_preset("bloom_nano", 320), rngs=nnx.Rngs(0)), vocabulary, tmp_path / "model")
    script = [str(FOLDER / "weight_precision.py"), "--model", str(tmp_path / "model")]
    result = _run(script, tmp_path / "precision.json")
    assert set(result["ratios"]) == {"float32", "bfloat16", "int8"}
    sizes = [result["figures"][f"{weights}_params_mib"] for weights in ("int8", "bfloat16", "float32")]
    assert sizes[0] < 0.6 * sizes[1] < 0.36 * sizes[2]


@pytest.mark.slow
def test_cold_start(tmp_path: Path) -> None:
    result = _run([str(FOLDER / "cold_start.py")], tmp_path / "cold.json")
    for kind in ("extract", "classify"):
        cold, warm = (result["figures"][f"{kind}_{start}_first_answer_s"] for start in ("cold", "warm"))
        assert result["ratios"][kind] == pytest.approx(cold / warm, rel=0.01)
        assert cold > warm > result["figures"][f"{kind}_warm_again_s"]  # programs are found again
