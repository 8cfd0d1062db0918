//! Command lines of `qemu-io`.

use super::{LENGTHS, OFFSETS, named};
use crate::random::Random;

pub(super) fn line(r: &mut Random) -> String {
    let file = *r.pick(&[
        "a.raw", "h.raw", "s.raw", "q.qcow2", "b.qcow2", "v.qcow2", "c.qcow2", "e.qcow2", "t.qcow2",
        "d.qcow2", "l.luks", "x.qcow2",
    ]);
    let extra = *r.pick(&[
        "",
        "",
        "",
        "",
        "-r",
        "-C",
        "-n",
        "-d ignore",
        "-t writeback",
        "-t none",
        "-U",
        "-m",
        "-t bogus",
        "-i threads",
        "-s",
        "-s",
        "-k",
        "-d unmap",
        "-d bogus",
        "-t directsync",
        "-t unsafe",
        "-t writethrough",
        "-C -t none",
        "-r -U",
    ]);
    let named = if r.below(6) == 0 { filtered(r) } else { named(r, file) };
    let commands: String = (0..r.below(5) + 1).map(|_| format!(" -c '{}'", io_command(r))).collect();
    format!("qemu-io {extra} {named}{commands}")
}

/// Images below filters, parts of files, and files that are none.
fn filtered(r: &mut Random) -> String {
    let options = *r.pick(&[
        "driver=raw,offset=64k,size=128k,file.filename=a.raw",
        "driver=raw,offset=1000,size=1024,file.filename=a.raw",
        "driver=raw,size=1M,file.filename=s.raw",
        "driver=raw,detect-zeroes=on,file.filename=a.raw",
        "driver=qcow2,detect-zeroes=unmap,discard=unmap,file.filename=q.qcow2",
        "driver=qcow2,discard=ignore,file.filename=q.qcow2",
        "driver=qcow2,discard-no-unref=on,discard=unmap,file.filename=q.qcow2",
        "driver=qcow2,lazy-refcounts=on,file.filename=q.qcow2",
        "driver=qcow2,lazy-refcounts=on,file.filename=v.qcow2",
        "driver=qcow2,pass-discard-request=off,file.filename=q.qcow2",
        "driver=qcow2,overlap-check=all,file.filename=e.qcow2",
        "driver=qcow2,cache-size=64k,file.filename=q.qcow2",
        "driver=qcow2,read-only=on,file.filename=q.qcow2",
        "driver=qcow2,backing.driver=raw,backing.file.filename=h.raw,file.filename=b.qcow2",
        "driver=copy-on-read,file.driver=qcow2,file.file.filename=b.qcow2",
        "driver=compress,file.driver=qcow2,file.file.filename=q.qcow2",
        "driver=blkdebug,image.driver=qcow2,image.file.filename=q.qcow2",
        "driver=qcow2,file.driver=blkdebug,file.image.filename=q.qcow2,file.inject-error.0.event=write_aio",
        "driver=qcow2,file.driver=blkdebug,file.image.filename=e.qcow2,file.inject-error.0.event=cluster_alloc",
        "driver=qcow2,file.driver=blkdebug,file.image.filename=t.qcow2,file.inject-error.0.event=read_aio,file.inject-error.0.once=on",
        "driver=qcow2,file.driver=blkdebug,file.image.filename=q.qcow2,file.inject-error.0.event=l2_update,file.inject-error.0.errno=28",
        "driver=null-co,size=1M,read-zeroes=on",
        "driver=bogus",
        "driver=qcow2,bogus=1,file.filename=q.qcow2",
        "driver=qcow2,file.driver=nbd",
    ]);
    format!("--image-opts {options}")
}

