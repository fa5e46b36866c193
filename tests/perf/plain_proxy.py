"""A proxy process with a plain addon on promptweir's own Master: ``python -m tests.perf.plain_proxy STATE``.

It prints its port when it listens.
"""

import sys
from pathlib import Path

from promptweir.addons import _master
from promptweir.certs import ca
from promptweir.layers.providers import DOMAINS
from tests.perf.plain_addons import plain_addon


def main() -> None:
    """Serve until SIGTERM."""
    authority = ca.ensure(Path(sys.argv[1]) / "ca", DOMAINS)

    def ready(listening: _master.Listening) -> None:
        print(listening.port, flush=True)

    sockets = _master.Sockets(host="127.0.0.1", port=0, gateway_port=None)
    _master.run(
        _master.serve([plain_addon()], sockets, confdir=authority.folder, settings={}, on_ready=ready),
    )


if __name__ == "__main__":
    main()
