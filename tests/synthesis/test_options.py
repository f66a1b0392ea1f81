from __future__ import annotations

import random
import zlib
from collections import Counter
from pathlib import Path

from seqgpt_jax.synthesis.options import LabelSets, sample, shuffle
from seqgpt_jax.synthesis.reader import read_family

from .conftest import EN_DOMAIN, write_content

INTENTS = ("hire boat", "cancel trip", "find route", "leave review", "report problem", "set alarm")
OTHER = EN_DOMAIN.replace("ferry travel", "boat trips").replace("rescue", "storm") + "".join(
    f'[[utterances]]\nintent = "{intent}"\ntext = ["{intent} {{port}}", "{intent} {{fare}}", "{intent} {{captain}}"]\n'
    for intent in INTENTS
)


def test_sample_and_shuffle_are_uniform() -> None:
    draw = random.Random(0).random
    firsts, members = Counter(), Counter()
    for _ in range(6000):
        items = list("abc")
        shuffle(items, draw)
        assert sorted(items) == list("abc")
        firsts["".join(items)] += 1
        chosen = sample(range(10), 2, draw)
        assert len(set(chosen)) == 2
        members.update(chosen)
    assert len(firsts) == 6 and all(abs(count - 1000) < 150 for count in firsts.values())
    assert len(members) == 10 and all(abs(count - 1200) < 150 for count in members.values())
    assert sorted(sample("abc", 5, draw)) == list("abc")


def test_random_sets_of_two_families_never_coincide(tmp_path: Path) -> None:
    root = write_content(tmp_path)
    for family in ("synthetic", "mini_real"):
        (root / "en" / family / "boat.toml").write_text(OTHER, encoding="utf-8")
    contents = {family: read_family("en", family, root)[0] for family in ("synthetic", "mini_real", "mini_held_out")}
    draw = random.Random(3).random
    seen: dict[str, set[frozenset[str]]] = {"synthetic": set(), "mini_real": set()}
    for family, found in seen.items():
        rivals = [content for name, content in contents.items() if name != family]
        label_sets = LabelSets(contents[family], rivals)
        for domain in contents[family].domains:
            for _ in range(300):
                for options in (
                    label_sets.topics(domain, domain.topics[:1], draw),
                    label_sets.intents(domain, (), draw),
                ):
                    if options is not None:
                        assert 3 <= len(options) == len(set(options)) <= 10
                        found.add(frozenset(options))
    # the domains of these two families are the same, so their own inventories are; no other set may be
    own = {frozenset(names) for d in contents["synthetic"].domains for names in (d.topics, d.intent_names)}
    assert len(seen["synthetic"] - own) > 3 and len(seen["mini_real"] - own) > 3
    assert not (seen["synthetic"] & seen["mini_real"]) - own


def test_settle_keeps_gold_and_drops_others_until_the_set_is_allowed(tiny_content: Path) -> None:
    contents = [read_family("en", family, tiny_content)[0] for family in ("synthetic", "mini_real", "mini_held_out")]
    label_sets = LabelSets(contents[0], contents[1:])
    draw = random.Random(4).random
    for _ in range(200):
        options = label_sets.settle(("gold",), ["a", "b", "c", "d", "e"], draw)
        assert options and "gold" in options
        assert zlib.crc32("\n".join(sorted(options)).encode()) % 2 == 0
    assert label_sets.settle(("gold",), [], draw) is None
