"""A tiny content folder: one domain a language and family, whose values tell their type by their first word."""

from __future__ import annotations

from pathlib import Path

import pytest

EN_POOLS = """
[pools]
onset = ["Bar", "Cor", "Del", "Far", "Gan", "Hol", "Jas", "Kel", "Lum", "Mor"]
rime = ["ado", "bex", "cane", "dun", "ford", "gate", "ham", "ick", "ley", "mont"]
stem = ["{onset}{rime}"]
"""

EN_DOMAIN = """
name = "ferry travel"

[types]
"ferry company" = ["Line {stem}"]
"port" = ["Port {stem}"]
"captain" = ["Captain {stem}"]
"travel date" = ["{date}"]
"fare" = ["{money}"]

[[facts]]
topic = "route launch"
text = [
  "{ferry company} [opened] a route to {port} on {travel date}.",
  "Since {travel date}, {ferry company} sails to {port}: the route was [launched] with a party.",
]
relations = [["sails to", "ferry company", "port"]]
event = { type = "opening", roles = { "operator" = "ferry company", "place" = "port", "time" = "travel date" } }
questions = { "ferry company" = ["Who sails on the new route?"], "port" = ["Where does {ferry company} go?"] }

[[facts]]
topic = "rescue"
text = [
  "{captain} [saved] two swimmers near {port}.",
  "Two swimmers near {port} were [rescued] by {captain}.",
]
relations = [["was near", "captain", "port"]]
event = { type = "rescue", roles = { "hero" = "captain", "place" = "port" } }
questions = { "captain" = ["Who helped the swimmers?"], "port" = ["Where were the swimmers?"] }

[[facts]]
topic = "price rise"
text = ["A ticket of {ferry company} now costs {fare}.", "{ferry company} asks {fare} for a ticket."]
questions = { "fare" = ["What does a ticket cost?"], "ferry company" = ["Who sells the ticket?"] }

[[utterances]]
intent = "book ferry"
text = ["book a seat with {ferry company} to {port}", "I want to sail to {port}", "a cabin to {port} for {fare} please"]

[[utterances]]
intent = "ask price"
text = ["what does {ferry company} charge", "how much is the trip to {port}", "price of a ticket to {port} please"]

[[utterances]]
intent = "contact captain"
text = ["call {captain}", "write to {captain} about {travel date}", "I need {captain} now"]

[opinions]
aspects = ["deck", "cabin", "buffet", "crew", "boarding", "view", "ticket", "shop"]
positive = [
  "The {aspect} of {ferry company} was superb.", "A superb {aspect}, thanks to {captain}.",
  "Superb {aspect} on the way to {port}.", "We found the {aspect} superb near {port}.",
]
negative = [
  "The {aspect} of {ferry company} was awful.", "An awful {aspect}, said {captain}.",
  "Awful {aspect} on the way to {port}.", "We found the {aspect} awful near {port}.",
]
neutral = [
  "The {aspect} of {ferry company} was usual.", "The usual {aspect}, said {captain}.",
  "Usual {aspect} on the way to {port}.", "We found the {aspect} usual near {port}.",
]
"""

ZH_POOLS = """
[pools]
first = ["海", "云", "山", "林", "江", "湖", "星", "月", "春", "秋"]
second = ["安", "宁", "兴", "盛", "达", "通", "顺", "和", "平", "泰"]
stem = ["{first}{second}"]
"""

ZH_DOMAIN = """
name = "轮渡"

[types]
"轮渡公司" = ["{stem}轮渡"]
"港口" = ["{stem}港"]
"船长" = ["老{stem}"]
"日期" = ["{date}"]
"票价" = ["{money}"]

[[facts]]
topic = "航线开通"
text = ["{日期}，{轮渡公司}[开通]到{港口}的航线。", "{轮渡公司}到{港口}的航线{日期}[启用]。"]
relations = [["驶向", "轮渡公司", "港口"]]
event = { type = "开通", roles = { "经营者" = "轮渡公司", "地点" = "港口", "时间" = "日期" } }
questions = { "轮渡公司" = ["谁经营新航线？"], "港口" = ["{轮渡公司}的航线通往哪里？"] }

[[facts]]
topic = "救援"
text = ["船长{船长}在{港口}附近[救起]两名泳客。", "两名泳客在{港口}附近被船长{船长}[救出]。"]
relations = [["到过", "船长", "港口"]]
event = { type = "救援", roles = { "英雄" = "船长", "地点" = "港口" } }
questions = { "船长" = ["谁救了泳客？"], "港口" = ["泳客在哪里？"] }

[[facts]]
topic = "涨价"
text = ["{轮渡公司}的船票现在要{票价}。", "买一张{轮渡公司}的票得花{票价}。"]
questions = { "票价" = ["船票多少钱？"], "轮渡公司" = ["谁卖船票？"] }

[[utterances]]
intent = "订船票"
text = ["订{轮渡公司}去{港口}的票", "我想坐船去{港口}", "买一张{票价}的票去{港口}"]

[[utterances]]
intent = "查价格"
text = ["{轮渡公司}怎么收费", "去{港口}要多少钱", "到{港口}的票贵吗"]

[[utterances]]
intent = "联系船长"
text = ["打给{船长}", "问{船长}{日期}开不开船", "我要找{船长}"]

[opinions]
aspects = ["甲板", "船舱", "自助餐", "服务", "登船", "景色", "座位", "商店"]
positive = [
  "{轮渡公司}的{aspect}极好。", "极好的{aspect}，谢谢{船长}。",
  "去{港口}的路上{aspect}极好。", "在{港口}，{aspect}极好。",
]
negative = [
  "{轮渡公司}的{aspect}极差。", "极差的{aspect}，{船长}说。",
  "去{港口}的路上{aspect}极差。", "在{港口}，{aspect}极差。",
]
neutral = [
  "{轮渡公司}的{aspect}普通。", "普通的{aspect}，{船长}说。",
  "去{港口}的路上{aspect}普通。", "在{港口}，{aspect}普通。",
]
"""


@pytest.fixture(scope="session")
def tiny_content(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A content folder whose three families hold the same domain (which a real one may not)."""
    return write_content(tmp_path_factory.mktemp("content"))


def write_content(root: Path, domain: str = EN_DOMAIN, pools: str = EN_POOLS) -> Path:
    """Writes the tiny content with the English domain and pools given; returns `root`."""
    for language, texts in (("en", (pools, domain)), ("zh", (ZH_POOLS, ZH_DOMAIN))):
        for family in ("synthetic", "mini_real", "mini_held_out"):
            folder = root / language / family
            folder.mkdir(parents=True, exist_ok=True)
            for name, text in zip(("_pools.toml", "ferry.toml"), texts, strict=True):
                (folder / name).write_text(text, encoding="utf-8")
    return root
