# Our own machine, with the stock kernel in it, on this guest's KVM: the emulator's processor has AMD's virtualisation.

# inner: an initial file system like this guest's, whose job is /tmp/inner.run, as /tmp/inner.
inner() {
    mkdir -p /tmp/tree/bin /tmp/tree/etc /tmp/tree/job /tmp/tree/mnt /tmp/tree/root /tmp/tree/lib
    cp /bin/busybox /tmp/tree/bin/
    cp -r /lib/modules /tmp/tree/lib/
    cp /init /tmp/tree/init
    printf '%s\n' virtio_mmio virtio_blk virtio_rng ext4 crc32c_generic >/tmp/tree/etc/modules
    cp /tmp/inner.run /tmp/tree/job/run
    (cd /tmp/tree && find . | cpio -o -H newc >/tmp/inner)
    rm -r /tmp/tree
}

# runs ARGUMENT…: our machine, on KVM only.
runs() {
    /job/kvm-runner --accel kvm --timeout 600 --object secret,id=s,file=/data/pw \
        --source driver=luks,key-secret=s,file.filename=/data/disk.luks "$@"
}

# kernel: two processors, whose disk holds a file system with files and their sums, and gets one more file.
kernel() {
    cat >/tmp/inner.run <<'END'
set -ex
[ "$(nproc)" = 2 ]
dd if=/dev/hwrng of=/tmp/random bs=512 count=4
mount -t ext4 /dev/vda /mnt
(cd /mnt && sha256sum -c SUMS)
cp /tmp/random /mnt/random
(cd /mnt && sha256sum random >RANDOM)
umount /mnt
END
    inner
    runs --cpus 2 --memory 192 --kernel /job/vmlinuz --initrd /tmp/inner --append "console=ttyS0 quiet" >/tmp/said
    cat /tmp/said
    grep '@@ end 0' /tmp/said
}

# sector: the boot sector on the same disk.
sector() { runs --expect "HELLO FROM LUKS"; }

modprobe kvm-amd
mount -t ext4 /dev/vda /data
