#!/bin/bash
# Brings QEMU 10 from Debian's bookworm-backports, for the second half of the test matrix.
# Not for: changing the system.  Nothing is installed: the packages are unpacked into
# ${XDG_CACHE_HOME:-~/.cache}/snaptree-test/qemu10, and bin/ there has a wrapper for each program.
# Neither root nor a change of apt's configuration is needed: apt-get works in a directory of its own.
set -euo pipefail

cache=${XDG_CACHE_HOME:-$HOME/.cache}/snaptree-test
place=$cache/qemu10
recipe=1 # Change it when what this script makes changes, so that what an older one made is replaced.
[ "$(cat "$place/recipe" 2>/dev/null)" = "$recipe" ] && exit 0

. /etc/os-release
if [ "${VERSION_CODENAME:-}" != bookworm ] || [ "$(dpkg --print-architecture)" != amd64 ]; then
    echo "QEMU 10 comes from Debian 12's backports for amd64; this is ${PRETTY_NAME:-another system}. Run the tests on Debian 12, in a container for example." >&2
    exit 1
fi

mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
[ "$(cat "$place/recipe" 2>/dev/null)" = "$recipe" ] && exit 0

work=$(mktemp -d "$cache/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{lists/partial,archives/partial,debs,tree/bin}

# The mirror that this system uses for Debian itself serves its backports too.
mirror=$(apt-get indextargets --format '$(CODENAME) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
    sed -n 's/^bookworm //p' | head -n 1)
mirror=${mirror:-http://deb.debian.org/debian/}
security=$(apt-get indextargets --format '$(CODENAME) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
    sed -n 's/^bookworm-security //p' | head -n 1)
signed='signed-by=/usr/share/keyrings/debian-archive-keyring.gpg'
{
    echo "deb [$signed] $mirror bookworm main"
    echo "deb [$signed] $mirror bookworm-backports main"
    if [ -n "$security" ]; then echo "deb [$signed] $security bookworm-security main"; fi
} >"$work/sources.list"

# The lists and archives are ours, and what is installed is read from dpkg's own status.  The sandbox user _apt
# could not enter a directory below the user's home.
apt=(apt-get -q -y
    -o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=/dev/null
    -o Dir::State::Lists="$work/lists" -o Dir::State::status=/var/lib/dpkg/status
    -o Dir::State::extended_states="$work/extended_states"
    -o Dir::Cache::archives="$work/archives" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache=
    -o APT::Sandbox::User="$(id -un)" -o Debug::NoLocking=1 -o APT::Default-Release=bookworm-backports
    -o APT::Install-Recommends=0 -o Acquire::Languages=none -o Acquire::Retries=3
    -o APT::Update::Post-Invoke-Success::= -o DPkg::Pre-Install-Pkgs::=)

echo "Bringing QEMU 10 from bookworm-backports into $place (once)…" >&2
run() { # Says what went wrong only where something did.
    if ! "$@" >"$work/log" 2>&1; then
        cat "$work/log" >&2
        echo "QEMU 10 could not be brought from $mirror: see the lines above; then run scripts/fetch-qemu10.sh again." >&2
        exit 1
    fi
}
run "${apt[@]}" update

# These in any case, and of what they need that which is not installed (in a simulation, a package that is
# installed has its old version in brackets).
packages=(qemu-system-x86 qemu-system-common qemu-system-data qemu-utils seabios ipxe-qemu)
mapfile -t needed < <("${apt[@]}" -s install "${packages[@]}" 2>/dev/null |
    sed -n 's/^Inst \([^ ]*\) (\([^ ]*\) .*/\1=\2/p')
cd "$work/debs"
run "${apt[@]}" download "${packages[@]}" "${needed[@]}"
for deb in *.deb; do dpkg -x "$deb" "$work/tree"; done

libraries=$place/usr/lib/x86_64-linux-gnu
wrapper() { # PROGRAM and its own options; exec, so that the process is the program's.
    [ -x "$work/tree/usr/bin/$1" ] || return 0
    {
        echo '#!/bin/sh'
        echo "LD_LIBRARY_PATH='$libraries' QEMU_MODULE_DIR='$libraries/qemu' \\"
        echo "    exec '$place/usr/bin/$1'${2:+ $2} \"\$@\""
    } >"$work/tree/bin/$1"
    chmod +x "$work/tree/bin/$1"
}
wrapper qemu-system-x86_64 "-L '$place/usr/share/qemu' -L '$place/usr/share/seabios'"
for program in qemu-img qemu-nbd qemu-io qemu-storage-daemon; do wrapper "$program"; done

rm -rf "$place"
mv "$work/tree" "$place"
# A library that is missing shows here, and without the recipe the next run begins anew.
for program in "$place"/bin/*; do run "$program" --version; done
echo "$recipe" >"$place/recipe"
