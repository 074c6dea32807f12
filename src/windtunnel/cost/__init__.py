"""Seconds, bytes, joules and dollars of operators and steps."""
