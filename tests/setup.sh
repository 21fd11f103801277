#!/bin/sh
# Prepares this checkout: `setup.sh run` to use the program, `setup.sh test` to test it, `setup.sh node` for real peers,
# `setup.sh go` for a verifier that others wrote.
#
# Promise: running it again is harmless; nothing outside the checkout is changed but the caches of pip and npm and, for
# root on Debian, system packages that are missing. What is optional and cannot be had is named and left out: the tests
# that need it then skip and say why. From the environment: PYTHON, VENV, and whatever pip and npm read.
set -eu
cd "$(dirname "$0")/.."
what=${1:-run}
python=${PYTHON:-python3}
venv=${VENV:-.venv}

say() { echo "setup: $*"; }

give_up() { echo "setup: $*" >&2; exit 1; }

recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

# A plain `python3` may be old while a newer one is installed beside it; a PYTHON the user chose is taken or refused.
find_python() {
    if recent "$python"; then return; fi
    if [ "$python" = python3 ]; then
        for candidate in python3.13 python3.12 python3.11 python3.14; do
            if recent "$candidate"; then python=$candidate; return; fi
        done
    fi
    give_up "$python is not Python 3.11 or newer; name one: make test PYTHON=/path/to/python3.12"
}

# system_packages NAME...: install Debian packages if we may; fails without a word if we may not.
system_packages() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
    say "installing the system package(s) $* with apt-get"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1 && return
    apt-get update -qq >/dev/null 2>&1 || return 1
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1
}

# An environment of another interpreter, or one that was moved or copied here, is made anew.
usable() {
    [ -x "$venv/bin/pip" ] || return 1
    wanted=$("$python" -c 'import sys; print(sys.version_info[:3])')
    "$venv/bin/python" -c "import sys, os; sys.exit(str(sys.version_info[:3]) != '$wanted' or not os.path.samefile(sys.prefix, '$venv'))" 2>/dev/null
}

make_venv() {
    if usable; then return; fi
    say "making $venv with $("$python" --version)"
    rm -rf "$venv"
    if "$python" -m venv "$venv" >/dev/null 2>&1; then return; fi
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    rm -rf "$venv"
    if system_packages "python$version-venv" && "$python" -m venv "$venv"; then return; fi
    give_up "$python cannot make an environment; on Debian and Ubuntu install python$version-venv and try again"
}

pip() { "$venv/bin/python" -m pip --quiet --disable-pip-version-check "$@"; }

node_packages() {
    gates=tests/gates
    if ! command -v npm >/dev/null && ! system_packages npm; then
        say "left out: the gates against real MCP servers and clients (npm is missing; install Node.js and run this again)"
        return
    fi
    say "installing the npm packages of the gates"
    if npm ci --prefix "$gates" --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null; then
        touch "$gates/node_modules/.package-lock.json"
    else
        say "left out: the gates against real MCP servers and clients (npm could not install $gates/package-lock.json)"
    fi
}

# A package of Debian, because Go would fetch it from somewhere else.
go_packages() {
    module=/usr/share/gocode/src/golang.org/x/mod/sumdb
    missing=
    command -v go >/dev/null || missing=" golang-go"
    [ -d "$module" ] || missing="$missing golang-golang-x-mod-dev"
    # shellcheck disable=SC2086 # these are words
    if [ -z "$missing" ] || system_packages $missing; then
        mkdir -p "$venv"
        touch "$venv/.go"
    else
        say "left out: the gate against a verifier in Go (missing:$missing; on Debian install them and run this again)"
    fi
}

# What the fault suite injects faults with.
fault_packages() {
    [ "$(uname)" = Linux ] || return 0
    missing=
    command -v strace >/dev/null || missing=" strace"
    PATH="$PATH:/usr/sbin:/sbin" command -v mkfs.ext4 >/dev/null || missing="$missing e2fsprogs"
    set -- /usr/lib/*/faketime/libfaketime.so.1 /usr/lib*/faketime/libfaketime.so.1
    [ -e "$1" ] || [ -e "$2" ] || missing="$missing libfaketime"
    # shellcheck disable=SC2086 # these are words
    if [ -n "$missing" ] && ! system_packages $missing; then
        say "left out: some of the fault suite (missing:$missing; on Debian install them and run this again)"
    fi
}

case $what in
    node) node_packages; exit ;;
    go) go_packages; exit ;;
esac
find_python
make_venv
if [ "$what" = test ]; then
    say "installing the locked requirements"
    pip install --require-hashes -r requirements.lock
    pip install --no-deps --no-build-isolation --editable .
    fault_packages
    pip check >/dev/null || say "requirements.lock does not fit pyproject.toml; run \`make lock\`: $(pip check || true)"
else
    say "installing mcp-audit and what it needs"
    pip install --editable .
fi
