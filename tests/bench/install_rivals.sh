#!/bin/sh
# The one rival that pip does not bring: redis-server, from the system's own packages. Needs root on Debian or Ubuntu.
# Without it `tox -e bench` measures everything else and prints why Redis is missing.
set -eu
if command -v redis-server >/dev/null 2>&1; then
    redis-server --version
    exit 0
fi
apt-get update
apt-get install --yes --no-install-recommends redis-server
# The package starts a service; the benchmarks start servers of their own.
if command -v systemctl >/dev/null 2>&1; then
    systemctl disable --now redis-server || true
fi
redis-server --version
