"""The tests of mynosql, one file per module; helpers are imported as `tests.waiting`, `tests.faults…`, `tests.sim…`."""
