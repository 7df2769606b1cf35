#!/bin/sh
# strace, which records and disturbs system calls for tests/test_power_loss.py and tests/test_injection.py. Needs root
# on Debian or Ubuntu. Without it these tests are skipped and print why.
set -eu
if ! command -v strace >/dev/null 2>&1; then
    apt-get update
    apt-get install --yes --no-install-recommends strace
fi
strace -V | head -n 1
