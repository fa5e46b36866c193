"""All dialects by name: the one place where a format is chosen."""

from collections.abc import Mapping
from types import MappingProxyType

from promptweir.layers.contract import Dialect
from promptweir.layers.dialects import (
    anthropic_count_tokens,
    anthropic_messages,
    gemini,
    native_chat,
    openai_chat,
    openai_embeddings,
    openai_responses,
)
from promptweir.layers.dialects.base import Codec

CODECS: Mapping[Dialect, Codec] = MappingProxyType(
    {
        codec.dialect: codec
        for codec in (
            anthropic_messages.CODEC,
            anthropic_count_tokens.CODEC,
            openai_chat.CODEC,
            openai_responses.CODEC,
            openai_embeddings.CODEC,
            gemini.GENERATE,
            gemini.COUNT,
            native_chat.CODEC,
        )
    }
)


def codec_of(dialect: Dialect) -> Codec:
    """Return the codec of *dialect*; every dialect has one."""
    return CODECS[dialect]
