"""metrics.py against scikit-learn, nervaluate, the definitions of SQuAD and CMRC 2018, and numbers computed by hand."""

from __future__ import annotations

import random
import re
import string
from collections.abc import Callable

import pytest
from nervaluate import Evaluator
from sklearn.metrics import accuracy_score, f1_score
from sklearn.preprocessing import MultiLabelBinarizer

from seqgpt_jax.errors import UserError
from seqgpt_jax.metrics import (
    baseline_predictions,
    char_f1,
    cmrc_em,
    cmrc_f1,
    cmrc_segments,
    empty_predictions,
    score_dataset,
    squad_em,
    squad_f1,
)
from seqgpt_jax.records import (
    ClassificationRecord,
    DatasetMeta,
    Event,
    EventRecord,
    ExtractionRecord,
    Record,
    Relation,
    RelationRecord,
    Span,
)

LETTERS = ("a", "b", "c", "d")


def _classified(labels: list[tuple[str, ...]], task: str = "CLS") -> list[Record]:
    return [ClassificationRecord(str(i), task, "text", chosen) for i, chosen in enumerate(labels)]


def _meta(task: str, labels: tuple[str, ...] = LETTERS, language: str = "en") -> DatasetMeta:
    return DatasetMeta("toy", task, language, labels)


# --- classification --------------------------------------------------------------------------------------------------


def test_single_label_scores_are_those_of_scikit_learn() -> None:
    rng = random.Random(0)
    gold = [rng.choice(LETTERS[:3]) for _ in range(200)]
    predicted = [label if rng.random() < 0.6 else rng.choice(LETTERS) for label in gold]
    score = score_dataset(_classified([(g,) for g in gold]), _classified([(p,) for p in predicted]), _meta("CLS"))
    assert score.headline_name == "accuracy"
    assert score.headline == pytest.approx(accuracy_score(gold, predicted))
    assert score.metrics["macro_f1"] == pytest.approx(f1_score(gold, predicted, average="macro"))
    assert score.metrics["micro_f1"] == pytest.approx(f1_score(gold, predicted, average="micro"))
    assert score.num_records == 200


def test_multi_label_scores_are_those_of_scikit_learn() -> None:
    rng = random.Random(1)
    gold = [tuple(rng.sample(LETTERS, rng.randint(0, 3))) for _ in range(200)]
    predicted = [chosen if rng.random() < 0.5 else tuple(rng.sample(LETTERS, rng.randint(0, 3))) for chosen in gold]
    score = score_dataset(_classified(gold, "ID"), _classified(predicted, "ID"), _meta("ID"))
    binarizer = MultiLabelBinarizer(classes=LETTERS)
    gold_matrix, predicted_matrix = binarizer.fit_transform(gold), binarizer.transform(predicted)
    assert score.headline_name == "micro_f1"
    assert score.headline == pytest.approx(f1_score(gold_matrix, predicted_matrix, average="micro"))
    assert score.metrics["macro_f1"] == pytest.approx(f1_score(gold_matrix, predicted_matrix, average="macro"))
    assert score.metrics["accuracy"] == pytest.approx(accuracy_score(gold_matrix, predicted_matrix))


def test_entity_typing_is_judged_by_micro_f1_even_with_one_label_each() -> None:
    score = score_dataset(_classified([("a",), ("b",)], "ET"), _classified([("a", "b"), ()], "ET"), _meta("ET"))
    assert (score.headline_name, score.headline) == ("micro_f1", pytest.approx(0.5))


def test_an_unasked_label_is_wrong_and_a_false_positive_but_no_class() -> None:
    score = score_dataset(_classified([("a",), ("b",)]), _classified([("a",), ("zebra",)]), _meta("CLS"))
    assert score.metrics["accuracy"] == 0.5
    assert score.metrics["macro_f1"] == pytest.approx((1.0 + 0.0) / 2)
    assert score.metrics["micro_f1"] == pytest.approx(2 * 1 / (2 + 2))
    correct_and_more = score_dataset(_classified([("a",)]), _classified([("a", "zebra")]), _meta("CLS"))
    assert correct_and_more.metrics["accuracy"] == 0.0


def test_labels_compare_after_nfc() -> None:
    score = score_dataset(_classified([("caf\u00e9",)]), _classified([("cafe\u0301",)]), _meta("CLS", ("caf\u00e9",)))
    assert score.headline == 1.0


