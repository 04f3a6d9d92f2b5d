"""Servers to measure against."""
