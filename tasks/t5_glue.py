"""What t5's GLUE and SuperGLUE tasks feed a model, in words: the child process of data/t5_sources.py.

    python -m tasks.t5_glue glue_cola_v002 train DATA_DIR      one line an example: ["cola sentence: ...", "acceptable"]

Importing this module registers nothing with SeqIO; `pretokenized` imports t5's tasks, which registers all of t5's.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import seqio


def pretokenized(name: str, split: str, data_dir: str | None = None) -> Iterator[tuple[str, str]]:
    """(inputs, targets) of a task of t5's registry, by its own source and preprocessors up to the tokenizer.

    split: TFDS's name of it. data_dir: where TFDS has prepared the data; None: its default.
    """
    import t5.data.tasks  # noqa: F401  registers them

    if data_dir is not None:
        seqio.set_tfds_data_dir_override(data_dir)
    task = seqio.TaskRegistry.get(name)
    ds = task.source.get_dataset(split, shuffle=False)
    for preprocessor in task.preprocessors:
        if preprocessor is seqio.preprocessors.tokenize:
            break
        ds = preprocessor(ds)
    for example in ds.as_numpy_iterator():
        yield example["inputs"].decode("utf-8"), example["targets"].decode("utf-8")


if __name__ == "__main__":
    for pair in pretokenized(*sys.argv[1:]):
        print(json.dumps(pair, ensure_ascii=False))
