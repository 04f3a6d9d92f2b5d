"""Serving HTTP: one connection's requests, answers and ends, within bounds; hot paths without an ASGI cycle."""
