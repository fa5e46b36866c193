"""CORE: decides.  No mitmproxy, no sockets, no clock, no environment; stores and engines are handed in."""