def test_lenient_accuracy_forgives_width_case_and_spaces() -> None:
    gold, predicted = _classified([("Very Good",), ("b",)]), _classified([("ＶＥＲＹ  good",), ("c",)])
    score = score_dataset(gold, predicted, _meta("CLS", ("Very Good", "b", "c")))
    assert (score.metrics["accuracy"], score.metrics["lenient_accuracy"]) == (0.0, 0.5)


def test_several_labels_by_hand() -> None:
    gold, predicted = _classified([("a", "b"), ("c",), ()]), _classified([("a",), ("c", "a"), ()])
    score = score_dataset(gold, predicted, _meta("CLS"))
    assert score.headline_name == "micro_f1"
    assert score.headline == pytest.approx(2 * 2 / (3 + 3))  # right: a of the first, c of the second
    assert score.metrics["macro_f1"] == pytest.approx((2 / 3 + 0 + 1) / 3)  # a: 1 of 1 found, 2 said; b never; c
    assert score.metrics["accuracy"] == pytest.approx(1 / 3)  # the third, where nothing holds and nothing is said


def test_options_that_vary_by_record_give_accuracy_alone() -> None:
    gold: list[Record] = [
        ClassificationRecord("0", "MRC-MC", "t", ("red",), ("blue", "red")),
        ClassificationRecord("1", "MRC-MC", "t", ("one",), ("two", "one", "six")),
        ClassificationRecord("2", "MRC-MC", "t", ("cat",), ("cat", "dog")),
    ]
    meta = _meta("MRC-MC", ())
    baseline = baseline_predictions(gold, meta)
    assert [record.labels for record in baseline] == [("red",), ("one",), ("dog",)]  # the second is most often right
    score = score_dataset(gold, baseline, meta)
    assert dict(score.metrics) == {"accuracy": pytest.approx(2 / 3), "lenient_accuracy": pytest.approx(2 / 3)}


def test_majority_baseline_is_the_most_frequent_label_set() -> None:
    gold = _classified([("a",), ("b", "a"), ("a", "b"), ("c",), ("a", "b")])
    baseline = baseline_predictions(gold, _meta("CLS"))
    assert {record.labels for record in baseline} == {("a", "b")}
    assert score_dataset(gold, baseline, _meta("CLS")).metrics["accuracy"] == pytest.approx(3 / 5)


# --- extraction ------------------------------------------------------------------------------------------------------

TEXT = "Ada met Bob in Rome. Ada left."
ADA, ADA_AGAIN = Span("person", 0, 3, "Ada"), Span("person", 21, 24, "Ada")
BOB, ROME = Span("person", 8, 11, "Bob"), Span("place", 15, 19, "Rome")


def _extracted(*spans: Span, **fields: object) -> list[Record]:
    return [ExtractionRecord("0", "NER", TEXT, spans, **fields)]  # type: ignore[arg-type]


def test_span_f1_counts_places_and_string_f1_counts_strings() -> None:
    gold = _extracted(ADA, ADA_AGAIN, BOB, ROME)
    predicted = _extracted(ADA, Span("place", 8, 11, "Bob"), ROME, Span("person", -1, -1, "Eve"), ADA)
    score = score_dataset(gold, predicted, _meta("NER", ("person", "place")))
    # places: gold 4, predicted 4 (the second ADA is the same one), right 2; strings: gold 3, predicted 4, right 2
    assert score.metrics["span_precision"] == pytest.approx(2 / 4)
    assert score.metrics["span_recall"] == pytest.approx(2 / 4)
    assert score.headline == pytest.approx(0.5)
    assert score.metrics["string_f1"] == pytest.approx(2 * 2 / (3 + 4))


def test_strings_outside_the_text_are_false_positives_one_by_one() -> None:
    gold = _extracted(ADA)
    two = _extracted(ADA, Span("person", -1, -1, "Eve"), Span("person", -1, -1, "Max"))
    assert score_dataset(gold, two, _meta("NER")).metrics["span_precision"] == pytest.approx(1 / 3)
    unasked = score_dataset(gold, _extracted(ADA, Span("planet", 15, 19, "Rome")), _meta("NER", ("person",)))
    assert unasked.metrics["span_precision"] == pytest.approx(1 / 2)


def test_nothing_that_meets_nothing_is_no_true_positive() -> None:
    score = score_dataset(_extracted(), _extracted(), _meta("NER"))
    assert score.headline == 0.0
    both = score_dataset(_extracted() + _extracted(ADA, BOB), _extracted() + _extracted(ADA), _meta("NER"))
    assert both.headline == pytest.approx(2 * 1 / (2 + 1))


