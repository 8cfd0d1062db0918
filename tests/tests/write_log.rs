//! `blklogwrites` next to the real one: the same commands must leave the same image and the same log.

#![forbid(unsafe_code)]

use tests::{Pair, Whose};

/// A raw image of 1 MiB, and an empty log.
fn with_log() -> Pair {
    let pair = Pair::new();
    let bytes: Vec<u8> = (0..1_048_576u32).map(|i| (i ^ (i >> 8)) as u8).collect();
    pair.write("image", &bytes);
    pair.write("log", b"");
    pair
}

/// A run of `qemu-io` on the filter with these options of its own.
fn line(options: &str, words: &str, commands: &str) -> String {
    let commands: Vec<_> = commands.split(" | ").map(|command| format!("-c '{command}'")).collect();
    format!(
        "qemu-io {words} --image-opts driver=blklogwrites,file.driver=raw,file.file.driver=file,file.file.filename=image,\
         log.driver=file,log.filename=log{options} {}",
        commands.join(" ")
    )
}

/// Runs the lines one after the other on both sides. What they say must be the same, and so must image and log.
fn check(lines: &[String]) -> Pair {
    let pair = with_log();
    for line in lines {
        let [ours, real] = pair.run(line);
        let said = |ran: &tests::Ran| ran.stdout.matches(" bytes at offset ").count();
        assert_eq!((ours.code, &ours.stderr, said(&ours)), (real.code, &real.stderr, said(&real)), "{line}");
    }
    for name in ["image", "log"] {
        let [ours, real] = [Whose::Ours, Whose::Real].map(|whose| bytes(&pair, whose, name));
        let (a, b) = (ours.len(), real.len());
        assert_eq!(a, b, "{name} after {lines:?}");
        let first = ours.iter().zip(&real).position(|(a, b)| a != b);
        assert_eq!(first, None, "{name} differs after {lines:?}");
    }
    pair
}

fn bytes(pair: &Pair, whose: Whose, name: &str) -> Vec<u8> {
    std::fs::read(pair.dir(whose).join(name)).expect("the file is there")
}

#[test]
fn every_operation_is_logged_as_the_real_filter_does() {
    let commands = "write -P 1 0 4k | write -P 2 100 300 | writev -P 3 8k 1k 2k | aio_write -P 4 16k 4k | aio_flush | flush | \
                    flush | write -z 32k 4k | write -z 33k 100 | write -zu 64k 64k | discard 128k 64k | read 0 64k | flush | \
                    write -P 5 0 1M";
    for options in ["", ",log-sector-size=4096", ",log-sector-size=32", ",log-super-update-interval=2"] {
        check(&[line(options, "-t writeback", commands)]);
    }
}

#[test]
fn a_log_is_continued_where_it_ends() {
    let first = |options| line(options, "-t writeback", "write -P 1 0 8k | discard 64k 64k | write -z 8k 8k");
    let more = line(",log-append=on", "-t writeback", "write -P 2 16k 4k | flush | discard 0 64k");
    for options in ["", ",log-sector-size=4096"] {
        check(&[first(options), more.clone(), more.clone(), line(",log-append=on", "", "read 0 4k")]);
    }
    check(std::slice::from_ref(&more));
    // Begun anew, it is as long as before.
    check(&[first(""), line("", "-t writeback", "write 0 4k")]);
}

#[test]
fn what_cannot_be_logged_is_refused_in_the_same_words() {
    for options in [
        ",log-sector-size=0",
        ",log-sector-size=16",
        ",log-sector-size=1000",
        ",log-sector-size=16M",
        ",log-append=on,log-sector-size=512",
        ",log-super-update-interval=0",
        ",log-sector-size=8M",
    ] {
        check(&[line(options, "", "write 0 4k")]);
    }
    check(&[line("", "-r", "read 0 4k")]);
}

/// The real one puts the flush of such a write behind the next write.
#[test]
fn a_write_that_is_to_last_is_followed_by_a_flush() {
    let pair = with_log();
    let line = line("", "-t writeback", "write -f 0 512 | write 512 512");
    Whose::Ours.run(pair.dir(Whose::Ours), &line).ok();
    let log = bytes(&pair, Whose::Ours, "log");
    let entry = |sector: usize| (log[sector * 512 + 8], log[sector * 512 + 16]);
    // Number of sectors, and 1 for a flush.
    assert_eq!([entry(1), entry(3), entry(4), entry(6)], [(1, 0), (0, 1), (1, 0), (0, 1)]);
}
