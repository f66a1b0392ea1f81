"""Numbers, dates, times, amounts, codes and coined words: the builtins of the value grammar, per language and family.

Each family owns one residue class modulo 3, and every builtin value carries a number of that class (a date through
month + day, a time through hour + minute, a word through its letters), so the builtin values of two families never
coincide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Draw = Callable[[], float]  # the next uniform number in [0, 1): random.Random(...).random
NUM_RESIDUES = 3

_MONTHS = (
    ("January", 31), ("February", 28), ("March", 31), ("April", 30), ("May", 31), ("June", 30), ("July", 31),
    ("August", 31), ("September", 30), ("October", 31), ("November", 30), ("December", 31),
)  # fmt: skip
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_ZH_WEEKDAYS = "一二三四五六日"
_ZH_DIGITS = "零一二三四五六七八九"
_LETTERS = "BCDFGHJKLMNPQRSTVWXZ"
_FIRST_YEAR, _LAST_YEAR = 1960, 2039
_ONSETS = (
    "b", "br", "c", "ch", "d", "dr", "f", "fl", "g", "gr", "h", "j", "k", "l", "m", "n", "p", "pr", "qu", "r", "s",
    "sh", "st", "t", "th", "tr", "v", "w", "y", "z",
)  # fmt: skip
_VOWELS = ("a", "e", "i", "o", "u", "ai", "ea", "ei", "ie", "oa", "ou", "y")
_CODAS = ("", "", "b", "ck", "d", "l", "ll", "m", "n", "nd", "ng", "nt", "r", "rd", "rn", "s", "ss", "t", "tt", "x")
_ZH_NAME_CHARACTERS = (
    "安柏宝北本碧宾博才昌常畅超辰成诚城池川春慈翠达大岱丹德登迪典鼎定东渡端恩尔法凡方芳飞丰峰凤福富冈刚高歌光广贵桂国果海涵翰航豪昊浩禾和河鹤恒"
    "弘宏虹鸿华怀欢辉慧吉纪季佳嘉坚建江杰捷金津锦京晶静九君俊凯康科可克坤拉兰朗乐雷蕾黎礼里力立利丽连莲良亮林琳玲凌岭隆龙鲁路露伦洛满曼茂梅美萌"
    "孟梦米苗妙民敏铭南楠能尼年宁诺欧攀培佩鹏平普奇琪启千谦乾强青清庆秋泉然仁荣融柔如瑞若赛三森沙山善尚少绍深升胜圣盛诗石时世树双水顺思松嵩素泰"
    "涛特腾天田廷通同万望威薇维伟卫文沃西希溪夏仙贤祥翔向晓笑欣新信星兴秀旭轩雪雅亚岩彦扬阳耀业叶怡宜义艺益逸毅银英盈永勇友宇玉育裕元园远月岳云"
    "运泽展兆哲珍正之志智中忠舟洲珠竹卓子紫宗祖"
)


@dataclass(frozen=True, slots=True)
class Builtin:
    """A compiled builtin: how to compose a value, and how many different values there are."""

    compose: Callable[[Draw], str]
    num_values: int


def make_builtin(name: str, arguments: Sequence[str], language: str, residue: int) -> Builtin:
    """The builtin `name` of a language for one residue class; ValueError says what is wrong with the call."""
    if name == "number":
        try:
            low, high = (int(argument) for argument in arguments)
        except ValueError:
            raise ValueError("{number LO HI} takes two whole numbers") from None
        count = count_in_class(low, high, residue)
        if low < 0 or count < 1:
            raise ValueError(f"{{number {low} {high}}} holds no number of the family's class (n % 3 == {residue})")
        return Builtin(lambda draw: str(_pick(draw, low, high, residue)), count)
    if name not in _MAKERS:
        raise ValueError(f"{{{name}}} is neither a pool nor a builtin ({', '.join(BUILTIN_NAMES)})")
    if arguments:
        raise ValueError(f"{{{name}}} takes no arguments")
    return _MAKERS[name](language, residue)


def count_in_class(low: int, high: int, residue: int) -> int:
    """How many n in low..high have n % 3 == residue."""
    first = low + (residue - low) % NUM_RESIDUES
    return max(0, (high - first) // NUM_RESIDUES + 1)


def _pick(draw: Draw, low: int, high: int, residue: int) -> int:
    first = low + (residue - low) % NUM_RESIDUES
    return first + NUM_RESIDUES * int(draw() * ((high - first) // NUM_RESIDUES + 1))


def _table(values: Sequence[str]) -> Builtin:
    table, count = tuple(values), len(values)
    return Builtin(lambda draw: table[int(draw() * count)], len(set(table)))


def _year(language: str, residue: int) -> Builtin:
    """Mostly of our days, some back to 1100 so that the class is wide enough."""

    def compose(draw: Draw) -> str:
        return str(_pick(draw, 1900, 2099, residue) if draw() < 0.7 else _pick(draw, 1100, 1899, residue))

    return Builtin(compose, count_in_class(1100, 2099, residue))


def _days(residue: int) -> list[tuple[int, int]]:
    return [
        (month, day)
        for month, (_, length) in enumerate(_MONTHS, start=1)
        for day in range(1, length + 1)
        if (month + day) % NUM_RESIDUES == residue
    ]


def _date(language: str, residue: int) -> Builtin:
    days = _days(residue)
    num_days, num_years = len(days), _LAST_YEAR - _FIRST_YEAR + 1

    def compose_en(draw: Draw) -> str:
        month, day = days[int(draw() * num_days)]
        name, form = _MONTHS[month - 1][0], draw()
        if form < 0.6:
            return f"{name} {day}" if form < 0.3 else f"{day} {name}"
        year = _FIRST_YEAR + int(draw() * num_years)
        return f"{name} {day}, {year}" if form < 0.75 else f"{day} {name} {year}"

    def compose_zh(draw: Draw) -> str:
        month, day = days[int(draw() * num_days)]
        if draw() < 0.6:
            return f"{month}月{day}日"
        return f"{_FIRST_YEAR + int(draw() * num_years)}年{month}月{day}日"

    if language == "zh":
        return Builtin(compose_zh, num_days * (1 + num_years))
    return Builtin(compose_en, num_days * (2 + 2 * num_years))


def _weekday_date(language: str, residue: int) -> Builtin:
    days = _days(residue)
    if language == "zh":
        return _table([f"{m}月{d}日{week}{w}" for m, d in days for w in _ZH_WEEKDAYS for week in ("周", "星期")])
    return _table(
        [
            form
            for month, day in days
            for weekday in _WEEKDAYS
            for form in (f"{weekday} {day} {_MONTHS[month - 1][0]}", f"{weekday}, {_MONTHS[month - 1][0]} {day}")
        ]
    )


def _time(language: str, residue: int) -> Builtin:
    values: list[str] = []
    for hour in range(24):
        for minute in range(60):
            if (hour + minute) % NUM_RESIDUES != residue:
                continue
            weight = 12 if minute in (0, 30) else 4 if minute % 5 == 0 else 1  # round times are the usual ones
            spoken = _zh_time(hour, minute) if language == "zh" else _en_time(hour, minute)
            values += [f"{hour}:{minute:02d}", spoken] * weight
    return _table(values)


def _en_time(hour: int, minute: int) -> str:
    clock = str((hour - 1) % 12 + 1) + (f":{minute:02d}" if minute else "")
    return f"{clock} {'am' if hour < 12 else 'pm'}"


def _zh_time(hour: int, minute: int) -> str:
    limits = ((6, "凌晨"), (9, "早上"), (12, "上午"), (13, "中午"), (18, "下午"), (24, "晚上"))
    period = next(name for limit, name in limits if hour < limit)
    tail = "" if minute == 0 else "半" if minute == 30 else f"{minute}分"
    return f"{period}{hour if hour <= 12 else hour - 12}点{tail}"


def _money(language: str, residue: int) -> Builtin:
    sizes = ((5, 99), (100, 999), (1_000, 99_999))

    def compose(draw: Draw) -> str:
        form = draw()
        if form < 0.15:
            amount = _pick(draw, 2, 950, residue)
            return f"{amount}万元" if language == "zh" else f"${amount} million"
        low, high = sizes[int(draw() * 3)]
        amount = _pick(draw, low, high, residue)
        if language == "zh":
            return f"{amount}元" if form < 0.75 else f"{amount}块" if form < 0.85 else f"{amount}美元"
        if form < 0.6:
            return f"${amount:,}"
        if form < 0.7:
            return f"${amount:,}.{int(draw() * 20) * 5:02d}"
        return f"€{amount:,}" if form < 0.8 else f"£{amount:,}" if form < 0.9 else f"{amount:,} dollars"

    return Builtin(compose, 4 * count_in_class(5, 99_999, residue))


def _percent(language: str, residue: int) -> Builtin:
    whole = [n for n in range(1, 100) if n % NUM_RESIDUES == residue]
    tenths = [f"{t // 10}.{t % 10}%" for t in range(1, 1000) if t % 10 and t % NUM_RESIDUES == residue]
    words = [f"百分之{_zh_number(n)}" if language == "zh" else f"{n} percent" for n in whole]
    return _table([f"{n}%" for n in whole] * 8 + words * 4 + tenths)


def _zh_number(n: int) -> str:
    """A number below 100 in Chinese characters: 45 -> 四十五."""
    tens, ones = divmod(n, 10)
    head = "" if tens == 0 else "十" if tens == 1 else _ZH_DIGITS[tens] + "十"
    return head + (_ZH_DIGITS[ones] if ones or not tens else "")


def _phone(language: str, residue: int) -> Builtin:
    def compose(draw: Draw) -> str:
        line = _pick(draw, 10_000_000, 99_999_999, residue)
        if language == "zh":
            return f"1{30 + int(draw() * 70)}{line}" if draw() < 0.6 else f"0{10 + int(draw() * 90)}-{line}"
        return f"{20 + int(draw() * 80)}0 {line // 10_000} {line % 10_000:04d}"

    return Builtin(compose, 80 * count_in_class(10_000_000, 99_999_999, residue))


def _code(language: str, residue: int) -> Builtin:
    num_letters = len(_LETTERS)

    def compose(draw: Draw) -> str:
        letters = _LETTERS[int(draw() * num_letters)] + _LETTERS[int(draw() * num_letters)]
        if draw() < 0.5:
            return f"{letters}{_pick(draw, 100, 999, residue)}"
        return f"{letters}-{_pick(draw, 1000, 9999, residue)}"

    return Builtin(compose, num_letters**2 * count_in_class(100, 9999, residue))


def _word(language: str, residue: int) -> Builtin:
    """A word that nobody has seen: what a name in a new text is to a model, which must copy instead of recall it."""

    def compose_en(draw: Draw) -> str:
        while True:
            num_syllables = 2 if draw() < 0.6 else 3
            word = "".join(
                _ONSETS[int(draw() * len(_ONSETS))] + _VOWELS[int(draw() * len(_VOWELS))] for _ in range(num_syllables)
            )
            word += _CODAS[int(draw() * len(_CODAS))]
            if sum(map(ord, word)) % NUM_RESIDUES == residue:
                return word.capitalize()

    def compose_zh(draw: Draw) -> str:
        while True:
            word = "".join(_ZH_NAME_CHARACTERS[int(draw() * len(_ZH_NAME_CHARACTERS))] for _ in range(2))
            if sum(map(ord, word)) % NUM_RESIDUES == residue and word[0] != word[1]:
                return word

    if language == "zh":
        return Builtin(compose_zh, len(_ZH_NAME_CHARACTERS) * (len(_ZH_NAME_CHARACTERS) - 1) // NUM_RESIDUES)
    syllables = len(_ONSETS) * len(_VOWELS)
    return Builtin(compose_en, syllables**2 * (1 + syllables) * len(_CODAS) // NUM_RESIDUES)


_MAKERS: dict[str, Callable[[str, int], Builtin]] = {
    "year": _year,
    "date": _date,
    "time": _time,
    "money": _money,
    "percent": _percent,
    "weekday_date": _weekday_date,
    "phone": _phone,
    "code": _code,
    "word": _word,
}
BUILTIN_NAMES = ("number", *_MAKERS)
