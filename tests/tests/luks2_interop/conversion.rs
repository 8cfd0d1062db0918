//! One command each between raw, LUKS1, LUKS2 and qcow2 with LUKS inside, whatever is first and whatever is second; the
//! secrets of both by name. What comes out is read by cryptsetup or the real qemu-img.

use crate::{BYTES, cryptsetup};
use tests::Whose::{Ours, Real};
use tests::luks::Bench;

/// What an image can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Raw,
    Luks1,
    Luks2,
    Qcow2,
}
use Form::{Luks1, Luks2, Qcow2, Raw};

const SECRETS: &str = "--object secret,id=first,file=pw --object secret,id=second,file=two";

impl Form {
    /// How an image is opened with a secret.
    fn image(self, name: &str, secret: &str) -> String {
        match self {
            Raw => format!("driver=raw,file.filename={name}"),
            Luks1 | Luks2 => format!("driver=luks,file.filename={name},key-secret={secret}"),
            Qcow2 => format!("driver=qcow2,file.filename={name},encrypt.key-secret={secret}"),
        }
    }

    /// What `convert` is told about a target.
    fn target(self, secret: &str) -> String {
        match self {
            Raw => "-O raw".to_owned(),
            Luks1 => format!("-O luks -o key-secret={secret},iter-time=1"),
            Luks2 => {
                format!("-O luks -o version=2,key-secret={secret},pbkdf=pbkdf2,pbkdf-iterations=1000")
            }
            Qcow2 => {
                format!("-O qcow2 -o encrypt.format=luks,encrypt.key-secret={secret},encrypt.iter-time=1")
            }
        }
    }

    fn encryption(self) -> &'static str {
        match self {
            Raw => "no",
            Luks1 | Qcow2 => "luks1",
            Luks2 => "luks2",
        }
    }

    /// Makes an image of this name with the payload and the secret `first`, by the tool that this form is from.
    fn make(self, bench: &Bench, name: &str) {
        match self {
            Raw => drop(std::fs::copy(bench.path("src.raw"), bench.path(name)).unwrap()),
            Luks2 => {
                bench.truncate(name, (BYTES + crate::HEADER) as u64);
                let format = "luksFormat -q --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000";
                cryptsetup(bench, &format!("{format} --key-file pw {name}"));
                let image = self.image(name, "first");
                let fill = format!("convert -n -f raw {SECRETS} --target-image-opts src.raw {image}");
                bench.ok(Ours, &format!("qemu-img {fill}"));
            }
            Luks1 | Qcow2 => {
                let target = self.target("first");
                bench.ok(Real, &format!("qemu-img convert {SECRETS} -f raw {target} src.raw {name}"));
            }
        }
    }

    /// Whether the tool that this form is from reads the payload from `b` with the secret `second`.
    fn is_read_by_the_real_tool(self, bench: &Bench) -> bool {
        let opens = |key: &str| {
            bench.cryptsetup(&format!("open --test-passphrase --key-file {key} b")).code == Some(0)
        };
        if matches!(self, Luks1 | Luks2) && (!opens("two") || opens("pw")) {
            return false;
        }
        if self == Luks2 {
            let line = "reencrypt -q --decrypt --force-offline-reencrypt --header exported --key-file two b";
            cryptsetup(bench, line);
            return bench.bytes("b")[..BYTES] == bench.bytes("src.raw");
        }
        let image = self.image("b", "second");
        bench.ok(Real, &format!("qemu-img convert {SECRETS} --image-opts -O raw {image} back"));
        bench.bytes("back") == bench.bytes("src.raw")
    }
}

#[test]
fn one_command_converts_between_any_two_of_raw_luks1_luks2_and_encrypted_qcow2() {
    let bench = Bench::with_payload(BYTES);
    bench.write("two", b"second");
    // Zeroes, which are holes in some of these and must not be in others.
    let mut payload = bench.bytes("src.raw");
    payload[131_072..262_144].fill(0);
    bench.write("src.raw", &payload);
    for from in [Raw, Luks1, Luks2, Qcow2] {
        from.make(&bench, "a");
        let source = from.image("a", "first");
        for to in [Raw, Luks1, Luks2, Qcow2] {
            let pair = format!("{from:?} to {to:?}");
            let (target, image) = (to.target("second"), to.image("b", "second"));
            bench.ok(Ours, &format!("qemu-img convert {SECRETS} --image-opts {target} {source} b"));
            if to != Raw {
                bench.ok(Ours, &format!("qemu-img info --assert encrypted={} b", to.encryption()));
            }
            let compare =
                bench.ok(Ours, &format!("qemu-img compare {SECRETS} --image-opts {source} {image}"));
            assert_eq!(compare, "Images are identical.\n", "{pair}");
            assert!(to.is_read_by_the_real_tool(&bench), "{pair}");
            for name in ["b", "exported"] {
                let _ = std::fs::remove_file(bench.path(name));
            }
        }
        std::fs::remove_file(bench.path("a")).unwrap();
    }
}
