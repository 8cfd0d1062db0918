# The kernel's NBD client in front of our server: attached by nbd-client, and by our own -c.

# serve ARGUMENT…: the server listens when this returns.
serve() { nbd-server --fork --pid-file /run/server.pid -t -e 0 -x disk "$@"; }

# ended NAME [SIGNAL]: the process in /run/NAME.pid is gone, its locks too.
ended() {
    local pid
    pid=$(cat "/run/$1.pid")
    [ -z "$2" ] || kill -"$2" "$pid"
    while kill -0 "$pid" 2>/dev/null; do usleep 20000; done
}

stop() { ended server TERM; }

# attach DEVICE ARGUMENT…: a device of ours.
attach() { local device=$1; shift; nbd-server -c "$device" --pid-file /run/device.pid "$@"; }

# gone DEVICE: detaching ends on its own time.
gone() { while [ -e "/sys/block/${1#/dev/}/pid" ]; do usleep 20000; done; }

# release DEVICE: back to nothing; the image is closed.
release() { nbd-server -d "$1"; gone "$1"; ended device; }

# load DEVICE: a new file system, written to and read back through the device.
load() {
    mke2fs "$1"
    mount -t ext4 "$1" /mnt
    fill /mnt
    sums /mnt /data/sums/now
    forget
    (cd /mnt && sha256sum -c /data/sums/now)
    umount /mnt
}

# same DEVICE: all that is still there, on a clean file system.
same() {
    /bin/e2fsck -fn "$1"
    mount -t ext4 -o ro "$1" /mnt
    (cd /mnt && sha256sum -c /data/sums/now)
    umount /mnt
}

# kept NAME: the image is left for others to look at.
kept() {
    img check /data/images/now.qcow2
    mv /data/images/now.qcow2 "/data/images/$1.qcow2"
    mv /data/sums/now "/data/sums/$1"
}

fresh() { img create -q -f qcow2 /data/images/now.qcow2 64M; }

readonly IMAGE="-f qcow2 --discard=unmap /data/images/now.qcow2"
readonly TLS="--object tls-creds-x509,id=tls,endpoint=server,dir=/job/server --tls-creds tls"
readonly CLIENT="--object tls-creds-x509,id=tls,endpoint=client,dir=/job/client"
readonly CERTIFICATES="-certfile /job/client/client-cert.pem -keyfile /job/client/client-key.pem \
    -cacertfile /job/client/ca-cert.pem -tlshostname localhost"

# client NAME SERVER-OPTIONS CLIENT-WORDS: attached by nbd-client; the server is restarted between two uses.
client() {
    fresh
    serve $2 $IMAGE
    nbd-client -name disk $3 /dev/nbd0
    load /dev/nbd0
    nbd-client -d /dev/nbd0
    gone /dev/nbd0
    stop
    serve $2 $IMAGE
    nbd-client -name disk $3 /dev/nbd0
    same /dev/nbd0
    nbd-client -d /dev/nbd0
    gone /dev/nbd0
    stop
    kept "$1"
}

# refused: without a certificate, without TLS and with the wrong name of the server nobody is let in.
refused() {
    fresh
    serve -b 127.0.0.1 $TLS $IMAGE
    fails nbd-client -name disk 127.0.0.1 /dev/nbd0
    fails nbd-client -name disk -cacertfile /job/client/ca-cert.pem -tlshostname localhost 127.0.0.1 /dev/nbd0
    # shellcheck disable=SC2086 # words
    fails nbd-client -name disk ${CERTIFICATES%localhost}example.org 127.0.0.1 /dev/nbd0
    fails test -e /sys/block/nbd0/pid
    stop
    rm /data/images/now.qcow2
}

# trimmed: what the file system discards, the image gives back.
trimmed() {
    local before after
    fresh
    attach /dev/nbd2 $IMAGE
    mke2fs -E nodiscard /dev/nbd2
    mount -t ext4 /dev/nbd2 /mnt
    head -c 20000000 /dev/urandom >/mnt/large
    sync
    before=$(du -k /data/images/now.qcow2 | cut -f1)
    rm /mnt/large
    sync
    fstrim /mnt
    umount /mnt
    release /dev/nbd2
    after=$(du -k /data/images/now.qcow2 | cut -f1)
    [ "$((after + 15000))" -lt "$before" ]
    img check /data/images/now.qcow2
    rm /data/images/now.qcow2
}

