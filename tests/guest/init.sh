#!/bin/sh
# The Linux guest: one counter in RAM, on every disk and on the serial line, which must always agree.
# Not for: anything but this; it is process 1, from an initramfs, and never ends.
#
# Each round reads the number back from every disk with dropped caches, prints
#     STATE OK ram=12 a=12 b=12            or  STATE MISMATCH ram=12 a=12 b=11
# and writes the next number to every disk, with fsync.  What it cannot do it says as GUEST-FAILED and stops.
#
# The number N has its place on each disk: the first 4 KiB where it is even, the second where it is odd, and N - 1 has to
# be in the other one.  With a single place, a disk of another moment would go unseen where the guest, by its RAM, was
# about to write to it: it would overwrite the wrong number without having read it.
#
# On the kernel's command line (none is needed):
#   snaptree.disks=N     how many disks there are, 0 to 4 (2)
#   snaptree.pace=N      milliseconds of rest between rounds (100)
#   snaptree.pages=N     KiB of RAM that each round fills with its number, and the next one compares (0)
#   snaptree.fill=N      MiB of RAM filled once, before GUEST-UP, with random data (0)
#   snaptree.dirty=N     MiB of RAM written a second, each time with other data (0)
#   snaptree.readloop=1  reads 8 MiB of random data from the first disk without end, and compares them
PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs -o size=95% ram /ram

fail() {
    echo "GUEST-FAILED $*"
    while :; do sleep 3600; done
}

for module in /modules/*.ko; do insmod "$module" || fail "insmod ${module##*/}"; done

disks=2 pace=100 pages=0 fill=0 dirty=0 readloop=0
read -r words </proc/cmdline
for word in $words; do
    case $word in snaptree.*=*[!0-9]* | snaptree.*=) fail "$word is no number" ;; esac
    case $word in
        snaptree.disks=*) disks=${word#*=} ;;
        snaptree.pace=*) pace=${word#*=} ;;
        snaptree.pages=*) pages=${word#*=} ;;
        snaptree.fill=*) fill=${word#*=} ;;
        snaptree.dirty=*) dirty=${word#*=} ;;
        snaptree.readloop=*) readloop=${word#*=} ;;
        snaptree.*) fail "unknown parameter $word" ;;
    esac
done
set -- a b c d
while [ $# -gt "$disks" ]; do
    eval "last=\${$#}"
    keep=
    for disk; do [ "$disk" = "$last" ] || keep="$keep $disk"; done
    set -- $keep
done
# Without this, dd would quietly make an ordinary file of that name.
for disk; do [ -b /dev/vd$disk ] || fail "there is no disk /dev/vd$disk"; done

if [ "$((fill + dirty + readloop))" -gt 0 ]; then
    head -c 2m /dev/urandom >/ram/seed || fail "no RAM for 2 MiB of random data"
fi

window() { # NUMBER FILE MiB: random data are slow under TCG, so each MiB is another window of 1 MiB on the same 2 MiB
    dd if=/ram/seed of="$2" bs=1M count=1 iflag=skip_bytes skip=$(($1 * 4104 % 1048576)) seek="$3" conv=notrunc \
        2>/dev/null || fail "no RAM for $2"
}

m=0
while [ $m -lt "$fill" ] && [ $m -lt 65 ]; do
    window $m /ram/fill $m
    m=$((m + 1))
done
# A process for each MiB takes minutes for GiBs.  What comes now is 64 MiB of the first 65, shifted so that up to 4 GiB
# hardly a page is like another one: within a page the 64 windows begin 8 bytes apart.
turn=1
while [ $m -lt "$fill" ]; do
    count=$((fill - m < 64 ? fill - m : 64))
    dd if=/ram/fill of=/ram/fill bs=1M count=$count iflag=skip_bytes skip=$((turn % 8 + turn / 8 * 512)) seek=$m conv=notrunc \
        2>/dev/null || fail "no RAM for $fill MiB"
    m=$((m + count)) turn=$((turn + 1))
done

if [ "$dirty" -gt 0 ]; then
    while :; do
        for shift in 0 1 2 3 4 5 6 7; do
            m=0
            while [ $m -lt "$dirty" ]; do
                window $((m * 8 + shift)) /ram/dirty $m
                m=$((m + 1))
            done
            sleep 1
        done
    done &
fi

if [ "$readloop" -gt 0 ]; then
    for m in 0 1 2 3 4 5 6 7; do window $m /ram/read $m; done
    dd if=/ram/read of=/dev/vda bs=1M seek=1 conv=notrunc,fsync 2>/dev/null || fail "cannot write what the read loop reads"
    while :; do
        dd if=/dev/vda bs=64k skip=16 count=128 2>/dev/null | cmp -s - /ram/read || echo "STATE MISMATCH readloop"
    done &
fi

put() { # NUMBER, as the first line of 4 KiB
    printf '%-11s\n%-4083s\n' "$1" >/ram/block
    place=$(($1 & 1))
    shift
    for disk; do
        dd if=/ram/block of=/dev/vd$disk bs=4k count=1 seek=$place conv=notrunc,fsync 2>/dev/null ||
            fail "cannot write /dev/vd$disk"
    done
}

get() { # DISK, to $number: what should be i, or else what should be i - 1 and isn't
    { read -r even && odd=$(dd bs=12 count=1 iflag=skip_bytes skip=4084 2>/dev/null); } </dev/vd$1 || even=unreadable odd=unreadable
    case $((i & 1)) in
        0) number=${even%% *} other=${odd%% *} ;;
        1) number=${odd%% *} other=${even%% *} ;;
    esac
    [ "$number" != $i ] || [ "$other" = $((i - 1)) ] || number=$other
}

# `read -t` rests without starting a process.
mkfifo /ram/rest
exec 9<>/ram/rest
rest=$((pace / 1000)).$(printf %03d $((pace % 1000)))

echo GUEST-UP
put -1 "$@"
i=0
while :; do
    [ "$pages" = 0 ] || yes $i | head -c "${pages}k" >/ram/pages
    put $i "$@"
    [ "$pace" = 0 ] || read -r -t "$rest" -u 9 word
    echo 3 >/proc/sys/vm/drop_caches
    said= verdict=OK
    for disk; do
        get $disk
        said="$said $disk=$number"
        [ "$number" = $i ] || verdict=MISMATCH
    done
    if [ "$pages" != 0 ] && ! yes $i | head -c "${pages}k" | cmp -s - /ram/pages; then
        verdict=MISMATCH said="$said pages=differ"
    fi
    echo "STATE $verdict ram=$i$said"
    i=$((i + 1))
done