def _random_spans(rng: random.Random, length: int) -> tuple[Span, ...]:
    """Spans that do not overlap, each of a random label."""
    edges = sorted(rng.sample(range(length + 1), 2 * rng.randint(0, 4)))
    places = zip(edges[::2], edges[1::2], strict=True)
    return tuple(Span(rng.choice("abc"), start, end, TEXT[start:end]) for start, end in places)


def test_span_scores_are_the_strict_ones_of_nervaluate() -> None:
    rng = random.Random(2)
    gold = [_random_spans(rng, len(TEXT)) for _ in range(100)]
    predicted = [
        tuple(span for span in spans if rng.random() < 0.8) if rng.random() < 0.7 else _random_spans(rng, len(TEXT))
        for spans in gold
    ]
    records: list[list[Record]] = [
        [ExtractionRecord(str(i), "NER", TEXT, spans) for i, spans in enumerate(each)] for each in (gold, predicted)
    ]
    score = score_dataset(records[0], records[1], _meta("NER", LETTERS))
    as_dicts = [
        [[{"label": span.label, "start": span.start, "end": span.end - 1} for span in spans] for spans in each]
        for each in (gold, predicted)
    ]
    strict = Evaluator(as_dicts[0], as_dicts[1], tags=list("abc"), loader="dict").evaluate()["overall"]["strict"]
    assert 0.3 < score.headline < 0.9
    assert score.metrics["span_precision"] == pytest.approx(strict.precision)
    assert score.metrics["span_recall"] == pytest.approx(strict.recall)
    assert score.metrics["span_f1"] == pytest.approx(strict.f1)


def test_lenient_string_f1_forgives_width_case_and_spaces() -> None:
    gold = _extracted(Span("Person", 0, 3, "Ada"), Span("place", 15, 19, "Rome"))
    wide, spaced = Span("person", -1, -1, "ＡＤＡ"), Span("place", -1, -1, "rome ")
    predicted = _extracted(wide, spaced, Span("place", 8, 11, "Bob"))
    score = score_dataset(gold, predicted, _meta("NER"))
    assert (score.metrics["span_f1"], score.metrics["string_f1"]) == (0.0, 0.0)
    assert score.metrics["lenient_string_f1"] == pytest.approx(2 * 2 / (2 + 3))


def _reading(answers: tuple[str, ...] | None, *spans: Span) -> Record:
    return ExtractionRecord("0", "MRC-SE", TEXT, spans, None, "Who left?", answers)


def test_span_reading_takes_the_best_accepted_answer_and_no_spans_mean_no_answer() -> None:
    gold = [_reading(("Ada Lovelace", "The Ada"), ADA), _reading(None), _reading(None)]
    predicted = [_reading(None, Span("Who left?", 0, 3, "Ada"), ADA_AGAIN), _reading(None), _reading(None, BOB)]
    score = score_dataset(gold, predicted, _meta("MRC-SE", ("answer",)))
    assert score.headline_name == "token_f1"
    assert score.metrics["em"] == pytest.approx((1 + 1 + 0) / 3)  # "The Ada" is "ada" once the article is gone
    assert score.headline == pytest.approx((1 + 1 + 0) / 3)
    assert score.metrics["span_f1"] == pytest.approx(2 * 1 / (1 + 3))  # labels are left out; one of two places is gold
    assert score.metrics["string_f1"] == pytest.approx(2 * 1 / (1 + 2))


def test_an_answer_that_is_not_in_the_text_still_has_words() -> None:
    gold, predicted = [_reading(("Bob in Rome",), BOB)], [_reading(None, Span("q", -1, -1, "in old Rome"))]
    assert score_dataset(gold, predicted, _meta("MRC-SE")).headline == pytest.approx(2 / 3)


def test_squad_normalisation() -> None:
    assert squad_em("The  U.S., an idea!", "us idea") == 1.0
    assert squad_f1("the cat sat", "a cat sat on") == pytest.approx(2 * 2 / (2 + 3))
    assert squad_f1("red red fox", "red fox fox") == pytest.approx(2 * 2 / 6)  # bags: red once, fox once
    assert squad_f1("", "") == 1.0
    assert squad_f1("", "cat") == 0.0


