"""SHELL: the only folder that knows mitmproxy.  `mitmdump -s addons/promptweir.py`."""
