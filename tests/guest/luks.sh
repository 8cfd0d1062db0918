# The kernel's dm-crypt, by way of cryptsetup, on images in /data: those that we made and filled, and new ones.

# attach FILE: the loop device over it, in $device.
attach() {
    device=$(losetup -f)
    losetup "$device" "$1"
}

# opened NAME HEADER: the image at $device opens, and dm-crypt shows it as /dev/mapper/NAME.
opened() {
    # shellcheck disable=SC2086 # an option and its value
    cryptsetup open --type luks --key-file /data/pw $2 "$device" "$1"
    cryptsetup status "$1"
}

# finish NAME: writes files, leaves their sums in /data/sums, and closes everything.
finish() {
    fill /mnt
    sums /mnt "/data/sums/$1"
    umount /mnt
    cryptsetup close "$1"
    losetup -d "$device"
}

# ours NAME attached|detached: the image /data/images/NAME holds a file system with files and their sums.
ours() {
    local image=/data/images/$1 header=
    [ "$2" = attached ] || header="--header $image.header"
    attach "$image"
    opened "$1" "$header"
    mount -t ext4 "/dev/mapper/$1" /mnt
    (cd /mnt && sha256sum -c SUMS)
    finish "$1"
}

# made NAME attached|detached OPTION…: the image is formatted here.
made() {
    local name=$1 image=/data/images/$1 header=
    if [ "$2" = attached ]; then
        truncate -s 34M "$image"
    else
        truncate -s 16M "$image"
        header="--header $image.header"
    fi
    shift 2
    attach "$image"
    # shellcheck disable=SC2086 # an option and its value
    cryptsetup luksFormat -q --key-file /data/pw "$@" $header "$device"
    opened "$name" "$header"
    mke2fs -b 4096 "/dev/mapper/$name"
    mount -t ext4 "/dev/mapper/$name" /mnt
    finish "$name"
}

mount -t ext4 /dev/vda /data
