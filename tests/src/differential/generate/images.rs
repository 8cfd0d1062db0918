//! The images that lines are about, and the ways to name them.

use crate::random::Random;

/// The files of the zoo, and one that is not there.
pub(super) const FILES: [&str; 30] = [
    "a.raw",
    "h.raw",
    "s.raw",
    "empty.raw",
    "q.qcow2",
    "b.qcow2",
    "v.qcow2",
    "c.qcow2",
    "e.qcow2",
    "f.qcow2",
    "t.qcow2",
    "x.qcow2",
    "d.qcow2",
    "o.qcow2",
    "g.qcow2",
    "g.qcow2",
    "bm.qcow2",
    "i.qcow2",
    "k.qcow2",
    "leak.qcow2",
    "lost.qcow2",
    "dirty.qcow2",
    "r1.qcow2",
    "z.qcow2",
    "l.luks",
    "p.raw",
    "w.qcow",
    "wb.qcow",
    "y.qcow2",
    "nope.raw",
];

/// Files that are only read: writes with legacy AES are refused here (docs/differences.md), and how far one gets with an
/// image whose counts are wrong is a matter of taste.
const READ_ONLY: [&str; 2] = ["y.qcow2", "lost.qcow2"];

/// Files with data in an external file, whose holes are looked for in different places (docs/differences.md).
pub(super) const EXTERNAL: [&str; 2] = ["d.qcow2", "o.qcow2"];

/// What a file of `-b` may be, with its format or without.
pub(super) const BASES: [&str; 14] = [
    "-b a.raw -F raw",
    "-b a.raw -F raw",
    "-b h.raw -F raw",
    "-b s.raw -F raw",
    "-b q.qcow2 -F qcow2",
    "-b b.qcow2 -F qcow2",
    "-b e.qcow2 -F qcow2",
    "-b w.qcow -F qcow",
    "-b nope -F raw",
    "-b a.raw",
    "-b q.qcow2",
    "-b a.raw -F bogus",
    "-b q.qcow2 -F raw",
    "-F raw",
];

const SECRET: &str = "--object secret,id=s,data=abc";

/// The format that a file of that name has.
pub(super) fn format_of(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, ext)| ext) {
        _ if name == "p.raw" => "luks",
        Some("qcow2") => "qcow2",
        Some("qcow") => "qcow",
        Some("luks") => "luks",
        _ => "raw",
    }
}

/// The options of a node that opens a file of the zoo, keys and all.
pub(super) fn node(file: &str) -> String {
    let format = format_of(file);
    let more = match file {
        "l.luks" => ",key-secret=s",
        "p.raw" => ",key-secret=s,header.driver=file,header.filename=p.header",
        "k.qcow2" | "y.qcow2" => ",encrypt.key-secret=s",
        _ => "",
    };
    format!("driver={format}{more},file.filename={file}")
}

/// Whether a file is opened with a secret.
fn is_secret(file: &str) -> bool {
    node(file).contains("secret")
}

/// The options that name a file: mostly with its format, sometimes with none or a wrong one.
pub(super) fn named(r: &mut Random, file: &str) -> String {
    let format = format_of(file);
    match r.below(12) {
        // A guess would take what is encrypted for raw.
        0 if file != "p.raw" => file.to_owned(),
        1 => format!("-f {} {file}", r.pick(&["raw", "qcow2", "qcow", "bogus", "luks"])),
        2 => format!("--image-opts {}", node_with(r, file)),
        3 if !is_secret(file) => format!("-f {format} {}", json(r, file)),
        4 if !is_secret(file) => format!("-f {format} {}{file}", r.pick(&["./", "file:", "file:./"])),
        _ if is_secret(file) => format!("{SECRET} --image-opts {}", node(file)),
        _ => format!("-f {format} {file}"),
    }
}

/// The options of a node, with one more that all nodes take.
fn node_with(r: &mut Random, file: &str) -> String {
    let more = r.pick(&[
        "",
        "",
        ",discard=unmap",
        ",read-only=on",
        ",auto-read-only=on",
        ",cache.direct=off,cache.no-flush=on",
        ",force-share=on",
        ",detect-zeroes=on",
        ",discard=bogus",
        ",file.locking=off",
        ",file.aio=threads",
        ",node-name=n0",
        ",bogus=1",
        ",file.bogus=1",
    ]);
    format!("{}{more}", node(file))
}

