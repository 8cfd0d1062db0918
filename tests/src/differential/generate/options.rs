//! Options of formats, for `create`, `convert`, `measure` and `amend`.

use super::often;
use crate::random::Random;

/// Some creation options of `format`, mostly one of them, mostly none.
pub(super) fn creation(r: &mut Random, format: &str) -> String {
    let keyed = format == "luks" && r.below(8) != 0;
    let mut chosen: Vec<&str> = if keyed { vec!["key-secret=s,iter-time=10"] } else { Vec::new() };
    if often(r, 1, 3) {
        let choices: &[&str] = match format {
            "qcow2" => &QCOW2,
            "qcow" => &QCOW,
            "luks" => &LUKS,
            _ => &RAW,
        };
        chosen.push(*r.pick(choices));
    }
    if format == "qcow2" && often(r, 1, 12) {
        chosen.push(*r.pick(&QCOW2));
    }
    // A later one of the same name wins; in one option or in two.
    let glue = if often(r, 1, 4) { " -o " } else { "," };
    if chosen.is_empty() { String::new() } else { format!("-o {}", chosen.join(glue)) }
}

const RAW: [&str; 10] = [
    "preallocation=off",
    "preallocation=falloc",
    "preallocation=full",
    "preallocation=metadata",
    "preallocation=bogus",
    "size=1M",
    "nocow=on",
    "extent_size_hint=1M",
    "bogus=1",
    "cluster_size=4k",
];

const QCOW: [&str; 9] = [
    "size=1M",
    "size=0",
    "backing_file=a.raw",
    "backing_file=a.raw,backing_fmt=raw",
    "backing_fmt=raw",
    "encryption=off",
    "cluster_size=4k",
    "preallocation=full",
    "bogus=1",
];

// The real tool refuses detached-header=on (docs/differences.md).
const LUKS: [&str; 25] = [
    "cipher-alg=aes-128",
    "cipher-alg=aes-256,cipher-mode=cbc",
    "cipher-alg=serpent-256",
    "cipher-alg=twofish-128",
    "cipher-alg=cast5-128,cipher-mode=cbc",
    "cipher-alg=bogus",
    "cipher-mode=ctr",
    "cipher-mode=ecb",
    "cipher-mode=bogus",
    "cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256",
    "ivgen-alg=plain",
    "ivgen-alg=essiv",
    "ivgen-alg=bogus",
    "ivgen-hash-alg=sha1",
    "hash-alg=sha1",
    "hash-alg=sha512",
    "hash-alg=md5",
    "hash-alg=bogus",
    "iter-time=0",
    "iter-time=bogus",
    "key-secret=nope",
    "preallocation=full",
    "preallocation=metadata",
    "size=100k",
    "bogus=1",
];

const QCOW2: [&str; 74] = [
    "cluster_size=4k",
    "cluster_size=512",
    "cluster_size=1000",
    "cluster_size=2M",
    "cluster_size=4M",
    "cluster_size=256",
    "cluster_size=bogus",
    "cluster_size=512,refcount_bits=64",
    "cluster_size=4k,preallocation=metadata",
    "compat=0.10",
    "compat=1.1",
    "compat=2",
    "compat=v3",
    "compat=v2,cluster_size=8k",
    "compat=0.10,lazy_refcounts=on",
    "compat=0.10,refcount_bits=8",
    "compat=0.10,extended_l2=on",
    "compat=0.10,compression_type=zstd",
    "compat=0.10,data_file=e.data",
    "preallocation=off",
    "preallocation=metadata",
    "preallocation=full",
    "preallocation=falloc",
    "preallocation=bogus",
    "lazy_refcounts=on",
    "lazy_refcounts=off",
    "lazy_refcounts=bogus",
    "refcount_bits=1",
    "refcount_bits=2",
    "refcount_bits=3",
    "refcount_bits=16",
    "refcount_bits=32",
    "refcount_bits=64",
    "refcount_bits=128",
    "refcount_bits=0",
    "refcount_bits=bogus",
    "extended_l2=on",
    "extended_l2=bogus",
    "extended_l2=on,cluster_size=8k",
    "extended_l2=on,cluster_size=16k",
    "extended_l2=on,cluster_size=2M",
    "extended_l2=on,preallocation=metadata",
    "extended_l2=on,preallocation=falloc",
    "bogus=1",
    "bogus",
    "size=1M",
    "size=0",
    "size=bogus",
    "size=100000",
    "compression_type=zlib",
    "compression_type=zstd",
    "compression_type=bogus",
    "data_file=e.data",
    "data_file=no/e.data",
    "data_file=e.data,data_file_raw=on",
    "data_file=e.data,preallocation=metadata",
    "data_file=e.data,preallocation=full",
    "data_file_raw=on",
    "backing_fmt=raw",
    "backing_file=a.raw",
    "backing_file=a.raw,backing_fmt=raw",
    "backing_file=q.qcow2,backing_fmt=qcow2",
    "backing_file=nope,backing_fmt=raw",
    "backing_file=a.raw,backing_fmt=bogus",
    "encryption=off",
    "encrypt.format=bogus",
    "encrypt.format=luks",
    "encrypt.format=luks,encrypt.key-secret=none",
    "encrypt.key-secret=s",
    "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10",
    "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10,encrypt.cipher-alg=aes-128",
    "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10,encrypt.bogus=1",
    "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10,preallocation=metadata",
    "nocow=on",
];