fn io_command(r: &mut Random) -> String {
    let (at, len) = (*r.pick(&OFFSETS), *r.pick(&LENGTHS));
    let byte = r.below(300);
    match r.below(20) {
        0..=2 => {
            format!(
                "read {} {at} {len}",
                r.pick(&[
                    "",
                    "-q",
                    "-v",
                    "-P 17",
                    "-P 0",
                    "-P 0 -s 1 -l 5",
                    "-b",
                    "-C",
                    "-P 33 -v",
                    "-r",
                    "-P 300",
                    "-l 5",
                    "-q -C"
                ])
            )
        }
        3 => format!(
            "readv {} {at} {len} {}",
            r.pick(&["", "-q", "-P 17", "-v", "-C", "-P 49 -q", "-r"]),
            r.pick(&LENGTHS)
        ),
        4..=6 => format!(
            "write -P {byte} {} {at} {len}",
            r.pick(&["", "-q", "-f", "-c", "-b", "-C", "-r", "-n", "-f -q", "-c -q", "-u"])
        ),
        7..=8 => format!(
            "write -z {} {at} {len}",
            r.pick(&["", "-u", "-n", "-f", "-u -n", "-z -u -f", "-q", "-b", "-c"])
        ),
        9 => format!(
            "writev -P {byte} {} {at} {len} {}",
            r.pick(&["", "-q", "-f", "-C", "-r"]),
            r.pick(&LENGTHS)
        ),
        10 => format!("discard {} {at} {len}", r.pick(&["", "-q", "-C"])),
        // Waited for at once: what else would happen meanwhile is a matter of luck.
        11 => match r.below(3) {
            0 => {
                format!("aio_write -z {} {at} {len}' -c 'aio_flush", r.pick(&["", "-u", "-f", "-q", "-u -f"]))
            }
            _ => format!(
                "aio_write -P {byte} {} {at} {len}' -c 'aio_flush",
                r.pick(&["", "-q", "-f", "-C", "-i", "-u"])
            ),
        },
        12 => {
            format!("aio_read {} {at} {len}' -c 'aio_flush", r.pick(&["", "-q", "-v", "-P 17", "-C", "-i"]))
        }
        13 => "aio_flush".to_owned(),
        14 => "map".to_owned(),
        15 => format!("alloc {at} {}", r.pick(&["", "64k", "1M"])),
        16 => format!(
            "truncate {} {}",
            r.pick(&["", "-m off", "-m full", "-m bogus", "-m metadata", "-m falloc"]),
            r.pick(&["1M", "2M", "64k", "700k", "abc", "1000", "0", "3G", "65000"])
        ),
        17 => (*r.pick(&[
            "length",
            "flush",
            "info",
            "close",
            "reopen -r",
            "reopen -w",
            "reopen -c none",
            "reopen -o lazy-refcounts=on",
            "reopen -o discard=unmap",
            "reopen -r -o detect-zeroes=on",
            "reopen -c writethrough",
            "reopen -o bogus=1",
            "reopen -w -o read-only=on",
        ]))
        .to_owned(),
        18 => (*r.pick(&[
            "open a.raw",
            "open -o driver=qcow2 q.qcow2",
            "close' -c 'open -o driver=qcow2 q.qcow2",
            "close' -c 'open -r -o driver=raw a.raw",
            "close' -c 'open -s -o driver=qcow2 e.qcow2",
            "close' -c 'open -C -o driver=qcow2 b.qcow2",
            "close' -c 'open -t none -n -o driver=raw h.raw",
            "close' -c 'open -d unmap -o driver=raw,size=512 h.raw",
            "close' -c 'open nope",
            "bogus",
            "quit",
            "zone_report 0 1",
            "zone_open 0 64k",
            "zone_close 0 64k",
            "zone_finish 0 64k",
            "zone_reset 0 64k",
            "zone_append 0 4k",
            "remove_break A",
            "sleep 1",
        ]))
        .to_owned(),
        _ => {
            (*r.pick(&["break write_aio A", "resume A", "read 0 abc", "write 0", "discard -1 5"])).to_owned()
        }
    }
}
