//! Command lines of `qemu-img` and `qemu-io`, most of them sensible, some not.

mod copies;
mod images;
mod img;
mod io;
mod options;
mod spelling;

use crate::random::Random;

use images::node;

/// Files that commands make, some of which are there already.
const TARGETS: [&str; 12] = [
    "n.raw",
    "n.raw",
    "n.qcow2",
    "n.qcow2",
    "n.qcow2",
    "m.qcow2",
    "m.qcow2",
    "m.qcow2",
    "n.qcow",
    "n.luks",
    "a.raw",
    "no/dir.raw",
];

/// Files that `convert -n` copies into.
const WRITTEN: [&str; 5] = ["h.raw", "t.qcow2", "k.qcow2", "l.luks", "nope.raw"];

const SIZES: [&str; 22] = [
    "0",
    "1",
    "512",
    "1000",
    "4k",
    "64k",
    "100000",
    "1M",
    "1.5M",
    "3M",
    "0x1000",
    "abc",
    "1kk",
    "-1",
    "9E",
    "1.3k",
    "2097152",
    "1048577",
    "0.5M",
    "17179869184G",
    "4096b",
    "20M",
];
const OFFSETS: [&str; 16] = [
    "0", "1", "511", "512", "4k", "65000", "64k", "128k", "300k", "700k", "1M", "2M", "6k", "1023k",
    "1048064", "0x10000",
];
const LENGTHS: [&str; 14] =
    ["0", "1", "512", "513", "4k", "64k", "100k", "300k", "1M", "3G", "2k", "192k", "65024", "2147483137"];
const CACHES: [&str; 8] = ["none", "off", "writeback", "writethrough", "directsync", "unsafe", "bogus", "''"];

/// The objects that lines with secrets need: the key of all files, and another one.
const SECRETS: &str = "--object secret,id=s,data=abc --object secret,id=s2,data=def";

/// A random command line. What follows `<<<` is for its standard input, with `;` where lines end.
pub(super) fn line(r: &mut Random) -> String {
    let loose = if often(r, 1, 3) { io::line(r) } else { img::line(r) };
    // Options that were not chosen leave no blanks.
    spelling::respelt(r, &loose)
}

/// Whether something happens that happens `n` times in `of`.
fn often(r: &mut Random, n: u64, of: u64) -> bool {
    r.below(of) < n
}

/// `text`, one time in `n`.
fn maybe<'a>(r: &mut Random, n: u64, text: &'a str) -> &'a str {
    if often(r, 1, n) { text } else { "" }
}

/// Some of the choices: mostly none or one, now and then two.
fn some(r: &mut Random, choices: &[&str]) -> String {
    match r.below(5) {
        0 | 1 => String::new(),
        2 | 3 => (*r.pick(choices)).to_owned(),
        _ => {
            // Of an option that is given twice, the first value may be a bad one: the real tool looks at it all the same.
            let (one, other) = (*r.pick(choices), *r.pick(choices));
            if options_in(one).any(|option| options_in(other).any(|again| again == option)) {
                return one.to_owned();
            }
            format!("{one} {other}")
        }
    }
}

/// The options in a text, without their values.
fn options_in(text: &str) -> impl Iterator<Item = &str> {
    text.split([' ', '=']).filter(|word| word.starts_with('-'))
}

#[cfg(test)]
mod tests {
    use super::line;
    use crate::random::Random;
    use std::collections::BTreeSet;