def _squad_words(answer: str) -> list[str]:
    """SQuAD: lower case, no punctuation, no articles, split at white space."""
    bare = "".join(char for char in answer.lower() if char not in string.punctuation)
    return [word for word in re.split(r"\s+", bare) if word not in ("", "a", "an", "the")]


def _cmrc_units(answer: str) -> list[str]:
    """CMRC 2018: lower case, punctuation goes, then a Chinese character is a unit, and so is a run of anything else."""
    return re.findall(r"[\u4e00-\u9fa5]|[a-z0-9]+", re.sub("[，《]", "", answer.lower()))


def _squad_overlap(gold: list[str], given: list[str]) -> int:
    """How many words of `given` find one of their own in `gold`."""
    return sum(min(gold.count(word), given.count(word)) for word in set(given))


def _cmrc_overlap(gold: list[str], given: list[str]) -> int:
    """The length of the longest run of units that is in both: every run is tried."""
    runs = {tuple(gold[i:j]) for i in range(len(gold)) for j in range(i + 1, len(gold) + 1)}
    others = {tuple(given[i:j]) for i in range(len(given)) for j in range(i + 1, len(given) + 1)}
    return max((len(run) for run in runs & others), default=0)


def _expected_f1(gold: list[str], given: list[str], overlap: Callable[[list[str], list[str]], int]) -> float:
    """2PR / (P + R), as both scripts say it; two empty answers are equal."""
    if not gold or not given:
        return float(gold == given)
    common = overlap(gold, given)
    precision, recall = common / len(given), common / len(gold)
    return 2 * precision * recall / (precision + recall) if common else 0.0


def test_span_reading_follows_the_published_definitions() -> None:
    rng = random.Random(3)
    english = ["the", "A", "Cat", "cat", "sat,", "on", "U.S.", "an", "(mat)", "!"]
    chinese = ["北", "京", "2008", "年", "，", "大", "NBA", "学", "《"]
    for _ in range(300):
        gold, given = (" ".join(rng.choices(english, k=rng.randint(0, 6))) for _ in range(2))
        words = _squad_words(gold), _squad_words(given)
        assert squad_em(gold, given) == float(words[0] == words[1])
        assert squad_f1(gold, given) == pytest.approx(_expected_f1(*words, _squad_overlap)), (gold, given)
        gold, given = ("".join(rng.choices(chinese, k=rng.randint(0, 6))) for _ in range(2))
        units = _cmrc_units(gold), _cmrc_units(given)
        assert cmrc_em(gold, given) == float("".join(units[0]) == "".join(units[1]))
        assert cmrc_f1(gold, given) == pytest.approx(_expected_f1(*units, _cmrc_overlap)), (gold, given)


def test_cmrc_f1_is_the_longest_common_run() -> None:
    assert cmrc_segments("在2008年NBA总决赛") == ["在", "2008", "年", "nba", "总", "决", "赛"]
    assert cmrc_em("《红楼梦》", "红楼梦。") == 1.0
    assert cmrc_f1("北京地铁10号线", "10号线和西郊线") == pytest.approx(2 * 3 / (7 + 7))  # 10 号 线
    # the run breaks at 海: two runs of 2; a bag of characters would give 4
    assert cmrc_f1("上海大学", "上海的大学") == pytest.approx(2 * 2 / (4 + 5))
    assert char_f1("上海大学", "上海的大学") == pytest.approx(2 * 4 / (4 + 5))
    assert cmrc_f1("", "") == 1.0
    assert cmrc_f1("红", "") == 0.0


def test_chinese_reading_uses_cmrc() -> None:
    text = "他在上海的大学读书"
    gold: list[Record] = [ExtractionRecord("0", "MRC-SE", text, (), None, "哪里", ("上海大学", "读书"))]
    predicted: list[Record] = [ExtractionRecord("0", "MRC-SE", text, (Span("哪里", 2, 7, "上海的大学"),), None, "哪里")]
    score = score_dataset(gold, predicted, _meta("MRC-SE", ("答案",), "zh"))
    assert score.headline == pytest.approx(4 / 9)
    assert score.metrics["char_f1"] == pytest.approx(8 / 9)
    assert score.metrics["em"] == 0.0


# --- relations and events --------------------------------------------------------------------------------------------


