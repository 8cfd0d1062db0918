//! Whether the files of the two sides hold the same.
//!
//! Files may differ in bytes where what the images say is the same: two sides put clusters elsewhere and salt keys
//! differently. What they say is read by the real tool.

use super::zoo::names;
use crate::{Pair, Ran, Whose};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Larger files, in bytes, are not read but compared by the tool, which knows about holes.
const LARGE: u64 = 32 << 20;

/// The passphrases that files may have.
const PASSPHRASES: [&str; 2] = ["abc", "def"];

/// What a file is, by what it begins with: names say little after a random line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Raw,
    Luks,
    Qcow { format: &'static str, encrypted: bool },
}

impl Kind {
    fn of(path: &Path) -> Self {
        let mut head = [0; 40];
        let read = File::open(path).and_then(|file| file.read_at(&mut head, 0));
        let encrypted = |at: usize| head[at..at + 4] != [0; 4];
        match (&head[..4], head[7]) {
            _ if read.is_err() => Kind::Raw,
            (b"QFI\xfb", 1) => Kind::Qcow { format: "qcow", encrypted: encrypted(36) },
            (b"QFI\xfb", _) => Kind::Qcow { format: "qcow2", encrypted: encrypted(32) },
            (b"LUKS", _) => Kind::Luks,
            _ => Kind::Raw,
        }
    }

    /// The options that open it with the secret `s`.
    fn node(self, path: &Path) -> String {
        let path = path.display();
        match self {
            Kind::Raw => format!("driver=raw,file.filename={path}"),
            Kind::Luks => format!("driver=luks,key-secret=s,file.filename={path}"),
            Kind::Qcow { format, encrypted } => {
                let key = if encrypted { ",encrypt.key-secret=s" } else { "" };
                format!("driver={format}{key},file.filename={path}")
            }
        }
    }
}

/// What differs in the files but those whose names are `left_out`, if anything does.
pub(super) fn differ(pair: &Pair, left_out: &dyn Fn(&str) -> bool) -> Option<String> {
    let dirs = [Whose::Ours, Whose::Real].map(|whose| pair.dir(whose));
    let [mine, theirs] = dirs.map(|dir| {
        let names = names(dir);
        names.into_iter().filter(|name| !left_out(name)).collect::<Vec<_>>()
    });
    if mine != theirs {
        return Some(format!("files: {mine:?}, not {theirs:?}"));
    }
    // Where things are in an external data file is the image's business, and compared through it.
    let compared = mine.iter().filter(|name| !name.ends_with(".data"));
    compared.into_iter().find_map(|name| file_differs(name, &dirs.map(|dir| dir.join(name))))
}

fn file_differs(name: &str, paths: &[PathBuf; 2]) -> Option<String> {
    let [mine, theirs] = [&paths[0], &paths[1]].map(|path| fs::metadata(path).map_or(0, |m| m.len()));
    let large = mine.max(theirs) > LARGE;
    if !large && fs::read(&paths[0]).ok() == fs::read(&paths[1]).ok() {
        return None;
    }
    let [kind, other] = [&paths[0], &paths[1]].map(|path| Kind::of(path));
    if kind != other {
        return Some(format!("kind of {name}: {kind:?}, not {other:?}"));
    }
    if kind == Kind::Raw && (!large || mine != theirs) {
        return Some(format!("contents of {name}: {mine} bytes here, {theirs} there"));
    }
    images_differ(kind, paths).map(|what| format!("contents of {name}: {what}"))
}

/// What the real tool finds different, with the first passphrase that opens them. What neither side's can be opened with
/// is no difference.
fn images_differ(kind: Kind, paths: &[PathBuf; 2]) -> Option<String> {
    let nodes = [&paths[0], &paths[1]].map(|path| kind.node(path));
    for passphrase in PASSPHRASES {
        let ran = ask("compare", passphrase, &nodes);
        // Information is given without the key.
        let opens = |node: &String| ask("compare", passphrase, &[node.clone(), node.clone()]).code == Some(0);
        match ran.code {
            Some(0) => return check_differs(kind, &nodes),
            Some(2) if !nodes.iter().any(opens) => {}
            _ => return Some(format!("compare says {ran}")),
        }
    }
    None
}

/// What the real tool's check finds in our image and not in the other.
fn check_differs(kind: Kind, nodes: &[String; 2]) -> Option<String> {
    if !matches!(kind, Kind::Qcow { format: "qcow2", .. }) {
        return None;
    }
    let [ours, real] = [0, 1].map(|n| ask("check", PASSPHRASES[0], &nodes[n..=n]));
    (ours.code != Some(0) && ours.code != real.code).then(|| format!("check says {ours}, not {real}"))
}

fn ask(command: &str, passphrase: &str, nodes: &[String]) -> Ran {
    let mut program = Whose::Real.command("qemu-img");
    let secret = format!("secret,id=s,data={passphrase}");
    Ran::of(program.args([command, "-q", "-U", "--object", &secret, "--image-opts"]).args(nodes))
}
