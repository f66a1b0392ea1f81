"""What was found in the windows of one text, put together.

* spans, triggers: those of all windows; the same span keeps its highest probability. Where spans of one label overlap
  and no window has found both, the more probable stays (then the longer, then the first).
* relations and arguments: those between spans that stay; none reaches from one window into another.
* one label: the mean over windows of each label's probability, weighted by tokens; the highest holds. Where there are
  no probabilities, each window's label counts as 1, and nothing is said of how probable the winner is.
* several labels: a label holds where it holds in any window, with its highest probability.
* answers: those of all windows, the most probable first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from seqgpt_jax.findings import best_first, best_label, by_probability, in_order
from seqgpt_jax.records import ClassificationRecord
from seqgpt_jax.results import (
    Answer,
    Classification,
    Events,
    Extraction,
    FoundEvent,
    FoundRelation,
    FoundSpan,
    Relations,
    Result,
)
from seqgpt_jax.schema import Request


def merge(request: Request, results: Sequence[Result], weights: Sequence[int]) -> Result:
    """One result of those of a request's windows (module docstring); weights: tokens of each window."""
    if len(results) == 1:
        return results[0]
    first = results[0]
    match first:
        case Classification():
            choices = [result for result in results if isinstance(result, Classification)]
            order = request.record.label_set if isinstance(request.record, ClassificationRecord) else None
            merged: Result = (
                _merge_several(choices, order or request.meta.labels)
                if request.multi_label
                else _merge_one(choices, weights)
            )
        case Extraction():
            merged = Extraction(_resolve([r.spans for r in results if isinstance(r, Extraction)]))
        case Answer():
            merged = Answer(first.question, best_first(_resolve([r.spans for r in results if isinstance(r, Answer)])))
        case Relations():
            merged = _merge_relations([result for result in results if isinstance(result, Relations)])
        case Events():
            merged = _merge_events([result for result in results if isinstance(result, Events)])
        case _:
            raise AssertionError(type(first))
    return replace(
        merged,
        document=first.document,
        num_windows=len(results),
        tokens_cut=sum(result.tokens_cut for result in results),
        num_examples=min((r.num_examples for r in results if r.num_examples is not None), default=None),
    )


def _merge_one(results: Sequence[Classification], weights: Sequence[int]) -> Classification:
    known = all(result.probabilities for result in results)
    totals: dict[str, float] = {}
    for result, weight in zip(results, weights, strict=True):
        for label, p in (result.probabilities if known else dict.fromkeys(result.labels, 1.0)).items():
            totals[label] = totals.get(label, 0.0) + p * weight / sum(weights)
    # what a window left out as too unsure is not brought back by the others
    chosen = best_label([label for label in totals if any(label in result.labels for result in results)], totals)
    nothing = sum(weight for result, weight in zip(results, weights, strict=True) if not result.labels) / sum(weights)
    if not known and chosen and nothing > totals[chosen[0]]:
        chosen = ()
    return Classification(chosen, by_probability(totals) if known else {})


def _merge_several(results: Sequence[Classification], order: Sequence[str]) -> Classification:
    probabilities: dict[str, float] = {}
    for result in results:
        for label, p in result.probabilities.items():
            probabilities[label] = max(p, probabilities.get(label, 0.0))
    chosen = {label for result in results for label in result.labels}
    return Classification(tuple(label for label in order if label in chosen), by_probability(probabilities))


_Place = tuple[str, int, int]


def _place(span: FoundSpan) -> _Place:
    return span.label, span.start, span.end


def _resolve(spans_by_window: Sequence[Sequence[FoundSpan]]) -> tuple[FoundSpan, ...]:
    """Each span once; module docstring for overlaps."""
    found: dict[_Place, FoundSpan] = {}
    seen_by: dict[_Place, set[int]] = {}
    for window, spans in enumerate(spans_by_window):
        for span in spans:
            place = _place(span)
            seen_by.setdefault(place, set()).add(window)
            found[place] = _more_probable(found.get(place), span)
    kept: list[FoundSpan] = []
    for cluster in _overlapping(found.values()):
        stays: list[FoundSpan] = []
        for span in sorted(cluster, key=lambda s: (-(s.probability or 0.0), s.start - s.end, s.start)):
            others = (o for o in stays if o.start < span.end and span.start < o.end)
            if all(seen_by[_place(span)] & seen_by[_place(other)] for other in others):
                stays.append(span)
        kept += stays
    return in_order(kept)


def _overlapping(spans: Iterable[FoundSpan]) -> Iterable[list[FoundSpan]]:
    """Groups of one label, cut where no span reaches over."""
    group: list[FoundSpan] = []
    for span in sorted(spans, key=lambda s: (s.label, s.start)):
        if group and (group[0].label != span.label or span.start >= max(each.end for each in group)):
            yield group
            group = []
        group.append(span)
    if group:
        yield group


def _more_probable(known: FoundSpan | None, span: FoundSpan) -> FoundSpan:
    return span if known is None or (span.probability or 0.0) > (known.probability or 0.0) else known


def _merge_relations(results: Sequence[Relations]) -> Relations:
    entities = _resolve([result.entities for result in results])
    by_place: Mapping[_Place, FoundSpan] = {_place(entity): entity for entity in entities}
    relations: dict[tuple[str, _Place, _Place], FoundRelation] = {}
    for relation in (relation for result in results for relation in result.relations):
        ends = by_place.get(_place(relation.head)), by_place.get(_place(relation.tail))
        if ends[0] is not None and ends[1] is not None:
            key = (relation.label, _place(ends[0]), _place(ends[1]))
            known = relations.get(key)
            if known is None or (relation.probability or 0.0) > (known.probability or 0.0):
                relations[key] = replace(relation, head=ends[0], tail=ends[1])
    return Relations(entities, tuple(relations.values()))


def _merge_events(results: Sequence[Events]) -> Events:
    triggers = _resolve([[event.trigger for event in result.events] for result in results])
    arguments: dict[_Place, list[list[FoundSpan]]] = {_place(trigger): [] for trigger in triggers}
    for event in (event for result in results for event in result.events):
        if (own := arguments.get(_place(event.trigger))) is not None:
            own.append([*event.arguments])
    return Events(tuple(FoundEvent(t.label, t, _resolve(arguments[_place(t)])) for t in triggers))