    /// The commands of `qemu-img` and their options; the last is what a bad value of one looks like.
    const IMG: [(&str, &str); 16] = [
        (
            "amend",
            "--object --image-opts -p -q -f -t -o --force --quiet --progress --format --cache --options",
        ),
        (
            "bench",
            "-f -q -t -U -c -d -s -S -o -w --pattern --flush-interval --no-drain -i -n --write --count",
        ),
        ("bitmap", "--object --image-opts -f --add --remove --clear --enable --disable --merge -g -b -F"),
        ("check", "--object --image-opts -f -q -T -U -r --repair --output=json --output=bogus"),
        ("commit", "-f -p -q -t -b -d -r --image-opts --drop --base --rate"),
        ("compare", "--object --image-opts -p -q -T -U -f -F -s --a-format --b-format --strict"),
        (
            "convert",
            "--object --image-opts --target-image-opts -f -p -q -t -T -U -O -o -c -B -F -l -S -n --target-is-zero -m -W \
             -C -r --salvage --bitmaps --skip-broken-bitmaps --source-format --parallel --sparse-size",
        ),
        ("create", "--object -q -f -o -b -F -u --options --backing --backing-unsafe"),
        ("dd", "--object --image-opts -f -U -O --output-format"),
        ("info", "--object --image-opts -f -U --output=json --output=human --backing-chain --format"),
        ("map", "--object --image-opts -f -U --output=json -s -l --start-offset --max-length"),
        ("measure", "--object --image-opts -f -U --output=json -O -o --size -l --target-format"),
        ("rebase", "--image-opts -f -p -q -t -T -U -b -F -u -c --backing --backing-format --compress"),
        ("resize", "--object --image-opts -f -q --preallocation=full --preallocation=x --shrink"),
        ("snapshot", "--image-opts -f -q -U -l -c -a -d --list --format"),
        ("dd", "if=a.raw of=n.raw bs=1000 count=x skip=1"),
    ];

    /// The options of `qemu-io` and its commands, each with its own.
    const IO: &str = "--object --image-opts -c -f -r -s -n -C -m -k -i -t -d -T -U --cmd --cache <<<";
    const IO_COMMANDS: [(&str, &str); 38] = [
        ("read", "-b -C -P -s -l -q -r -v -p"),
        ("readv", "-C -q -r -v -P"),
        ("write", "-b -c -C -f -n -P -s -q -r -u -z -p"),
        ("writev", "-C -f -q -r -P"),
        ("aio_read", "-C -i -P -q -r -v"),
        ("aio_write", "-C -f -i -P -q -r -u -z"),
        ("aio_flush", ""),
        ("flush", ""),
        ("discard", "-C -q"),
        ("truncate", "-m"),
        ("length", ""),
        ("info", ""),
        ("alloc", ""),
        ("map", ""),
        ("open", "-r -s -C -n -U -k -i -t -d -o"),
        ("close", ""),
        ("reopen", "-r -w -c -o"),
        ("break", ""),
        ("remove_break", ""),
        ("resume", ""),
        ("wait_break", ""),
        ("sleep", ""),
        ("abort", ""),
        ("sigraise", ""),
        ("quit", ""),
        ("zone_report", ""),
        ("zone_open", ""),
        ("zone_close", ""),
        ("zone_finish", ""),
        ("zone_reset", ""),
        ("zone_append", ""),
        ("zap", "-p"),
        ("r", ""),
        ("w", ""),
        ("d", ""),
        ("a", ""),
        ("o", ""),
        ("c", ""),
    ];

    /// The words that come after `command` in the lines of `qemu-img`, or in the commands of `qemu-io`.
    fn words_of(parts: &[Vec<String>], command: &str) -> BTreeSet<String> {
        let of = parts.iter().filter(|words| words.first().is_some_and(|word| word == command));
        of.flatten().cloned().collect()
    }

    fn split(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn every_command_and_option_comes_up() {
        let lines: Vec<String> = (0..20_000).map(|seed| line(&mut Random::new(seed))).collect();
        let img: Vec<_> = lines.iter().filter_map(|line| line.strip_prefix("qemu-img ")).map(split).collect();
        let io = lines.iter().filter_map(|line| line.strip_prefix("qemu-io ")).collect::<Vec<_>>();
        let programs: Vec<_> = io.iter().map(|line| split(&format!("qemu-io {line}"))).collect();
        let commands: Vec<_> = io.iter().flat_map(|line| line.split(['\'', ';'])).map(split).collect();
        let tables = [(&img, &IMG[..]), (&programs, &[("qemu-io", IO)]), (&commands, &IO_COMMANDS)];
        let mut missing = Vec::new();
        for (parts, table) in tables {
            for (command, options) in table {
                let seen = words_of(parts, command);
                let wanted = options.split_whitespace().chain([*command]);
                missing.extend(
                    wanted.filter(|word| !seen.contains(*word)).map(|word| format!("{command} {word}")),
                );
            }
        }
        assert!(missing.is_empty(), "{missing:?}");
    }
}
