"""How many labels should one extraction prompt ask?

seqgpt study launch/studies/chunk_size.py --out runs/studies/chunk_size
seqgpt study launch/studies/chunk_size.py:cpu --out runs/studies/chunk_size --jobs 2

One training a seed, with up to 6 labels a prompt, and answers to prompts of other sizes.
"""

from ml_collections import ConfigDict

from seqgpt_jax.studies.sizes import two_stages

SIZES = (1, 2, 3, 6, 12, 24)


def get_config(size: str = "large") -> ConfigDict:
    config = two_stages(size, "Labels in one extraction prompt")
    values = [{"name": str(number), "x": number, "options": ["--max_extract_labels", str(number)]} for number in SIZES]
    config.axes = [{"name": "labels", "values": values}]
    config.baseline = {"labels": "6"}
    config.measures = ("extraction", "NER", "SF")
    config.figure = {"kind": "lines"}
    return config
