//! Command lines of `qemu-io`.

use super::images::{failing, filtered, named, writable};
use super::{CACHES, LENGTHS, OFFSETS, often};
use crate::random::Random;

/// What the program itself may be asked for.
const EXTRAS: [&str; 26] = [
    "-r",
    "-s",
    "-s",
    "-n",
    "-C",
    "-m",
    "-k",
    "-k -n",
    "-U",
    "-r -U",
    "-C -t none",
    "-r -C",
    "-r -s",
    "-i threads",
    "-i native -n",
    "-i native",
    "-i io_uring",
    "-i bogus",
    "-d ignore",
    "-d off",
    "-d unmap",
    "-d on",
    "-d bogus",
    "-n -t writeback",
    // What can be traced differs; none of either.
    "-T nosuch*",
    "-f raw",
];

pub(super) fn line(r: &mut Random) -> String {
    if often(r, 1, 20) {
        return held_up(r);
    }
    let cache = *r.pick(&CACHES);
    let extra = match r.below(6) {
        0 => format!("-t {cache}"),
        1 | 2 => (*r.pick(&EXTRAS)).to_owned(),
        _ => String::new(),
    };
    let mut image = image(r);
    if extra.contains("-s") {
        // The real tool makes no throw-away overlay of what must not be written (docs/differences.md).
        image = image.replace(",read-only=on", "");
    }
    // Images of -s are gone from their directory, so that the real tool cannot reopen them (docs/differences.md).
    // And some filters it never reopens.
    let once = ["copy-on-read,", "compress,", "blkverify"].iter().any(|filter| image.contains(filter));
    let can_reopen = !extra.contains("-s") && !once;
    let mut commands: Vec<String> = (0..r.below(6) + 1).flat_map(|_| command(r, can_reopen)).collect();
    commands.retain(|command| !is_left_out(&image, command));
    if often(r, 1, 12) {
        // When a request ends in relation to the next prompt is a matter of luck.
        commands.retain(|command| !command.starts_with("aio_"));
        return format!("qemu-io {extra} {image} <<< '{}'", commands.join(";"));
    }
    let commands: String = commands.iter().map(|command| format!(" -c '{command}'")).collect();
    format!("qemu-io {extra} {image}{commands}")
}

/// Whether a command does something on purpose that the real tool does in another way (docs/differences.md), or something of
/// which a part only is done.
fn is_left_out(image: &str, command: &str) -> bool {
    let truncates = command.starts_with('t');
    let qcow = image.contains(".qcow") && !image.contains(".qcow2");
    // Of two copies the real tool resizes one; it loses the bitmaps of an image without bytes.
    let resized =
        truncates && (image.contains("blkverify") || image.contains("bm.qcow2") && command.ends_with(" 0"));
    // What is copied when room for the state of a machine is written is not the same.
    let copies = image.contains("inject-error") && command.contains(" -b ");
    resized || copies || qcow && command.contains(" -c ")
}

fn image(r: &mut Random) -> String {
    match r.below(10) {
        0 | 1 => filtered(r),
        2 => failing(r),
        3 if often(r, 1, 4) => String::new(),
        _ => {
            let file = writable(r);
            named(r, file)
        }
    }
}

/// A command, or some that belong together.
fn command(r: &mut Random, can_reopen: bool) -> Vec<String> {
    let one = match r.below(24) {
        0..=3 => read(r),
        4..=8 => write(r),
        9 | 10 => zeroes(r),
        11 => writev(r),
        12 => discard(r),
        // Waited for at once: what else would happen meanwhile is a matter of luck.
        13 | 14 => return vec![aio(r), "aio_flush".to_owned()],
        15 => "map".to_owned(),
        16 => alloc(r),
        17 => truncate(r),
        18 if can_reopen => reopen(r),
        19 => return opened_anew(r),
        20 => return suspended(r),
        21 => zone(r),
        _ => other(r),
    };
    vec![one]
}

fn place(r: &mut Random) -> (&'static str, &'static str) {
    (*r.pick(&OFFSETS), *r.pick(&LENGTHS))
}

fn read(r: &mut Random) -> String {
    let (at, len) = place(r);
    if often(r, 1, 5) {
        let flags =
            r.pick(&["", "-q", "-P 17", "-v", "-C", "-P 49 -q", "-r", "-P bogus", "-P 0x11", "-P 256"]);
        return format!("readv {flags} {at} {len} {}", r.pick(&LENGTHS));
    }
    let flags = r.pick(&[
        "",
        "",
        "-q",
        "-v",
        "-p",
        "-P 17",
        "-P 0",
        "-P 0xab",
        "-P 33 -v",
        "-P 300",
        "-P -1",
        "-P bogus",
        "-P 0 -s 1 -l 5",
        "-P 17 -s 512",
        "-P 17 -l 512",
        "-P 0 -s 3G",
        "-P 0 -s bogus",
        "-P 0 -l bogus",
        "-s 5",
        "-l 5",
        "-b",
        "-b -P 0",
        "-C",
        "-q -C",
        "-r",
        "-qP 17",
    ]);
    // The short names of the commands, too.
    let name = if often(r, 1, 8) { "r" } else { "read" };
    if often(r, 1, 16) { format!("{name} {at} {len} {flags}") } else { format!("{name} {flags} {at} {len}") }
}

