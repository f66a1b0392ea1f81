"""How sentiment and inference labels are worded, per language and family: the sets differ, the single names recur."""

from __future__ import annotations

from collections.abc import Mapping

Wording = Mapping[str, str]  # what is meant -> the label that says it


def _sentiment(*rows: str) -> tuple[Wording, ...]:
    keys = ("positive", "negative", "neutral")
    return tuple(dict(zip(keys, row.split("/"), strict=False)) for row in rows)


def _inference(*rows: str) -> tuple[Wording, ...]:
    """Three labels: entailment, contradiction, neutral. Two: entailment, and one for both others."""
    wordings: list[Wording] = []
    for row in rows:
        labels = row.split("/")
        wordings.append(dict(zip(("entailment", "contradiction", "neutral"), labels, strict=False)))
    return tuple(wordings)


# Rows are positive/negative/neutral; two labels leave neutral texts out.
SENTIMENT_WORDINGS: dict[tuple[str, str], tuple[Wording, ...]] = {
    ("en", "synthetic"): _sentiment(
        "positive/negative/neutral",
        "positive/negative/neutral",
        "good/bad/neutral",
        "favourable/unfavourable/neutral",
        "praise/complaint/neutral",
        "happy/unhappy/factual",
        "positive/negative",
        "good/bad",
        "satisfied/dissatisfied",
        "praise/complaint",
    ),
    ("en", "mini_real"): _sentiment(
        "positive/negative/factual",
        "good/bad/factual",
        "happy/unhappy/neutral",
        "satisfied/dissatisfied/neutral",
        "positive sentiment/negative sentiment/neutral sentiment",
        "favourable/unfavourable",
        "happy/unhappy",
    ),
    ("en", "mini_held_out"): _sentiment(
        "good/negative/neutral",
        "positive/bad/neutral",
        "praise/complaint/factual",
        "positive/complaint/neutral",
    ),
    ("zh", "synthetic"): _sentiment(
        "正面/负面/中性",
        "正面/负面/中性",
        "好评/差评/中性",
        "积极/消极/中性",
        "满意/不满意/一般",
        "表扬/批评/中立",
        "正面/负面",
        "好评/差评",
        "满意/不满意",
        "积极/消极",
    ),
    ("zh", "mini_real"): _sentiment(
        "正面/负面/中立",
        "好评/差评/中评",
        "表扬/批评/中性",
        "积极/消极/中立",
        "正面情感/负面情感/中性情感",
        "喜欢/不喜欢",
        "表扬/批评",
    ),
    ("zh", "mini_held_out"): _sentiment(
        "好评/负面/中性",
        "正面/差评/中性",
        "积极/负面/中性",
        "正面/消极/中立",
    ),
}

# Rows are entailment/contradiction/neutral; two labels are entailment and everything else.
NLI_WORDINGS: dict[tuple[str, str], tuple[Wording, ...]] = {
    ("en", "synthetic"): _inference(
        "entailment/contradiction/neutral",
        "entailment/contradiction/neutral",
        "true/false/unrelated",
        "same meaning/contradiction/unrelated",
        "same meaning/different meaning",
        "paraphrase/different meaning",
        "entailment/not entailment",
    ),
    ("en", "mini_real"): _inference(
        "true/contradiction/neutral",
        "entailment/false/unrelated",
        "same meaning/contradiction/neutral",
        "entailment/contradiction/unrelated",
        "same meaning/not the same",
        "paraphrase/not a paraphrase",
    ),
    ("en", "mini_held_out"): _inference(
        "true/false/neutral",
        "entailment/false/neutral",
        "true/contradiction/unrelated",
        "same meaning/false/unrelated",
    ),
    ("zh", "synthetic"): _inference(
        "蕴含/矛盾/中立",
        "蕴含/矛盾/中立",
        "正确/错误/无关",
        "意思相同/矛盾/无关",
        "意思相同/意思不同",
        "相似/不相似",
        "蕴含/不蕴含",
    ),
    ("zh", "mini_real"): _inference(
        "正确/矛盾/中立",
        "蕴含/错误/无关",
        "意思相同/矛盾/中立",
        "蕴含/矛盾/无关",
        "同义/不同义",
        "意思一样/意思不一样",
    ),
    ("zh", "mini_held_out"): _inference(
        "正确/错误/中立",
        "蕴含/错误/中立",
        "正确/矛盾/无关",
        "意思相同/错误/无关",
    ),
}
