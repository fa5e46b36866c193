"""Where an answer of Gemini may be changed by a replay, and where it must not be.

Ids, text, call arguments: may be changed.  What stands in a part with a ``thoughtSignature``, code that the provider
ran, and everything unknown by name: sealed.  Text is a run of consecutive text parts; a run that holds signed words is
signed as a whole, since a name may be cut anywhere within it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from promptweir.layers.contract import Encoding, Json
from promptweir.layers.dialects.gemini_chunks import candidates_of, index_of, parts_of
from promptweir.layers.dialects.shape import sealed
from promptweir.layers.frames import Frame, Slot, SlotKind

_PLAIN = frozenset(("candidates", "usageMetadata", "modelVersion", "createTime", "modelStatus", "promptFeedback"))
_PLAIN_OF_CANDIDATE = frozenset(("content", "index", "finishReason", "safetyRatings", "avgLogprobs", "tokenCount"))


@dataclass(slots=True)
class _Run:
    """Consecutive text parts of one candidate with an equal ``thought`` flag."""

    channel: str
    thought: bool
    signed: bool = False
    pieces: list[tuple[int, dict[str, Json]]] = field(default_factory=list)

    def slots(self) -> Iterator[Slot]:
        kind = SlotKind.SIGNED_TEXT if self.signed else SlotKind.TEXT
        for frame, part in self.pieces:
            yield Slot(frame=frame, container=part, key="text", kind=kind, channel=self.channel)


@dataclass(slots=True)
class _Reader:
    """Walks through the chunks and keeps the open run of each candidate."""

    found: list[Slot] = field(default_factory=list)
    runs: list[_Run] = field(default_factory=list)
    open: dict[int, _Run] = field(default_factory=dict)

    def chunk(self, frame: int, chunk: dict[str, Json]) -> None:
        for candidate in candidates_of(chunk):
            for part in parts_of(candidate):
                self._part(frame, index_of(candidate), part)
            self._reports(frame, candidate)
        for name in chunk:
            if name == "responseId":
                self._mark(frame, chunk, name, SlotKind.RESPONSE_ID)
            elif name not in _PLAIN:
                self.found.extend(sealed(frame, chunk, name))

    def _reports(self, frame: int, candidate: dict[str, Json]) -> None:
        for name in candidate:
            if name == "logprobsResult":
                self._mark(frame, candidate, name, SlotKind.OPAQUE)
            elif name not in _PLAIN_OF_CANDIDATE:
                self.found.extend(sealed(frame, candidate, name))

    def _part(self, frame: int, candidate: int, part: dict[str, Json]) -> None:
        signed = bool(part.get("thoughtSignature"))
        if isinstance(part.get("text"), str):
            self._text(frame, candidate, part, signed)
        else:
            self.open.pop(candidate, None)
        for name, value in part.items():
            match name, value:
                case "text" | "thought", _:
                    pass
                case "functionCall", dict(call):
                    self._call(frame, call, signed)
                case "thoughtSignature" | "inlineData", _:
                    self._mark(frame, part, name, SlotKind.OPAQUE)
                case _:
                    self.found.extend(sealed(frame, part, name))

    def _text(self, frame: int, candidate: int, part: dict[str, Json], signed: bool) -> None:
        thought = bool(part.get("thought"))
        run = self.open.get(candidate)
        if run is None or run.thought is not thought:
            run = _Run(channel=f"text:{candidate}:{len(self.runs)}", thought=thought)
            self.runs.append(run)
            self.open[candidate] = run
        run.pieces.append((frame, part))
        run.signed = run.signed or (signed and part["text"] != "")

    def _call(self, frame: int, call: dict[str, Json], signed: bool) -> None:
        for name, value in call.items():
            match name, value:
                case "id", str() if value:
                    self._mark(frame, call, name, SlotKind.TOOL_ID)
                case "args", dict() if value and not signed:
                    self._mark(frame, call, name, SlotKind.VALUE)
                case _:
                    self.found.extend(sealed(frame, call, name))

    def _mark(self, frame: int, container: dict[str, Json], key: str, kind: SlotKind) -> None:
        self.found.append(Slot(frame=frame, container=container, key=key, kind=kind))


def slots(frames: list[Frame], encoding: Encoding) -> list[Slot]:
    """Return the slots of a whole answer."""
    reader = _Reader()
    for index, frame in enumerate(frames):
        chunks = frame.doc if encoding is Encoding.JSON_ARRAY and isinstance(frame.doc, list) else [frame.doc]
        for chunk in chunks:
            if isinstance(chunk, dict):
                reader.chunk(index, chunk)
    return [*reader.found, *(slot for run in reader.runs for slot in run.slots())]
