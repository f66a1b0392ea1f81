"""What do more training datasets give, at the same number of steps?

seqgpt study launch/studies/num_datasets.py --out runs/studies/num_datasets
seqgpt study launch/studies/num_datasets.py:cpu --out runs/studies/num_datasets --jobs 2

The first N of the held_in datasets in an order drawn with the seed: each number's datasets are among the next one's.
"""

from ml_collections import ConfigDict

from seqgpt_jax.studies.sizes import two_stages

NUMBERS = (4, 8, 16, 32, 64, 100)


def get_config(size: str = "large") -> ConfigDict:
    config = two_stages(size, "Number of training datasets")
    values = [
        {"name": str(number), "x": number, "gin": [f"real/stage.mixture='held_in:{number}:{{seed}}'"]}
        for number in NUMBERS
    ]
    config.axes = [{"name": "datasets", "values": values}]
    config.baseline = {"datasets": "4"}
    config.figure = {"kind": "lines", "fit": True}
    return config
