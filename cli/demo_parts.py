"""What the demo's calls to all providers share: questions, a tool, a schema, a picture."""

import base64
import struct
import zlib

import pydantic

WEATHER = "What is the weather in Paris?"
WEATHER_STREAMED = "And the weather in Lisbon, please?"
FORECAST = '{"celsius": 21, "sky": "clear"}'
TOOL = "get_weather"
TOOL_DOES = "Tell the current weather of a city."
TOOL_PARAMETERS: dict[str, object] = {
    "type": "object",
    "properties": {"city": {"type": "string", "description": "The city's name"}},
    "required": ["city"],
    "additionalProperties": False,
}
LOOK = "Which colour is this picture?"
RED = (200, 30, 30)
OTHER_COLOURS = ((30, 200, 30), (30, 30, 200))
"""One for each pass."""
OTHER_TEMPERATURES = (0.25, 0.75)
"""One for each pass."""
SHORT = "Name the capital of France. Answer with one word."
SHORT_STREAMED = "Name the capital of Austria. Answer with one word."


class City(pydantic.BaseModel):
    """The shape of a structured answer."""

    name: str
    country: str
    inhabitants: int


CITY_SCHEMA: dict[str, object] = {**City.model_json_schema(), "additionalProperties": False}


def picture(colour: tuple[int, int, int]) -> bytes:
    """Return a PNG of one pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    row = zlib.compress(b"\0" + bytes(colour))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", row) + chunk(b"IEND", b"")


def picture_base64(colour: tuple[int, int, int]) -> str:
    """Return the same as text."""
    return base64.b64encode(picture(colour)).decode()


def picture_url(colour: tuple[int, int, int]) -> str:
    """Return the same as a data URL."""
    return f"data:image/png;base64,{picture_base64(colour)}"
