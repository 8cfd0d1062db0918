//! Random command lines agree with the real tools.
//!
//! `BLOCKIMG_SEED=N BLOCKIMG_COUNT=M` runs M command lines from the sequence N on; BLOCKIMG_LONG runs 5,000, and tells how
//! far it is.

use tests::differential::{self, Progress};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn random_command_lines_agree_with_the_real_tools() {
    let long = std::env::var_os("BLOCKIMG_LONG").is_some();
    let count = number("BLOCKIMG_COUNT").unwrap_or(if long { 5000 } else { 200 });
    let progress = if count > 1000 { Progress::Told } else { Progress::Silent };
    let differences = differential::run(number("BLOCKIMG_SEED").unwrap_or(1), count, progress);
    let text: String = differences.iter().map(ToString::to_string).collect();
    assert!(differences.is_empty(), "{} of {count} differ\n{text}", differences.len());
}

/// What random lines found, in short.
#[test]
fn command_lines_that_once_differed_agree() {
    let differences = differential::run_given(&[
        "qemu-io -t directsync c.qcow2 -c 'map' -c 'write -P 146 128k 4k'",
        "qemu-img measure -o encrypt.format=luks,encrypt.key-secret=none -O qcow2 --size 512",
        "qemu-io -f raw s.raw -c 'write -z -u -n 512 512'",
        "qemu-io -f raw t.qcow2 -c 'write -z -u 511 4k' ;; qemu-img convert -f qcow2 -O qcow2 t.qcow2 m.qcow2",
        "qemu-io --image-opts driver=qcow2,file.driver=blkdebug,file.image.filename=q.qcow2,file.inject-error.0.event=write_aio \
         -c 'write 256k 4k'",
        "qemu-io blkdebug::q.qcow2 -c 'write 0 4k'",
        "qemu-io -f raw a.raw -c 'aio_write -z -r 0 4k' -c 'aio_flush' -c 'write -z -r 0 3G' -c 'write -z -r 0 4k'",
        "qemu-io --image-opts driver=null-co,size=1M,read-zeroes=on -c 'info'",
        "qemu-img info --output=json --image-opts driver=raw,file.driver=null-co,file.size=1M,file.read-zeroes=on",
        "qemu-io --image-opts driver=null-co,size=1M,read-zeroes=on -c 'write -z -n 0 4k' -c 'write -z 0 4k'",
        "qemu-img rebase -b a.raw -F raw -f qcow2 q.qcow2 ;; qemu-io -f qcow2 blkdebug::q.qcow2 -c 'read 0 4k'",
        "qemu-img check -q --output=json -f qcow2 q.qcow2",
        "qemu-io --image-opts driver=blkdebug,image.driver=qcow2,image.file.filename=q.qcow2 -c 'write -c 64k 64k' -c 'write -c 6k 0'",
        "qemu-io --image-opts driver=qcow2,file.driver=blkdebug,file.image.filename=e.qcow2,file.inject-error.0.event=write_aio \
         -c 'writev 511 65024 512' -c 'write 300k 0'",
        "qemu-io -k -n -f qcow2 q.qcow2 -c 'reopen -c unsafe' -c 'read 0 4k'",
        "qemu-img measure -O qcow2 -o encrypt.key-secret=none --size 1M",
        "qemu-img convert --object secret,id=s,data=abc --target-is-zero -n --target-image-opts -f raw a.raw \
         driver=qcow2,encrypt.key-secret=s,file.filename=k.qcow2",
        "qemu-img convert -B a.raw -F bogus -O qcow -f qcow2 q.qcow2 n.qcow",
        "qemu-img bitmap --add -g 0 -f qcow2 bm.qcow2 m3",
        "qemu-img amend -f qcow2 -o size=0 t.qcow2",
        "qemu-io -r -s -f raw a.raw -c 'write 0 4k' -c 'read 0 4k' -c 'map'",
        "qemu-io --image-opts driver=qcow2,file.driver=blkdebug,file.image.filename=b.qcow2,file.inject-error.0.event=l2_load \
         -c 'map' -c 'alloc 0'",
        "qemu-img info --output=json --image-opts driver=raw,offset=64k,file.driver=qcow2,file.file.filename=q.qcow2",
        "qemu-img info --image-opts driver=qcow2,backing.file.filename=h.raw,file.filename=b.qcow2",
        "qemu-io -t unsafe --image-opts driver=qcow2,file.driver=blkdebug,file.image.filename=b.qcow2,file.inject-error.0.event=refblock_update_part \
         -c 'aio_write -f 6k 64k' -c 'aio_flush' -c 'write -f 0 64k' -c 'flush'",
        "qemu-io -f qcow wb.qcow -c 'write -z -n 511 0' -c 'write -z -n 512 0' -c 'write -z 511 0'",
        "qemu-img bitmap --merge m1 --source-format qcow2 -f qcow2 bm.qcow2 m1",
        "qemu-io --image-opts driver=raw,offset=64k,file.driver=qcow2,file.file.filename=q.qcow2 -c 'write -c 64k 64k'",
        "qemu-io --image-opts driver=qcow2,file.driver=blkdebug,file.image.filename=f.qcow2,file.inject-error.0.event=cluster_alloc \
         -c 't 700k' -c 'write 1 512'",
        "qemu-io -t unsafe --image-opts driver=qcow2,file.driver=blkdebug,file.image.filename=q.qcow2,file.inject-error.0.event=l2_update \
         -c 'write 0 4k' -c 'write -z -f 0 64k' -c 'write -f 0 64k' -c 'write -z -f 64k 0'",
        "qemu-io --image-opts driver=compress,file.driver=qcow2,file.file.filename=q.qcow2 -c 'write -c 300k 0' -c 'write -c 64k 0'",
        "qemu-io --image-opts driver=qcow2,file.driver=blkdebug,file.align=4k,file.image.filename=e.qcow2,file.inject-error.0.event=cow_read,\
         file.inject-error.0.immediately=on -c 'write 700k 513'",
        "qemu-img check -T none -r all -f raw s.raw",
        "qemu-io --image-opts driver=qcow2,file.driver=blkdebug,file.image.filename=q.qcow2,file.inject-error.0.event=l2_load \
         -c 'write -z -u -n 512 512'",
        "qemu-img info --output json --object secret,id=s,data=abc --image-opts \
         driver=qcow2,encrypt.format=luks,encrypt.key-secret=s,file.filename=k.qcow2",
        r#"qemu-img info -f raw 'json:{"driver":"raw","file.filename":"a.raw","backing":null}'"#,
    ]);
    let text: String = differences.iter().map(ToString::to_string).collect();
    assert!(differences.is_empty(), "{text}");
}
