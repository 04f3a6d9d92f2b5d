"""Faults, one after the other, under load, each followed by the oracle: `make torture`, docs/reliability.md."""
