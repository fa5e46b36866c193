"""Embedded stores of the caches."""
