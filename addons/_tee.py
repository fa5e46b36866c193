"""A bounded copy of a response that is passing through.

Goals: every chunk goes on exactly as it came and at once; what is kept has a limit; nothing in here can harm the flow.

Plan.  A ``Tee`` is set as ``flow.response.stream``.  mitmproxy calls it with every chunk before it is written to the
client, and with ``b""`` after the last one.  It keeps references to the chunks (no copying), and hands them to the
flight whose followers want them as well.

What it does not do: it does not end the flight.  A body that is delimited by the end of the connection looks complete
to HTTP even when it was cut, so only who understands the answer, in the ``response`` hook, can say that it is whole.

Usage::

    def responseheaders(self, flow):
        tee = Tee(max_bytes=MAX_TEE_BYTES, copies_to=lead.chunk)     # or without copies_to
        flow.response.stream = tee
    def response(self, flow):
        if (body := tee.body()) is not None: ...                     # still with its content-encoding
"""

import logging
from collections.abc import Callable

logger = logging.getLogger(__name__)


class Tee:
    """The callable for ``flow.response.stream``.

    Args:
        max_bytes: Beyond this the copy is dropped; chunks still pass, also to *copies_to*.
        copies_to: Gets every chunk before it is passed on.
    """

    __slots__ = ("_chunks", "_copies_to", "_max_bytes", "eof", "over", "seen_bytes")

    def __init__(self, *, max_bytes: int, copies_to: Callable[[bytes], None] | None = None) -> None:
        self._chunks: list[bytes] = []
        self._max_bytes = max_bytes
        self._copies_to = copies_to
        self.eof = False
        """The upstream has said that the body is complete; see above for what that is worth."""
        self.over = False
        """The copy was given up: the body is larger than the limit, or keeping it failed."""
        self.seen_bytes = 0

    def __call__(self, chunk: bytes) -> bytes:
        """Take note of *chunk* and return it; ``b""`` is the end."""
        # mitmproxy does not catch what a stream callable raises: the client would hang until the upstream gives up.
        # Hence nothing may leave this method, whatever goes wrong in the copy.
        try:
            self._keep(chunk)
        except Exception as error:  # noqa: BLE001
            self.over = True
            self._chunks = []
            logger.warning("The copy of a response failed (%s); the response itself goes on.", type(error).__name__)
        return chunk

    def _keep(self, chunk: bytes) -> None:
        if not chunk:
            self.eof = True
            return
        self.seen_bytes += len(chunk)
        if self._copies_to is not None:
            self._copies_to(chunk)
        if self.seen_bytes > self._max_bytes:
            self.over = True
            self._chunks = []
        elif not self.over:
            self._chunks.append(chunk)

    def body(self) -> bytes | None:
        """Return the whole body as it was on the wire; None when it did not end or was over the limit."""
        return b"".join(self._chunks) if self.eof and not self.over else None
