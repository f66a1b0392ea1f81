"""Does stage 1 (synthetic data) help, and does it help small models more?

seqgpt study launch/studies/stage1_by_size.py --out runs/studies/stage1_by_size
seqgpt study launch/studies/stage1_by_size.py:cpu --out runs/studies/stage1_by_size --jobs 2

Three sizes, each with and without stage 1 before the same stage 2. Larger sizes of released weights take bloomz-1b7 and
bloomz-3b in models/ (seqgpt import).
"""

from ml_collections import ConfigDict

from seqgpt_jax.studies.sizes import FROM_STAGE1, two_stages

CPU_SIZES = {"2x64": (2, 64, 2), "3x96": (3, 96, 3), "4x128": (4, 128, 4)}  # layers, width, heads
LARGE_SIZES = {"560m": ("models/bloomz-560m", 64), "1b7": ("models/bloomz-1b7", 32), "3b": ("models/bloomz-3b", 16)}


def get_config(size: str = "large") -> ConfigDict:
    config = two_stages(size, "Stage 1 by model size")
    config.gin = [binding for binding in config.gin if binding != FROM_STAGE1]
    if size == "cpu":
        bindings = {
            name: [f"model.num_layers={layers}", f"model.width={width}", f"model.num_heads={heads}"]
            for name, (layers, width, heads) in CPU_SIZES.items()
        }
    else:
        config.gin = []
        config.shared.stage1.gin = []
        bindings = {
            name: [f"PRETRAINED='{path}'", f"data.rows_per_step={rows}"] for name, (path, rows) in LARGE_SIZES.items()
        }
    sizes = [{"name": name, "gin": each, "shared": {"stage1": each}} for name, each in bindings.items()]
    config.axes = [
        {"name": "size", "values": sizes},
        {"name": "stage 1", "values": [{"name": "off"}, {"name": "on", "gin": [FROM_STAGE1]}]},
    ]
    config.baseline = {"stage 1": "off"}
    config.figure = {"kind": "bars", "axis": "size"}
    return config
