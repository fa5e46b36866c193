"""The plain addon as a script for stock ``mitmdump -s``."""

from tests.perf.plain_addons import plain_addon

addons = [plain_addon()]
