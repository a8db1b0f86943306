#!/usr/bin/env bash
# A machine of its own for systemd:   machine.sh FOLDER SOURCES PYTHON PACKAGES
# Namespaces for processes, mounts, network and control groups. What it writes goes to memory, over a view of this
# system that is left as it is. FOLDER/units are the only units, FOLDER/shared is /run/test inside. PYTHON (a path
# below its prefix, PREFIX//bin/python) and the folder PACKAGES run `fastmesh` from SOURCES, for every user.
# Ends with the machine.
set -euo pipefail

outer() { # in a mount namespace
    mount -t tmpfs tmpfs "$folder/memory"
    mkdir "$folder"/memory/{upper,work,root,groups}
    mount -t cgroup2 cgroup2 "$folder/memory/groups"
    local group=$folder/memory/groups/fastmesh-test-$$
    mkdir "$group"
    (
        echo "$BASHPID" >"$group/cgroup.procs"
        exec unshare --fork --kill-child --pid --mount --cgroup --uts --ipc --net \
            bash "$0" inner "${arguments[@]}"
    ) || true
    find "$group" -depth -type d -exec rmdir {} \;
}

inner() { # as process 1
    local root=$folder/memory/root device target
    mount -t overlay overlay \
        -o "lowerdir=/,upperdir=$folder/memory/upper,workdir=$folder/memory/work" "$root"
    cd "$root"
    mkdir -p opt/fastmesh opt/python opt/packages etc/fastmesh usr/local/bin
    mount --bind -o ro "$sources" opt/fastmesh
    mount --bind -o ro "${python%%//*}" opt/python
    mount --bind -o ro "$packages" opt/packages
    printf '#!/bin/sh\nexport PYTHONPATH=/opt/fastmesh:/opt/packages LD_LIBRARY_PATH=/opt/python/lib\n%s\n' \
        "exec /opt/python/${python##*//} -m fastmesh \"\$@\"" >usr/local/bin/fastmesh
    chmod 755 usr/local/bin/fastmesh

    mount -t proc proc proc
    mount --bind proc/sys proc/sys
    mount -o remount,ro,bind proc/sys
    mount -t sysfs -o ro sysfs sys
    mount -t cgroup2 cgroup2 sys/fs/cgroup
    mount -t tmpfs -o mode=755 tmpfs dev
    for device in null zero full random urandom tty; do
        touch dev/$device
        mount --bind /dev/$device dev/$device
    done
    ln -s /proc/self/fd dev/fd
    mkdir dev/shm dev/pts dev/mqueue dev/hugepages
    mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
    ln -s pts/ptmx dev/ptmx
    mount -t tmpfs -o mode=1777 tmpfs dev/shm
    mount -t tmpfs -o mode=755 tmpfs run
    mount -t tmpfs -o mode=1777 tmpfs tmp
    mkdir -p run/units run/test run/old
    mount --bind "$folder/shared" run/test
    cp "$folder"/units/* run/units/
    for target in basic multi-user network network-online shutdown sockets sysinit; do
        printf '[Unit]\nDefaultDependencies=no\n' >run/units/$target.target
    done

    pivot_root . run/old
    umount -l /run/old
    ip link set lo up
    export container=test SYSTEMD_UNIT_PATH=/run/units:/run/systemd/system:/run/systemd/transient
    exec /lib/systemd/systemd --system --unit=multi-user.target --log-target=console --show-status=0
}

stage=$1
case $stage in inner | outer) shift ;; *) exec unshare --mount --propagation private bash "$0" outer "$@" ;; esac
arguments=("$@")
folder=$1 sources=$2 python=$3 packages=$4
"$stage"
