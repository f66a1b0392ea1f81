"""What do constrained answers give over what the model writes by itself?

seqgpt study launch/studies/constrained.py --out runs/studies/constrained
seqgpt study launch/studies/constrained.py:cpu --out runs/studies/constrained --jobs 2

One training a seed, judged twice on the same records.
"""

from ml_collections import ConfigDict

from seqgpt_jax.studies.sizes import two_stages


def get_config(size: str = "large") -> ConfigDict:
    config = two_stages(size, "Constrained answers")
    values = [{"name": "off", "options": ["--unconstrained"]}, {"name": "on"}]
    config.axes = [{"name": "constraints", "values": values}]
    config.baseline = {"constraints": "off"}
    config.figure = {"kind": "bars"}
    return config