fn write(r: &mut Random) -> String {
    let (at, len) = place(r);
    let byte = r.below(260);
    let flags = r.pick(&[
        "", "", "", "", "-q", "-f", "-f -q", "-c", "-c", "-c -q", "-b", "-b -q", "-C", "-r", "-n", "-u",
        "-p", "-c -f", "-c -b", "-c -C", "-b -f", "-r -f", "-z",
    ]);
    let name = if often(r, 1, 8) { "w" } else { "write" };
    match r.below(10) {
        // The pattern of -P would be another one.
        0 => {
            format!(
                "{name} -s {} {flags} {at} {len}",
                r.pick(&["pattern", "pattern", "empty.raw", "nope.raw"])
            )
        }
        1 => format!("{name} {flags} {at} {len}"),
        2 => format!("{name} -P {} {flags} {at} {len}", r.pick(&["0", "0xff", "bogus", "-1", "256", "077"])),
        _ => format!("{name} -P {byte} {flags} {at} {len}"),
    }
}

fn zeroes(r: &mut Random) -> String {
    let (at, len) = place(r);
    let flags = r.pick(&[
        "",
        "",
        "-u",
        "-u",
        "-n",
        "-f",
        "-u -n",
        "-u -f",
        "-q",
        "-b",
        "-c",
        "-C",
        "-P 7",
        "-s pattern",
        "-r",
        "-n -f",
    ]);
    format!("write -z {flags} {at} {len}")
}

fn writev(r: &mut Random) -> String {
    let (at, len) = place(r);
    let byte = r.below(260);
    let flags = r.pick(&["", "-q", "-f", "-C", "-r", "-f -q"]);
    format!("writev -P {byte} {flags} {at} {len} {}", r.pick(&LENGTHS))
}

fn discard(r: &mut Random) -> String {
    let (at, len) = place(r);
    format!("{} {} {at} {len}", r.pick(&["discard", "discard", "d"]), r.pick(&["", "", "-q", "-C"]))
}

fn aio(r: &mut Random) -> String {
    let (at, len) = place(r);
    match r.below(4) {
        0 => format!(
            "aio_write -z {} {at} {len}",
            r.pick(&["", "-u", "-f", "-q", "-u -f", "-C", "-i", "-P 7", "-r"])
        ),
        1 => format!(
            "aio_read {} {at} {len} {}",
            r.pick(&["", "-q", "-v", "-P 17", "-P 0", "-C", "-i", "-r", "-P bogus"]),
            r.pick(&["", "", "512", "4k"])
        ),
        _ => format!(
            "aio_write -P {} {} {at} {len} {}",
            r.below(260),
            r.pick(&["", "-q", "-f", "-C", "-i", "-u", "-r", "-f -q"]),
            r.pick(&["", "", "512", "4k"])
        ),
    }
}

fn alloc(r: &mut Random) -> String {
    let (at, len) = place(r);
    let len = if often(r, 1, 3) { "" } else { len };
    format!("{} {at} {len}", r.pick(&["alloc", "alloc", "a"]))
}

fn truncate(r: &mut Random) -> String {
    let mode = r.pick(&["", "", "", "-m off", "-m full", "-m bogus", "-m metadata", "-m falloc"]);
    let size = r.pick(&["1M", "2M", "64k", "700k", "abc", "1000", "0", "3G", "65000", "-1", "1.5M", "1025k"]);
    // Not gigabytes that are really written.
    let size = if mode.is_empty() || !size.ends_with('G') { *size } else { "3M" };
    format!("{} {mode} {size}", r.pick(&["truncate", "truncate", "t"]))
}

fn reopen(r: &mut Random) -> String {
    format!(
        "reopen {}",
        r.pick(&[
            "",
            "-r",
            "-w",
            "-r -w",
            "-c none",
            "-c writethrough",
            "-c writeback",
            "-c unsafe",
            "-c bogus",
            "-o lazy-refcounts=on",
            "-o lazy-refcounts=bogus",
            "-o discard=unmap",
            "-o discard=ignore",
            "-o discard=bogus",
            "-r -o detect-zeroes=on",
            "-o detect-zeroes=unmap,discard=unmap",
            "-o detect-zeroes=unmap,discard=ignore",
            "-o overlap-check=none",
            "-o cache-size=1M",
            "-o read-only=on",
            "-w -o read-only=on",
            "-o driver=raw",
            "-o backing=nope",
            "-o backing.driver=raw",
            "-o file.filename=a.raw",
            "-o cache.direct=on",
            "-c none -o cache.direct=on",
            "-o offset=64k",
            "-o bogus=1",
            "nope",
        ])
    )
}

