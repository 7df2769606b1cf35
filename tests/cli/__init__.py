"""Tests of the command `mynosql` and its parts."""
