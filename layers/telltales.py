"""What gives away, in a renamed answer, that it was made for another folder, home or moment.

Goals: an answer that still names the recorded request's folder or user, in whatever spelling a model may use, does not
serve another request; nor does one that says where things lie, when they lie elsewhere now.

Plan.  ``atoms.fragments_of`` names the words that tell.  Here come the spellings in which no word stands by itself: a
long name inside of another word (``CrawlerApp``), in base64 or hexadecimal; and the places that depend on how deep the
folder lies: its ancestors, and names under ``~``.

What it does not do: it is no proof.  A model may spell a name backwards, or count its letters.  A false alarm costs one
call to the provider.
"""

import base64
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from promptweir.layers.atoms import ROOT_KINDS, Atom, fragment_pattern, fragments_of

MIN_ANYWHERE_CHARS = 5
"""A name this long tells even as a part of another word; ``al`` stands in too many."""
_NAMES = re.compile(r"[^\\/:]+")
_HOMEWARD = re.compile(r"(?:~|\$home|\$\{home\}|%userprofile%|\$env:userprofile)[\\/]+([^\\/\s\"'`<>|;,()]+)")
_INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u200c\u200d\u2060\ufeff"))


@dataclass(frozen=True, slots=True)
class Telltales:
    """The signs of one renaming."""

    words: re.Pattern[str] | None
    anywhere: re.Pattern[str] | None
    under_home: frozenset[str]
    """Names of the old folders: what lies there under ``~`` may lie elsewhere under the new home."""

    def found_in(self, text: str) -> bool:
        """Tell whether *text*, the rest of an answer without the atoms that were found in it, gives the old ones away."""
        text = text.lower() if text.isascii() else _plain(text)
        return bool(
            (self.words is not None and self.words.search(text))
            or (self.anywhere is not None and self.anywhere.search(text))
            or any(match[1] in self.under_home for match in _HOMEWARD.finditer(text))
        )


def telltales_of(renaming: Mapping[Atom, Atom]) -> Telltales:
    """Return what tells of the old atoms in *renaming*, which maps them to the new ones."""
    words: set[str] = set()
    anywhere: set[str] = set()
    under_home: set[str] = set()
    for old, new in renaming.items():
        fragments = fragments_of(old, new)
        words.update(fragments)
        if old[0] in ROOT_KINDS:
            gone = set(fragments)
            names = _NAMES.findall(old[1])
            under_home.update(name.lower() for name in names)
            for name in (*(name for name in names if gone.intersection(name.lower().split())), old[1]):
                anywhere.update(_inside(name))
            anywhere.update(_ancestors(old[1], new[1]))
    return Telltales(
        words=fragment_pattern(tuple(sorted(words))) if words else None,
        anywhere=re.compile("|".join(sorted(anywhere))) if anywhere else None,
        under_home=frozenset(under_home),
    )


def _plain(text: str) -> str:
    """Return *text* in lower case, without letters that are not seen, wide letters as plain ones."""
    return unicodedata.normalize("NFKC", text.translate(_INVISIBLE)).lower()


def _inside(name: str) -> Iterator[str]:
    """Yield patterns that find *name* without a boundary, and encoded."""
    data = name.encode("utf-8", "surrogatepass")
    if len(data) < MIN_ANYWHERE_CHARS:
        return
    if not set("\\/") & set(name):
        yield re.escape(name.lower())
    yield data.hex()
    for shift in range(3):
        # What comes before and after shares letters of base64 with the name's first and last bytes: those are left out.
        code = base64.b64encode(bytes(shift) + data).decode().rstrip("=")
        core = code[(shift * 8 + 5) // 6 : (shift + len(data)) * 8 // 6]
        yield re.escape(core.lower())
        yield re.escape(core.lower().replace("+", "-").replace("/", "_"))


def _ancestors(old: str, new: str) -> Iterator[str]:
    """Yield patterns for the folders above *old*, where they are not as far above *new*."""
    names = _NAMES.findall(old)
    if len(names) == len(_NAMES.findall(new)):
        return
    for count in range(2, len(names)):
        yield r"[\\/]+".join(re.escape(name.lower()) for name in names[:count]) + r"(?![\w-])"