fn json(r: &mut Random, file: &str) -> String {
    let format = format_of(file);
    let text = match r.below(5) {
        0 => format!(r#"{{"driver":"{format}","file.filename":"{file}"}}"#),
        1 => format!(r#"{{"file":{{"driver":"file","filename":"{file}"}}}}"#),
        2 => format!(r#"{{"driver":"{format}","file":{{"filename":"{file}"}},"discard":"unmap"}}"#),
        3 => (*r.pick(&[
            r#"{"driver":"raw"}"#,
            r#"{"driver":"raw","file":"a.raw"}"#,
            "{",
            r#"{"driver":"qcow2","file":{"driver":"bogus"}}"#,
            r#"{"driver":"qcow2","file.filename":"b.qcow2","backing":null}"#,
            "[]",
            r#"{"driver":"null-co","size":65536,"read-zeroes":true}"#,
        ]))
        .to_owned(),
        _ => format!(r#"{{"driver":"{format}","file":{{"driver":"file","filename":"{file}"}}}}"#),
    };
    format!("'json:{text}'")
}

/// Any file but those left out.
pub(super) fn any_but(r: &mut Random, left_out: &[&str]) -> &'static str {
    let files: Vec<&str> = FILES.into_iter().filter(|file| !left_out.contains(file)).collect();
    let &file = r.pick(&files);
    file
}

/// A file to be read.
pub(super) fn any_file(r: &mut Random) -> String {
    let file = *r.pick(&FILES);
    named(r, file)
}

/// A file that may be written to.
pub(super) fn any_writable(r: &mut Random) -> String {
    let file = writable(r);
    named(r, file)
}

/// The name of a file that may be written to.
pub(super) fn writable(r: &mut Random) -> &'static str {
    any_but(r, &READ_ONLY)
}

/// A file of which is told where its data is.
pub(super) fn any_mapped(r: &mut Random) -> String {
    let file = any_but(r, &EXTERNAL);
    named(r, file)
}

/// A file other than `target`; for copies, as those of a file into itself are refused here (docs/differences.md).
pub(super) fn any_other(r: &mut Random, target: &str) -> String {
    let file = any_but(r, &[target]);
    named(r, file)
}

/// An image that is more than a file: below filters, a part, or none at all.
pub(super) fn filtered(r: &mut Random) -> String {
    if r.below(8) == 0 {
        return (*r.pick(&FILTER_NAMES)).to_owned();
    }
    format!("{SECRET} {THROTTLES} --image-opts {}", r.pick(&FILTERS))
}

/// A group that does not slow anything down, and one that cannot be.
const THROTTLES: &str = "--object throttle-group,id=tg,x-iops-total=1000000";

/// Filters by their file names.
const FILTER_NAMES: [&str; 9] = [
    "blkdebug::q.qcow2",
    "-f qcow2 blkdebug::q.qcow2",
    "-f raw blkdebug::a.raw",
    "blkdebug:rules.conf:q.qcow2",
    "-f qcow2 blkdebug:rules.conf:q.qcow2",
    "blkdebug:nope.conf:q.qcow2",
    "-f raw blkverify:a.raw:copy.raw",
    "nbd:unix:nope",
    "nbd+unix:///?socket=nope",
];

const FILTERS: [&str; 74] = [
    "driver=raw,offset=64k,size=128k,file.filename=a.raw",
    "driver=raw,offset=1000,size=1024,file.filename=a.raw",
    "driver=raw,offset=900k,size=1M,file.filename=a.raw",
    "driver=raw,offset=512,file.filename=a.raw",
    "driver=raw,offset=100,size=1000,file.filename=a.raw",
    "driver=raw,size=1M,file.filename=s.raw",
    "driver=raw,size=0,file.filename=a.raw",
    "driver=raw,offset=3M,file.filename=a.raw",
    "driver=raw,offset=64k,file.driver=qcow2,file.file.filename=q.qcow2",
    "driver=raw,detect-zeroes=on,file.filename=a.raw",
    "driver=raw,detect-zeroes=unmap,file.filename=a.raw",
    "driver=raw,detect-zeroes=unmap,discard=unmap,file.filename=a.raw",
    "driver=raw,file.filename=a.raw,file.locking=bogus",
    "driver=raw,file.driver=file,file.filename=a.raw,file.aio=threads",
    "driver=file,filename=a.raw",
    "driver=file,filename=nope",
    "driver=file,filename=s.raw,discard=unmap",
    "driver=qcow2,detect-zeroes=unmap,discard=unmap,file.filename=q.qcow2",
    "driver=qcow2,detect-zeroes=on,file.filename=b.qcow2",
    "driver=qcow2,discard=ignore,file.filename=q.qcow2",
    "driver=qcow2,discard-no-unref=on,discard=unmap,file.filename=q.qcow2",
    "driver=qcow2,lazy-refcounts=on,file.filename=q.qcow2",
    "driver=qcow2,lazy-refcounts=on,file.filename=v.qcow2",
    "driver=qcow2,pass-discard-request=off,file.filename=q.qcow2",
    "driver=qcow2,pass-discard-snapshot=off,pass-discard-other=on,file.filename=g.qcow2",
    "driver=qcow2,overlap-check=all,file.filename=e.qcow2",
    "driver=qcow2,overlap-check=bogus,file.filename=e.qcow2",
    "driver=qcow2,overlap-check.template=none,overlap-check.active-l2=on,file.filename=q.qcow2",
    "driver=qcow2,cache-size=64k,file.filename=q.qcow2",
    "driver=qcow2,cache-size=1M,l2-cache-size=2M,file.filename=q.qcow2",
    "driver=qcow2,l2-cache-size=64k,l2-cache-entry-size=4k,file.filename=q.qcow2",
    "driver=qcow2,l2-cache-entry-size=1000,file.filename=q.qcow2",
    "driver=qcow2,refcount-cache-size=256k,cache-clean-interval=1,file.filename=q.qcow2",
    "driver=qcow2,read-only=on,file.filename=q.qcow2",
    "driver=qcow2,backing.driver=raw,backing.file.filename=h.raw,file.filename=b.qcow2",
    "driver=qcow2,backing.driver=null-co,backing.size=1M,backing.read-zeroes=on,file.filename=b.qcow2",
    "driver=qcow2,backing.driver=qcow2,backing.file.filename=q.qcow2,file.filename=i.qcow2",
    "driver=qcow2,backing=nope,file.filename=b.qcow2",
    "driver=qcow2,data-file.filename=d.raw,file.filename=d.qcow2",
    "driver=qcow2,data-file.driver=blkdebug,data-file.image.filename=d.raw,file.filename=d.qcow2",
    "driver=qcow2,data-file.filename=a.raw,file.filename=q.qcow2",
    "driver=qcow2,data-file.filename=nope,file.filename=d.qcow2",
    "driver=qcow2,encrypt.key-secret=nope,file.filename=k.qcow2",
    "driver=qcow2,encrypt.format=aes,encrypt.key-secret=s,file.filename=k.qcow2",
    "driver=qcow2,encrypt.format=luks,encrypt.key-secret=s,file.filename=k.qcow2",
    "driver=luks,key-secret=nope,file.filename=l.luks",
    "driver=luks,key-secret=s,file.driver=blkdebug,file.align=4k,file.image.filename=l.luks",
    "driver=copy-on-read,file.driver=qcow2,file.file.filename=b.qcow2",
    "driver=copy-on-read,file.driver=qcow2,file.file.filename=f.qcow2",
    "driver=copy-on-read,file.driver=qcow2,file.file.filename=wb.qcow",
    "driver=compress,file.driver=qcow2,file.file.filename=q.qcow2",
    "driver=compress,file.driver=qcow2,file.file.filename=z.qcow2",
    "driver=compress,file.driver=raw,file.file.filename=a.raw",
    "driver=throttle,throttle-group=tg,file.driver=qcow2,file.file.filename=q.qcow2",
    "driver=throttle,throttle-group=tg,file.driver=raw,file.file.filename=a.raw",
    "driver=throttle,throttle-group=nope,file.driver=raw,file.file.filename=a.raw",
    "driver=quorum,vote-threshold=1,children.0.driver=raw,children.0.file.filename=a.raw,children.1.driver=raw,children.1.file.filename=copy.raw",
    "driver=quorum,vote-threshold=2,children.0.driver=raw,children.0.file.filename=a.raw,children.1.driver=raw,children.1.file.filename=copy.raw",
    "driver=quorum,vote-threshold=3,children.0.driver=raw,children.0.file.filename=a.raw,children.1.driver=raw,children.1.file.filename=copy.raw",
    "driver=quorum,vote-threshold=1,read-pattern=fifo,children.0.driver=raw,children.0.file.filename=a.raw,children.1.driver=qcow2,children.1.file.filename=q.qcow2",
    "driver=blkverify,raw.filename=a.raw,test.driver=raw,test.file.filename=copy.raw",
    "driver=null-co,size=1M,read-zeroes=on",
    "driver=null-aio,size=70000,read-zeroes=on",
    "driver=null-co,size=bogus",
    "driver=raw,file.driver=null-co,file.size=1M,file.read-zeroes=on",
    "driver=blkdebug,image.driver=qcow2,image.file.filename=q.qcow2",
    "driver=blkdebug,align=4k,image.driver=qcow2,image.file.filename=q.qcow2",
    "driver=blkdebug,align=1000,image.driver=qcow2,image.file.filename=q.qcow2",
    "driver=blkdebug,max-transfer=64k,opt-write-zero=64k,max-write-zero=128k,image.driver=qcow2,image.file.filename=q.qcow2",
    "driver=blkdebug,opt-discard=64k,max-discard=128k,image.driver=raw,image.file.filename=a.raw",
    "driver=bogus",
    "driver=qcow2,bogus=1,file.filename=q.qcow2",
    "driver=qcow2,file.driver=nbd",
    "driver=qcow2",
];

/// An image over a file that fails at some event.
pub(super) fn failing(r: &mut Random) -> String {
    // Only qcow2 tells of a flush that fails while it is closed (docs/differences.md); how often it flushes is its business.
    let file = *r.pick(&["q.qcow2", "e.qcow2", "t.qcow2", "v.qcow2", "b.qcow2", "g.qcow2", "f.qcow2"]);
    // Whether holes of a raw backing file are copied differs (docs/differences.md).
    let event = match *r.pick(&EVENTS) {
        "cow_read" | "cow_write" | "read_backing_aio"
            if ["b.qcow2", "f.qcow2", "t.qcow2"].contains(&file) =>
        {
            "write_aio"
        }
        event => event,
    };
    let more = *r.pick(&[
        "",
        "",
        ",file.inject-error.0.once=on",
        ",file.inject-error.0.errno=28",
        ",file.inject-error.0.errno=28,file.inject-error.0.once=on",
        ",file.inject-error.0.immediately=on",
        ",file.inject-error.0.iotype=write",
        ",file.inject-error.0.sector=1000",
        ",file.inject-error.0.state=2",
    ]);
    let format = format_of(file);
    format!(
        "--image-opts driver={format},file.driver=blkdebug,file.image.filename={file},file.inject-error.0.event={event}{more}"
    )
}

const EVENTS: [&str; 24] = [
    "l1_update",
    "l1_grow_alloc_table",
    "l1_grow_write_table",
    "l1_grow_activate_table",
    "l2_load",
    "l2_update",
    "l2_alloc_write",
    "l2_alloc_cow_read",
    "read_aio",
    "read_backing_aio",
    "read_compressed",
    "write_aio",
    "write_compressed",
    "refblock_load",
    "refblock_update_part",
    "refblock_alloc",
    "refblock_alloc_hookup",
    "refblock_alloc_write",
    "reftable_update",
    "cluster_alloc",
    "cluster_alloc_bytes",
    "cluster_free",
    "cow_read",
    "cow_write",
];
