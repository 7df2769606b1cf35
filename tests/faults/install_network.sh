#!/bin/sh
# What the tests in network namespaces need: ip and tc (iproute2), nft (nftables). Needs root on Debian or Ubuntu.
# Without them those tests are skipped, and pytest's summary says so.
set -eu
if command -v ip >/dev/null 2>&1 && command -v tc >/dev/null 2>&1 && command -v nft >/dev/null 2>&1; then
    ip -Version
    nft --version
    exit 0
fi
apt-get update
apt-get install --yes --no-install-recommends iproute2 nftables
ip -Version
nft --version
