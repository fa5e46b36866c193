"""The options in mitmproxy's own terms: registered from the table, parsed into a ``Config``."""

from collections.abc import Sequence

from mitmproxy import ctx, exceptions
from mitmproxy.addonmanager import Loader

from promptweir.layers.config import OPTIONS, PREFIX, Config, config_of


def register(loader: Loader) -> None:
    """Add every option to mitmproxy's."""
    for option in OPTIONS:
        choices: Sequence[str] | None = option.choices or None
        unit = f" ({option.unit})" if option.unit else ""
        loader.add_option(option.name, type(option.default), option.default, option.help + unit, choices)


def parse() -> Config:
    """Return the current values; ``OptionsError`` names what is wrong with them."""
    try:
        return config_of({option.name: getattr(ctx.options, option.name) for option in OPTIONS})
    except ValueError as error:
        raise exceptions.OptionsError(str(error)) from error  # type: ignore[no-untyped-call]


def misspelt() -> list[str]:
    """Return the names that look like ours but are none: mitmproxy keeps unknown options quietly for later."""
    return sorted(name for name in ctx.options.deferred if name.startswith(PREFIX))
