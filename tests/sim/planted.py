"""Bugs planted."""
BUGS = {}
