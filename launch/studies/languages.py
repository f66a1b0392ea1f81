"""Does training on both languages help each of them?

seqgpt study launch/studies/languages.py --out runs/studies/languages
seqgpt study launch/studies/languages.py:cpu --out runs/studies/languages --jobs 2

Stage 2 on the English datasets, the Chinese ones, or both, with as many steps. Stage 1 has both languages.
"""

from ml_collections import ConfigDict

from seqgpt_jax.studies.sizes import two_stages

MIXTURES = {"both": "held_in", "en": "held_in_en", "zh": "held_in_zh"}


def get_config(size: str = "large") -> ConfigDict:
    config = two_stages(size, "Languages of training")
    values = [{"name": name, "gin": [f"real/stage.mixture='{mixture}'"]} for name, mixture in MIXTURES.items()]
    config.axes = [{"name": "trained on", "values": values}]
    config.baseline = {"trained on": "both"}
    config.measures = ("loss/en", "loss/zh", "en", "zh")
    config.figure = {"kind": "bars"}
    return config
