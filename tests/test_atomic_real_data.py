"""Every real dataset as atomic examples and back: what the text format keeps, and what it loses."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from seqgpt_jax.atomic import STEPS, check_labels, decompose
from seqgpt_jax.data.roundtrip import PARTS, RoundTrip, add_record, facts, together
from seqgpt_jax.records import TASKS, read_meta, read_records
from tests.perfect_model import predict


def test_every_real_dataset_both_ways(data_dir: Path) -> None:
    """Choices are exact; what the text format loses elsewhere is counted, and bounded here."""
    results, tasks, steps = [], set[str](), set[str]()
    for path in sorted(data_dir.glob("*/*/meta.json")):
        meta = read_meta(path.parent)
        result = RoundTrip(meta.name, meta.task, meta.language)
        for split in sorted(path.parent.glob("*.jsonl.gz")):
            for record in islice(read_records(split, meta), 25):
                examples = decompose(record, meta, split.name.split(".")[0])
                tasks.add(record.task)
                steps.update(example.source.step for example in examples)
                assert all(check_labels(example.labels) == example.labels for example in examples)
                found = add_record(result, record, meta)
                if record.kind in ("relation", "event"):  # asked stage by stage, the same comes out
                    assert facts(predict(record, meta, examples)[0]) == facts(found)
        results.append(result)
    assert tasks == set(TASKS)
    assert steps == set(STEPS)

    total = together(results, "all")
    f1 = {part: total.part(part).f1 for part in PARTS}
    print({part: value and round(value, 4) for part, value in f1.items()}, total.span_f1)
    assert total.num_malformed == 0
    assert f1["labels"] == 1 and f1["triples"] >= 0.999  # type: ignore[operator]
    assert f1["spans"] >= 0.99 and f1["mentions"] >= 0.98 and f1["answers"] >= 0.94  # type: ignore[operator]
    assert f1["triggers"] >= 0.96 and f1["arguments"] >= 0.97  # type: ignore[operator]
    assert total.span_f1 is not None and total.span_f1 >= 0.985
    assert {(result.name, result.span_f1) for result in results if (result.span_f1 or 1) < 0.85} == set()
