#!/bin/bash
# Prepares a checkout for `make demo` (setup.sh demo) or for all the rest (setup.sh test): Debian packages, .venv, the
# test guest in .cache, and for the tests QEMU 10 in ~/.cache/snaptree-test.
# Not for: a system without Debian's packages; there it says what is missing.
# It does only what is not done yet, so the second run takes a moment.
set -euo pipefail
cd "$(dirname "$0")/.."
purpose=${1:-test}

fail() {
    echo "$*" >&2
    exit 1
}

python_is_good() { # Debian has venv's ensurepip in a package of its own
    "$1" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

debian_packages() {
    local packages=(qemu-system-x86 qemu-utils busybox-static linux-image-cloud-amd64) missing=() installed package
    if [ "$purpose" = test ]; then packages+=(socat strace); fi
    if ! [ -x .venv/bin/python ] && ! python_is_good python3; then packages+=(python3 python3-venv); fi
    command -v dpkg-query >/dev/null ||
        fail "This is no Debian: the tests need what its packages ${packages[*]} hold, for example in a container of Debian 12."
    installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "${packages[@]}" 2>/dev/null || true)
    for package in "${packages[@]}"; do
        grep -qx "installed $package" <<<"$installed" || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0

    local as_root=()
    if [ "$(id -u)" != 0 ]; then
        as_root=(sudo -n)
        sudo -n true 2>/dev/null ||
            fail "Debian packages are missing; ask for: apt-get install --no-install-recommends ${missing[*]}"
    fi
    echo "Installing ${missing[*]}…" >&2
    local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300)
    "${apt[@]}" update >&2
    "${apt[@]}" install -y --no-install-recommends "${missing[@]}" >.cache/apt.log 2>&1 ||
        { cat .cache/apt.log >&2; fail "Debian packages could not be installed: ${missing[*]}; see the lines above."; }
}

virtual_environment() {
    local python=python3 stamp wanted
    python_is_good "$python" || python=/usr/bin/python3
    stamp=.venv/made-for-$purpose
    # A venv does not survive the removal of the Python that it came from.
    wanted=$({ cat requirements-dev.lock pyproject.toml; readlink -f .venv/bin/python || true; pwd; } | sha256sum)
    [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ] || ! [ -x .venv/bin/python ] || return 0

    python_is_good "$python" || fail "Python 3.11 or newer is needed; $python is $("$python" --version 2>&1)."
    echo "Making .venv…" >&2
    "$python" -m venv --clear .venv
    local pip=(.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input)
    # As an environment variable it holds for the isolated build too.
    PIP_CONSTRAINT=requirements-dev.lock "${pip[@]}" --editable .
    if [ "$purpose" = test ]; then "${pip[@]}" --requirement requirements-dev.lock; fi
    wanted=$({ cat requirements-dev.lock pyproject.toml; readlink -f .venv/bin/python; pwd; } | sha256sum)
    echo "$wanted" >"$stamp"
    # What the tests need has all that the demo needs.
    if [ "$purpose" = test ]; then echo "$wanted" >.venv/made-for-demo; fi
}

mkdir -p .cache
exec 9>.cache/setup.lock
flock 9
debian_packages
virtual_environment
.venv/bin/python tests/guest/build.py
if [ "$purpose" = test ]; then scripts/fetch-qemu10.sh; fi
