//! The other spellings of options: long names, values behind `=`, short options in one word, operands first.

use super::often;
use crate::random::Random;

const QUIET: (&str, &str) = ("-q", "--quiet");
const PROGRESS: (&str, &str) = ("-p", "--progress");
const FORMAT: (&str, &str) = ("-f", "--format");
const SHARE: (&str, &str) = ("-U", "--force-share");
const CACHE: (&str, &str) = ("-t", "--cache");

/// The long names of a command's options, where the real tool has them.
fn long_names(command: &str) -> &'static [(&'static str, &'static str)] {
    match command {
        "amend" => &[QUIET, PROGRESS, FORMAT, CACHE, ("-o", "--options")],
        "bench" => &[
            FORMAT,
            SHARE,
            CACHE,
            ("-c", "--count"),
            ("-d", "--depth"),
            ("-o", "--offset"),
            ("-s", "--buffer-size"),
            ("-S", "--step-size"),
            ("-i", "--aio"),
            ("-n", "--native"),
            ("-w", "--write"),
        ],
        "bitmap" => &[("-g", "--granularity"), ("-b", "--source-file"), ("-F", "--source-format")],
        "check" => &[QUIET, FORMAT, SHARE, ("-T", "--cache"), ("-r", "--repair")],
        "commit" => &[QUIET, PROGRESS, FORMAT, CACHE, ("-d", "--drop"), ("-b", "--base"), ("-r", "--rate")],
        "compare" => &[
            QUIET,
            PROGRESS,
            SHARE,
            ("-f", "--a-format"),
            ("-F", "--b-format"),
            ("-s", "--strict"),
            ("-T", "--cache"),
        ],
        "convert" => &[
            QUIET,
            SHARE,
            ("-f", "--source-format"),
            ("-T", "--source-cache"),
            ("-B", "--backing"),
            ("-F", "--backing-format"),
            ("-S", "--sparse-size"),
            ("-r", "--rate"),
            ("-m", "--parallel"),
            ("-C", "--copy-range-offloading"),
            ("-W", "--oob-writes"),
        ],
        "create" => &[
            QUIET,
            FORMAT,
            ("-o", "--options"),
            ("-b", "--backing"),
            ("-F", "--backing-format"),
            ("-u", "--backing-unsafe"),
        ],
        "dd" => &[FORMAT, SHARE, ("-O", "--output-format")],
        "info" => &[FORMAT, SHARE],
        "map" => &[FORMAT, SHARE, ("-s", "--start-offset"), ("-l", "--max-length")],
        "measure" => &[FORMAT, SHARE, ("-O", "--target-format"), ("-l", "--snapshot")],
        "rebase" => &[
            QUIET,
            PROGRESS,
            FORMAT,
            SHARE,
            CACHE,
            ("-b", "--backing"),
            ("-F", "--backing-format"),
            ("-T", "--backing-cache"),
            ("-u", "--backing-unsafe"),
            ("-c", "--compress"),
        ],
        "resize" => &[QUIET, FORMAT],
        // --create, --apply and --delete take no value in the real tool.
        "snapshot" => &[QUIET, FORMAT, SHARE, ("-l", "--list")],
        _ => &[],
    }
}

/// The long names of the options of `qemu-io`.
const IO_NAMES: [(&str, &str); 13] = [
    ("-c", "--cmd"),
    ("-f", "--format"),
    ("-r", "--read-only"),
    ("-s", "--snapshot"),
    ("-n", "--nocache"),
    ("-C", "--copy-on-read"),
    ("-m", "--misalign"),
    ("-k", "--native-aio"),
    ("-i", "--aio"),
    ("-t", "--cache"),
    ("-d", "--discard"),
    ("-U", "--force-share"),
    ("-T", "--trace"),
];

/// A line with some of its options spelt in another way.
pub(super) fn respelt(r: &mut Random, line: &str) -> String {
    let (program, rest) = line.split_once(' ').unwrap_or((line, ""));
    let (command, rest) =
        if program == "qemu-img" { rest.split_once(' ').unwrap_or((rest, "")) } else { ("", rest) };
    let names = if program == "qemu-img" { long_names(command) } else { &IO_NAMES };
    let mut words = Vec::new();
    let mut quoted = false;
    for word in rest.split_whitespace() {
        let long = names.iter().find(|(short, _)| *short == word && !quoted && often(r, 1, 6));
        words.push(long.map_or(word, |(_, long)| long));
        quoted ^= word.matches('\'').count() % 2 == 1;
    }
    [program, command].into_iter().chain(words).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}