/// Another image in place of the one that is open, or in vain besides it.
fn opened_anew(r: &mut Random) -> Vec<String> {
    let open = (*r.pick(&[
        "open a.raw",
        "o -r a.raw",
        "open nope",
        "open",
        "open q.qcow2 a.raw",
        "open -o driver=qcow2 q.qcow2",
        "open -r -o driver=raw a.raw",
        "open -s -o driver=qcow2 e.qcow2",
        "open -C -o driver=qcow2 b.qcow2",
        "open -C -r -o driver=qcow2 b.qcow2",
        "open -t none -n -o driver=raw h.raw",
        "open -t directsync -o driver=raw a.raw",
        "open -t bogus a.raw",
        "open -d unmap -o driver=raw,size=512 h.raw",
        "open -d bogus a.raw",
        "open -U -r -o driver=qcow2 t.qcow2",
        "open -U -o driver=qcow2 t.qcow2",
        "open -k -n -o driver=raw a.raw",
        "open -k -o driver=raw a.raw",
        "open -i threads -o driver=qcow2 g.qcow2",
        "open -i bogus a.raw",
        "open -o driver=bogus a.raw",
        "open -o driver=qcow2,bogus=1 q.qcow2",
        "open -o driver=qcow2,lazy-refcounts=on q.qcow2",
        "open -o driver=raw,file.driver=blkdebug,file.image.filename=a.raw",
        r#"open json:{"driver":"qcow2","file.filename":"f.qcow2"}"#,
        r#"open -r json:{"driver":"raw","offset":65536,"file":{"filename":"a.raw"}}"#,
        "open driver=qcow2,file.filename=q.qcow2",
    ]))
    .to_owned();
    if often(r, 1, 4) { vec![open] } else { vec![(*r.pick(&["close", "c"])).to_owned(), open] }
}

/// A request that is held up at an event until it is let go, where there is a filter that can.
fn suspended(r: &mut Random) -> Vec<String> {
    let at = *r.pick(&["0", "64k", "300k", "1M"]);
    let lines: &[&str] = match r.below(6) {
        0 => &["break write_aio A", "resume A", "remove_break A"],
        1 => &["break bogus A"],
        2 => &["remove_break A"],
        3 => &["break write_aio A", "remove_break A", "aio_write -P 3 AT 4k", "aio_flush"],
        _ => &["resume A", "resume B"],
    };
    lines.iter().map(|line| line.replace("AT", at)).collect()
}

/// A request that is seen to be held up, and goes on when it is told to.
fn held_up(r: &mut Random) -> String {
    // Events of requests that are held up without a lock, on which the rest would wait for ever on both sides.
    let (event, request) = *r.pick(&[
        ("write_aio", "aio_write -P 3 64k 64k"),
        ("write_aio", "aio_write -P 3 400k 4k"),
        ("read_aio", "aio_read 64k 4k"),
        ("pwritev", "aio_write -P 3 64k 4k"),
        ("pwritev_done", "aio_write -P 3 64k 4k"),
    ]);
    let meanwhile = *r.pick(&["read 128k 4k", "write -P 5 200k 4k", "length", "resume B"]);
    let end = *r.pick(&["resume A' -c 'aio_flush", "resume A' -c 'aio_flush' -c 'read -v 64k 512"]);
    format!(
        "qemu-io --image-opts driver=qcow2,file.driver=blkdebug,file.image.filename=q.qcow2 -c 'break {event} A' -c '{request}' -c 'wait_break A' -c '{meanwhile}' -c '{end}'"
    )
}

fn zone(r: &mut Random) -> String {
    (*r.pick(&[
        "zone_report 0 1",
        "zrp 0 8",
        "zone_report bogus 1",
        "zone_report 0 bogus",
        "zone_open 0 64k",
        "zo 0 bogus",
        "zone_close 0 64k",
        "zc 0 1M",
        "zone_finish 0 64k",
        "zf 1 64k",
        "zone_reset 0 64k",
        "zrs 64k 64k",
        "zone_append 0 4k",
        "zap -p 0 4k 8k",
    ]))
    .to_owned()
}

fn other(r: &mut Random) -> String {
    (*r.pick(&[
        "length",
        "l",
        "flush",
        "f",
        "info",
        "i",
        "aio_flush",
        "close",
        "sleep 1",
        "sleep bogus",
        "bogus",
        "quit",
        "q",
        "read 0 abc",
        "read abc 0",
        "read 0",
        "write 0",
        "write 0 -1",
        "discard -1 5",
        "discard 0 abc",
        "alloc abc",
        "aio_read 0 abc",
        "aio_write -z 0 4k 4k",
        "writev 0",
        "abort",
        "sigraise 15",
        "sigraise 9",
        "sigraise bogus",
        "help bogus",
    ]))
    .to_owned()
}