def test_triples_are_compared_by_their_strings() -> None:
    gold: list[Record] = [
        RelationRecord("0", "RE", TEXT, (ADA, BOB, ROME, ADA_AGAIN), (Relation("knows", 3, 1), Relation("in", 1, 2)))
    ]
    predicted: list[Record] = [
        RelationRecord("0", "RE", TEXT, (ADA, BOB, ADA_AGAIN), (Relation("knows", 0, 1), Relation("knows", 1, 0)))
    ]
    score = score_dataset(gold, predicted, _meta("RE"))
    assert score.headline_name == "triple_f1"
    assert score.headline == pytest.approx(2 * 1 / (2 + 2))  # (knows, Ada, Bob) whichever Ada; the direction matters
    assert score.metrics["span_f1"] == pytest.approx(2 * 3 / (4 + 3))
    assert score.metrics["string_f1"] == pytest.approx(2 * 2 / (3 + 2))
    assert score.metrics["triple_precision"] == score.metrics["triple_recall"] == pytest.approx(1 / 2)
    shouted: list[Record] = [
        RelationRecord(
            "0", "RE", TEXT, (Span("person", -1, -1, "ADA"), Span("person", -1, -1, "bob")), (Relation("Knows", 0, 1),)
        )
    ]
    loud = score_dataset(gold, shouted, _meta("RE")).metrics
    assert (loud["triple_f1"], loud["string_f1"]) == (0.0, 0.0)
    assert loud["lenient_triple_f1"] == pytest.approx(2 * 1 / (2 + 1))
    assert loud["lenient_string_f1"] == pytest.approx(2 * 2 / (3 + 2))


def test_event_scores() -> None:
    met, left = Span("meet", 4, 7, "met"), Span("leave", 25, 29, "left")
    gold: list[Record] = [
        EventRecord(
            "0",
            "EE",
            TEXT,
            (
                Event("meet", met, (Span("who", 0, 3, "Ada"), Span("whom", 8, 11, "Bob"))),
                Event("leave", left, (Span("who", 21, 24, "Ada"),)),
            ),
        )
    ]
    predicted: list[Record] = [
        EventRecord(
            "0",
            "EE",
            TEXT,
            (
                Event("meet", met, (Span("who", 0, 3, "Ada"), Span("place", 8, 11, "Bob"))),
                Event("die", Span("die", 25, 29, "left"), (Span("who", 21, 24, "Ada"),)),
            ),
        )
    ]
    score = score_dataset(gold, predicted, _meta("EE"))
    assert score.metrics["trigger_i"] == 1.0
    assert score.metrics["trigger_c"] == pytest.approx(1 / 2)
    assert score.metrics["argument_i"] == pytest.approx(2 / 3)  # Bob is an argument of meet, in the wrong role
    assert score.metrics["argument_c"] == pytest.approx(1 / 3)
    assert (score.headline_name, score.headline) == ("argument_c", score.metrics["argument_c"])
    assert score.metrics["span_f1"] == pytest.approx(2 / 5)  # met; Ada as who of meet, of five each
    assert score.metrics["string_f1"] == score.metrics["lenient_string_f1"] == pytest.approx(2 / 5)
    loud: list[Record] = [EventRecord("0", "EE", TEXT, (Event("MEET", Span("MEET", -1, -1, "MET")),))]
    assert score_dataset(gold, loud, _meta("EE")).metrics["lenient_string_f1"] == pytest.approx(2 * 1 / (5 + 1))


# --- every kind ------------------------------------------------------------------------------------------------------


def test_gold_scores_one_and_nothing_scores_nothing() -> None:
    relation: list[Record] = [RelationRecord("0", "RE", TEXT, (ADA, BOB), (Relation("knows", 0, 1),))]
    event: list[Record] = [EventRecord("0", "EE", TEXT, (Event("meet", Span("meet", 4, 7, "met"), (ADA,)),))]
    for task, gold in (("NER", _extracted(ADA)), ("RE", relation), ("EE", event), ("CLS", _classified([("a",)]))):
        assert set(score_dataset(gold, gold, _meta(task)).metrics.values()) == {1.0}
        assert set(score_dataset(gold, empty_predictions(gold), _meta(task)).metrics.values()) == {0.0}
        if task != "CLS":
            assert baseline_predictions(gold, _meta(task)) == empty_predictions(gold)


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(UserError, match="'toy' has no records"):
        score_dataset([], [], _meta("NER"))
    mixed = _classified([("a",)]) + _extracted(ADA)
    with pytest.raises(UserError, match="mixes kinds"):
        score_dataset(mixed, mixed, _meta("NER"))