# device NAME: our -c and -d, twice, the second time read-only; a device in use is refused. Detaching ends the server, one
# that would stay for other clients too.
device() {
    fresh
    attach /dev/nbd1 -t $IMAGE
    [ "$(blockdev --getsize64 /dev/nbd1)" = 67108864 ]
    load /dev/nbd1
    truncate -s 1M /tmp/other
    fails nbd-server -c /dev/nbd1 -f raw /tmp/other
    release /dev/nbd1
    attach /dev/nbd1 -r $IMAGE
    [ "$(blockdev --getro /dev/nbd1)" = 1 ]
    fails dd if=/dev/zero of=/dev/nbd1 bs=4096 count=1
    same /dev/nbd1
    release /dev/nbd1
    kept "$1"
}

# successor: a server that learns late that its device was detached leaves the next server's alone.
successor() {
    local late
    truncate -s 8M /tmp/first /tmp/second
    attach /dev/nbd6 -f raw /tmp/first
    late=$(cat /run/device.pid)
    kill -STOP "$late"
    nbd-server -d /dev/nbd6
    gone /dev/nbd6
    attach /dev/nbd6 -f raw /tmp/second
    kill -CONT "$late"
    while kill -0 "$late" 2>/dev/null; do usleep 20000; done
    mke2fs /dev/nbd6
    /bin/e2fsck -fn /dev/nbd6
    release /dev/nbd6
    # One that is told to end detaches its own.
    attach /dev/nbd6 -t -k /run/nbd.sock -f raw /tmp/second
    ended device TERM
    fails test -e /sys/block/nbd6/pid
}

# killed NAME: the device's server dies under load; the file system recovers on the next attachment.
killed() {
    fresh
    attach /dev/nbd3 $IMAGE
    load /dev/nbd3
    mount -t ext4 /dev/nbd3 /mnt
    (dd if=/dev/urandom of=/mnt/large bs=64k count=400; sync) 2>/dev/null &
    while [ ! -s /mnt/large ]; do usleep 20000; done
    ended device KILL
    wait $! || true
    umount /mnt
    nbd-server -d /dev/nbd3
    gone /dev/nbd3
    attach /dev/nbd3 $IMAGE
    mount -t ext4 /dev/nbd3 /mnt
    (cd /mnt && sha256sum -c /data/sums/now)
    rm -f /mnt/large
    umount /mnt
    same /dev/nbd3
    release /dev/nbd3
    img check -r leaks /data/images/now.qcow2
    kept "$1"
}

# restarted NAME OPTIONS [SERVER-OPTIONS OBJECTS]: a device of ours on a server of ours, which is restarted under load; the
# kernel sees only a pause.
restarted() {
    fresh
    serve -b 127.0.0.1 $3 $IMAGE
    attach /dev/nbd4 $4 --source "driver=nbd,server.type=inet,server.host=127.0.0.1,server.port=10809,export=disk,$2"
    mke2fs /dev/nbd4
    mount -t ext4 /dev/nbd4 /mnt
    (fill /mnt) &
    while [ ! -e /mnt/two/513 ]; do usleep 20000; done
    stop
    usleep 500000
    serve -b 127.0.0.1 $3 $IMAGE
    wait $!
    sums /mnt /data/sums/now
    umount /mnt
    same /dev/nbd4
    release /dev/nbd4
    stop
    kept "$1"
}

# encrypted NAME: the kernel sees what we decrypt, and decrypts the same by itself.
encrypted() {
    local pbkdf=pbkdf=pbkdf2,pbkdf-iterations=1000 secret="--object secret,id=s,file=/job/pw"
    img create -q -f luks $secret -o "key-secret=s,version=2,$pbkdf" /tmp/luks 32M
    attach /dev/nbd5 $secret --source driver=luks,key-secret=s,file.filename=/tmp/luks
    load /dev/nbd5
    release /dev/nbd5
    losetup /dev/loop0 /tmp/luks
    cryptsetup open --type luks --key-file /job/pw /dev/loop0 "$1"
    same "/dev/mapper/$1"
    cryptsetup close "$1"
    losetup -d /dev/loop0
}

mount -t ext4 /dev/vda /data
