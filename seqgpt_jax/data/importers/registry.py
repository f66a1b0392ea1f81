"""The formats that there are, and which one a file has. A new format is one room and one line here."""

from __future__ import annotations

from pathlib import Path

from seqgpt_jax.data.importers import bio_json, brat, conll, delimited, doccano, labelstudio
from seqgpt_jax.data.importers.documents import Format
from seqgpt_jax.errors import RecordError, UserError

FORMATS: dict[str, Format] = {
    each.name: each
    for each in (
        conll.FORMAT,
        bio_json.FORMAT,
        doccano.FORMAT,
        labelstudio.FORMAT,
        delimited.FORMAT,
        brat.FORMAT,
    )
}


def get_format(name: str) -> Format:
    if name not in FORMATS:
        raise UserError(f"unknown format '{name}' (one of {', '.join(FORMATS)})")
    return FORMATS[name]


def detect(path: Path) -> Format:
    """The one format that recognises a path; UserError with each one's reason where none does, or several do."""
    reasons = {name: _reason(each, path) for name, each in FORMATS.items()}
    found = [name for name, reason in reasons.items() if not reason]
    if len(found) == 1:
        return FORMATS[found[0]]
    if found:
        raise UserError(f"{path}: may be {' or '.join(found)} (say which with --from)")
    tried = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    raise UserError(f"{path}: of no format that is known (say which with --from): {tried}")


def _reason(format_: Format, path: Path) -> str:
    if path.is_dir() and format_ is not brat.FORMAT:
        return "it is a folder"
    try:
        return format_.recognise(path)
    except RecordError as error:
        return error.problem
