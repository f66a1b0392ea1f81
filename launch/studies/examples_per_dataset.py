"""What do more examples of the same datasets give; and what do more datasets give when there are no more examples?

seqgpt study launch/studies/examples_per_dataset.py --out runs/studies/examples_per_dataset
seqgpt study launch/studies/examples_per_dataset.py:cpu --out runs/studies/examples_per_dataset --jobs 2
seqgpt study launch/studies/examples_per_dataset.py:cpu_fixed_total --out runs/studies/fixed_total --jobs 2

The first holds the number of datasets (32), the other (large_fixed_total, cpu_fixed_total) the number of records in
all, spread over 4 to 64 datasets. The number of steps is always the same.
"""

from ml_collections import ConfigDict

from seqgpt_jax.studies.sizes import two_stages

NUM_DATASETS = 32
RECORDS = {"cpu": (4, 16, 64, 256), "large": (30, 100, 300, 1000, 3000)}  # of each dataset
TOTAL = {"cpu": 1024, "large": 12_800}  # records
SPREAD = (4, 8, 16, 32, 64)  # datasets


def get_config(size: str = "large") -> ConfigDict:
    size, _, fixed_total = size.partition("_")
    if fixed_total not in ("", "fixed_total"):
        raise ValueError(f"unknown kind '{fixed_total}' (choose {size} or {size}_fixed_total)")
    if fixed_total:
        config = two_stages(size, f"Number of training datasets at {TOTAL[size]:,} records in all")
        cells = {number: (number, TOTAL[size] // number) for number in SPREAD}
        axis = "datasets"
    else:
        config = two_stages(size, f"Records of each of {NUM_DATASETS} training datasets")
        cells = {records: (NUM_DATASETS, records) for records in RECORDS[size]}
        axis = "records a dataset"
    values = [
        {
            "name": str(x),
            "x": x,
            "gin": [f"real/stage.mixture='held_in:{datasets}:{{seed}}'", f"REAL_RECORDS={records}"],
        }
        for x, (datasets, records) in cells.items()
    ]
    config.axes = [{"name": axis, "values": values}]
    config.baseline = {axis: values[0]["name"]}
    config.figure = {"kind": "lines", "fit": True}
    return config
