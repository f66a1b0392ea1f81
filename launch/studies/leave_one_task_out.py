"""What does a task lose when no dataset of it is trained on?

seqgpt study launch/studies/leave_one_task_out.py --out runs/studies/leave_one_task_out
seqgpt study launch/studies/leave_one_task_out.py:cpu --out runs/studies/leave_one_task_out --jobs 2

Each cell leaves one task out of stage 2 and is judged, under "own", on that task alone, beside the cell that was
trained on all.
"""

from ml_collections import ConfigDict

from seqgpt_jax.studies.sizes import two_stages

TASKS = ("CLS", "SA", "ID", "NLI", "ET", "MRC-MC", "MRC-SE", "NER", "SF", "RE", "EE")
CPU_TASKS = ("SA", "NLI", "ID", "NER", "SF")  # those of the small evaluation


def get_config(size: str = "large") -> ConfigDict:
    config = two_stages(size, "One task left out of training")
    values = [{"name": "all", "gin": [f"real/stage.mixture='{_mixture(TASKS)}'"]}]
    for task in CPU_TASKS if size == "cpu" else TASKS:
        mixture = _mixture([other for other in TASKS if other != task])
        values.append({"name": f"no_{_slug(task)}", "gin": [f"real/stage.mixture='{mixture}'"], "measure": task})
    config.axes = [{"name": "trained on", "values": values}]
    config.baseline = {"trained on": "all"}
    config.measures = ("own", "score")
    config.figure = {"kind": "bars"}
    return config


def _mixture(tasks) -> str:
    return "+".join(f"held_in_{_slug(task)}" for task in tasks)


def _slug(task: str) -> str:
    return task.lower().replace("-", "_")
