"""What do negatives give: labels that do not hold, asked in training beside those that do?

seqgpt study launch/studies/negatives.py --out runs/studies/negatives
seqgpt study launch/studies/negatives.py:cpu --out runs/studies/negatives --jobs 2

none: no chunk of labels without a span, no pair of entities without a relation, no label of another dataset. random: as
many negatives as by default, drawn at random alone. default: some of them alike to a label that holds (negatives.py),
and at the large size some from other datasets.
"""

from ml_collections import ConfigDict

from seqgpt_jax.studies.sizes import two_stages

VALUES = {
    "none": [
        "ask.negative_chunk_share=0.0",
        "ask.max_none_pairs=0",
        "ask.near_share=0.0",
        "ask.foreign_choice_share=0.0",
    ],
    "random": ["ask.near_share=0.0", "ask.foreign_choice_share=0.0"],
    "default": [],
}


def get_config(size: str = "large") -> ConfigDict:
    config = two_stages(size, "Negatives in training")
    config.axes = [{"name": "negatives", "values": [{"name": name, "gin": gin} for name, gin in VALUES.items()]}]
    config.baseline = {"negatives": "none"}
    config.figure = {"kind": "bars"}
    return config
