"""A provider for the benches: streams one answer, its first event at once: ``python -m tests.perf.origin``.

It prints its port when it listens.  Cheaper than the stand-in of the demo, so that less of what is measured is its own.
"""

import asyncio

from tests.perf import bodies

HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
    b"request-id: req_0123456789\r\ntransfer-encoding: chunked\r\n\r\n"
)
EVENTS = bodies.answer().split(b"\n\n")
PAUSE_S = 0.001
"""Between the first event and the others: a model thinks longer, and a client must not get both in one read."""


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    first = HEAD + _chunk(EVENTS[0] + b"\n\n")
    rest = _chunk(b"\n\n".join(EVENTS[1:])) + b"0\r\n\r\n"
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0] or b"0")
            await reader.readexactly(length)
            writer.write(first)
            await asyncio.sleep(PAUSE_S)
            writer.write(rest)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main() -> None:
    """Serve until killed."""
    server = await asyncio.start_server(_serve, "127.0.0.1", 0, limit=1 << 20)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