/// Options of `amend` for a file of that format.
pub(super) fn amendment(r: &mut Random, format: &str) -> &'static str {
    match format {
        "luks" => r.pick::<&str>(&AMEND_LUKS),
        _ => r.pick::<&str>(&AMEND_QCOW2),
    }
}

/// Options of `amend` for qcow2 with LUKS inside.
pub(super) fn encrypted_amendment(r: &mut Random) -> &'static str {
    r.pick::<&str>(&AMEND_ENCRYPTED)
}

const AMEND_LUKS: [&str; 15] = [
    "state=active,new-secret=s2,iter-time=10",
    "state=active,new-secret=s2,iter-time=10,keyslot=3",
    "state=active,new-secret=s2,iter-time=10,keyslot=0",
    "state=active,new-secret=s2,iter-time=10,keyslot=8",
    "state=active,new-secret=s2,old-secret=s2,iter-time=10",
    "state=active,iter-time=10",
    "state=active,new-secret=nope,iter-time=10",
    "state=inactive,old-secret=s2",
    "state=inactive,old-secret=s",
    "state=inactive,keyslot=0",
    "state=inactive,keyslot=3",
    "state=inactive",
    "state=bogus",
    "new-secret=s2",
    "size=1M",
];

const AMEND_ENCRYPTED: [&str; 8] = [
    "encrypt.state=active,encrypt.new-secret=s2,encrypt.iter-time=10",
    "encrypt.state=active,encrypt.new-secret=s2,encrypt.iter-time=10,encrypt.keyslot=2",
    "encrypt.state=active,encrypt.new-secret=s2,encrypt.iter-time=10,encrypt.keyslot=0",
    "encrypt.state=inactive,encrypt.keyslot=0",
    "encrypt.state=inactive,encrypt.old-secret=s2",
    "encrypt.state=bogus",
    "encrypt.format=luks",
    "size=2M",
];

const AMEND_QCOW2: [&str; 40] = [
    "compat=0.10",
    "compat=1.1",
    "compat=v2",
    "compat=bogus",
    "compat=v3,refcount_bits=32",
    "compat=v2,lazy_refcounts=on",
    "compat=v2 -o lazy_refcounts=on",
    "compat=0.10,size=2M",
    "lazy_refcounts=on",
    "lazy_refcounts=off",
    "refcount_bits=1",
    "refcount_bits=2",
    "refcount_bits=4",
    "refcount_bits=5",
    "refcount_bits=8",
    "refcount_bits=16",
    "refcount_bits=64",
    "refcount_bits=bogus",
    "size=3M",
    "size=100k",
    "size=0",
    "size=700k",
    "size=1000",
    "backing_file=a.raw",
    "backing_file=a.raw,backing_fmt=raw",
    "backing_file=b.qcow2,backing_fmt=qcow2",
    "backing_file=nope,backing_fmt=raw",
    "backing_file=",
    "backing_fmt=raw",
    "data_file=e.data",
    "data_file=d.raw",
    "data_file_raw=on",
    "data_file_raw=off",
    "cluster_size=4k",
    "cluster_size=64k",
    "bogus=1",
    "encryption=on",
    "compression_type=zstd",
    "extended_l2=on",
    "preallocation=full",
];
