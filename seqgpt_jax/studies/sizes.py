"""What the studies of launch/studies/ share, by size: "large" for accelerators, "cpu" for minutes on two cores.

Both train a stage 1 once a seed, on the generator, and each cell's stage 2 from its export, on real datasets.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from seqgpt_jax.errors import UserError

SIZES = ("large", "cpu")
FROM_STAGE1 = "START='{stage1}/export'"

# Short texts with few labels: what a small model learns anything about, in seconds a cell.
_CPU_MIXTURE = "held_out_sa+held_out_nli+held_out_id+held_out_ner+held_out_sf"


def two_stages(size: str, title: str) -> ConfigDict:
    """The config of a study whose cells begin with the same stage 1, without axes. ValueError for an unknown size."""
    if size not in SIZES:
        raise UserError(f"size '{size}' is unknown (choose {' or '.join(SIZES)})")
    config = ConfigDict()
    config.title = title
    if size == "cpu":
        config.recipe = "studies/cpu_real.gin"
        config.shared = {"stage1": {"recipe": "studies/cpu_synthetic.gin"}}
        config.gin = ["TOKENIZER='{stage1}/tokenizer'", FROM_STAGE1]
        config.seeds = (0, 1)
        config.evaluation = {"mixture": _CPU_MIXTURE, "limit": 50, "options": ["--num_unconstrained", "0", "--loss"]}
    else:
        model = "PRETRAINED='models/bloomz-560m'"
        rows = "data.rows_per_step=64"
        config.recipe = "studies/large_real.gin"
        config.shared = {"stage1": {"recipe": "studies/large_synthetic.gin", "gin": [model, rows]}}
        config.gin = [model, rows, FROM_STAGE1]
        config.seeds = (0, 1, 2)
        config.evaluation = {"mixture": "held_out", "limit": 200, "options": ["--loss"]}
    losses = ("loss", "loss/classification", "loss/extraction")
    config.measures = (*losses, "score", "en", "zh", "classification", "extraction")
    return config
