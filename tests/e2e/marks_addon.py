"""Loaded by mitmdump beside ours: writes down what a user of mitmproxy's own tools sees of each flow."""

import json
import os
from pathlib import Path

from mitmproxy import http


class Marks:
    def response(self, flow: http.HTTPFlow) -> None:
        line = {"host": flow.request.host, "path": flow.request.path, "marked": flow.marked, "comment": flow.comment}
        with Path(os.environ["E2E_MARKS"]).open("a") as out:
            out.write(json.dumps(line) + "\n")


addons = [Marks()]
