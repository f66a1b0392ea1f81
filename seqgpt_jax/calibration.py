"""Calibration: what a model's probabilities have to become so that 0.8 is right four times in five.

One number a kind of probability (temperature scaling; Guo et al., 2017, "On Calibration of Modern Neural Networks"),
fitted on records with gold and kept as calibration.json beside the model's config.json. It changes no answer, but for
`label_threshold`, which decides how sure a label has to be where several may hold.

    a choice          p_i  ->  p_i^(1/T) / sum over all labels j of p_j^(1/T), a softmax of log p / T
    a span, a label   p    ->  sigmoid(logit(p) / T)
"""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import ClassVar, TypeVar

from seqgpt_jax.checked import Checked
from seqgpt_jax.errors import UserError
from seqgpt_jax.whole import write_json

FILE_NAME = "calibration.json"

Label = TypeVar("Label", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Calibration(Checked):
    """Temperatures and thresholds of one model. `Calibration()` changes nothing.

    label_threshold is compared with a label's probability as the model gives it; what is under one of the two
    `abstain_below`, in calibrated probability, is left out by whoever wants the precision that they were fitted for.
    """

    section: ClassVar[str] = "calibration"

    choice_temperature: float = 1.0  # one label holds
    label_temperature: float = 1.0  # each of several labels may hold
    span_temperature: float = 1.0
    label_threshold: float = 0.5
    choice_abstain_below: float | None = None
    span_abstain_below: float | None = None

    def check(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if entry.name.endswith("temperature"):
                if not 0 < value < math.inf:
                    raise UserError(f"{self.section}.{entry.name} is {value} (it must be above 0)")
            elif value is not None and not 0 <= value <= 1:
                raise UserError(f"{self.section}.{entry.name} is {value} (it must lie in 0..1)")

    def choice(self, probabilities: Mapping[Label, float]) -> dict[Label, float]:
        """The calibrated probabilities of all labels of which one holds; a label that is not given counts as 0."""
        logs = {label: math.log(p) if p > 0 else -math.inf for label, p in probabilities.items()}
        highest = max(logs.values(), default=-math.inf)
        if highest == -math.inf or self.choice_temperature == 1:
            return dict(probabilities)
        powers = {label: math.exp((log - highest) / self.choice_temperature) for label, log in logs.items()}
        total = sum(powers.values())
        return {label: power / total for label, power in powers.items()}

    def label(self, probability: float) -> float:
        """The calibrated probability of a label where several may hold."""
        return _tempered(probability, self.label_temperature)

    def span(self, probability: float) -> float:
        """The calibrated probability of a span."""
        return _tempered(probability, self.span_temperature)

    def save(self, model_dir: Path) -> None:
        """Writes calibration.json into a model's directory."""
        write_json(model_dir / FILE_NAME, asdict(self))

    @classmethod
    def load(cls, model_dir: Path) -> Calibration:
        """What `save` wrote into the directory, or one that changes nothing; UserError for a file that is no such."""
        file = model_dir / FILE_NAME
        if not file.is_file():
            return cls()
        remedy = "run `seqgpt calibrate` again, or delete the file"
        try:
            found = json.loads(file.read_text("utf-8"))
        except ValueError as error:
            raise UserError(f"{file}: no JSON: {error} ({remedy})") from None
        if not isinstance(found, dict) or (unknown := set(found) - {entry.name for entry in fields(cls)}):
            what = f"unknown field '{min(unknown)}'" if isinstance(found, dict) else "no JSON object"
            raise UserError(f"{file}: {what} ({remedy})")
        try:
            return cls(**found)
        except UserError as error:
            raise UserError(f"{file}: {error}") from None


def _tempered(probability: float, temperature: float) -> float:
    if temperature == 1 or not 0 < probability < 1:
        return probability
    logit = (math.log(probability) - math.log1p(-probability)) / temperature
    small = math.exp(-abs(logit))
    return (1 if logit > 0 else small) / (1 + small)
