//! The ways of giving a secret that QEMU's documentation describes, as typed there, and what must not leak.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tests::{Ran, Whose};

const PASSWORD: &str = "letmein";

/// A directory with `disk.luks`, made by the real tool and opened by [`PASSWORD`].
fn image() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    Whose::Real
        .run(
            dir.path(),
            &format!(
                "qemu-img create -q -f luks --object secret,id=s,data={PASSWORD} \
                 -o key-secret=s,iter-time=10 disk.luks 1M"
            ),
        )
        .ok();
    dir
}

/// Opens the image of [`image`] with the objects of `line`, of which `sec0` is the password. `$(…)`, `$NAME` and
/// redirections are the shell's, as in the documentation.
fn open(whose: Whose, dir: &Path, setup: &str, objects: &str) -> Ran {
    let program = whose.command("qemu-img");
    let script = format!(
        "{setup}\n\"$IMG\" convert {objects} --image-opts driver=luks,key-secret=sec0,file.filename=disk.luks -O raw out.raw"
    );
    Ran::of(
        Command::new("bash")
            .args(["-ec", &script])
            .env("IMG", program.get_program())
            .current_dir(dir)
            .stdin(Stdio::null()),
    )
}

const MASTER_KEY: &str = r#"
openssl rand -base64 32 > key.b64
KEY=$(base64 -d key.b64 | hexdump -v -e '/1 "%02X"')
openssl rand -base64 16 > iv.b64
IV=$(base64 -d iv.b64 | hexdump -v -e '/1 "%02X"')
SECRET=$(printf letmein | openssl enc -aes-256-cbc -a -K $KEY -iv $IV)
"#;

#[test]
fn every_recipe_of_the_documentation_opens_the_image() {
    let dir = image();
    let recipes = [
        ("", "--object secret,id=sec0,data=letmein".to_owned()),
        ("printf letmein > pw.txt", "--object secret,id=sec0,file=pw.txt".to_owned()),
        ("printf letmein > pw.txt", "--object secret,id=sec0,file=/dev/fd/7 7< pw.txt".to_owned()),
        ("", "--object secret,id=sec0,file=/dev/stdin < <(printf letmein)".to_owned()),
        ("", "--object secret,id=sec0,data=bGV0bWVpbg==,format=base64".to_owned()),
        ("printf bGV0bWVpbg== > pw.b64", "--object secret,id=sec0,file=pw.b64,format=base64".to_owned()),
        ("", r#"--object '{"qom-type": "secret", "id": "sec0", "data": "letmein"}'"#.to_owned()),
        (
            MASTER_KEY,
            "--object secret,id=secmaster0,format=base64,file=key.b64 \
             --object secret,id=sec0,keyid=secmaster0,format=base64,data=$SECRET,iv=$(<iv.b64)"
                .to_owned(),
        ),
    ];
    for (setup, objects) in recipes {
        for whose in [Whose::Real, Whose::Ours] {
            let ran = open(whose, dir.path(), setup, &objects);
            assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{whose:?}: {objects}");
        }
    }
}

#[test]
fn a_secret_may_be_a_credential_what_a_program_prints_or_a_part_of_a_file() {
    let dir = image();
    for (setup, objects) in [
        (
            "mkdir creds; printf letmein > creds/disk; export CREDENTIALS_DIRECTORY=$PWD/creds",
            "--object secret,id=sec0,credential=disk",
        ),
        ("", "--object secret,id=sec0,cmd.0=printf,cmd.1=%s,cmd.2=letmein"),
        ("", r#"--object '{"qom-type": "secret", "id": "sec0", "cmd": ["printf", "%s", "letmein"]}'"#),
        ("printf '0123letmein\\n' > keys", "--object secret,id=sec0,file=keys,offset=4,size=7"),
    ] {
        let ran = open(Whose::Ours, dir.path(), setup, objects);
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{objects}");
    }
    for (setup, objects, says) in [
        ("", "credential=disk", "There are no credentials"),
        ("export CREDENTIALS_DIRECTORY=/nowhere", "credential=disk", "Could not open the credential 'disk'"),
        ("", "cmd.0=false", "The program 'false' gave no secret"),
        ("", "data=x,offset=1", "'offset' and 'size' are of a 'file'"),
        ("", "data=x,cmd.0=true", "mutually exclusive"),
    ] {
        let ran = open(Whose::Ours, dir.path(), setup, &format!("--object secret,id=sec0,{objects}"));
        assert!(ran.code == Some(1) && ran.stderr.contains(says), "{objects}: {ran}");
    }
}

#[test]
fn a_key_may_itself_be_encrypted_with_another_key() {
    let dir = image();
    let setup = r#"
        openssl rand -base64 32 > outer.b64
        openssl rand 32 > inner
        openssl rand -base64 16 > iv1.b64
        openssl rand -base64 16 > iv2.b64
        hex() { hexdump -v -e '/1 "%02X"'; }
        INNER=$(openssl enc -aes-256-cbc -a -A -K $(base64 -d outer.b64 | hex) -iv $(base64 -d iv1.b64 | hex) < inner)
        SECRET=$(printf letmein | openssl enc -aes-256-cbc -a -A -K $(hex < inner) -iv $(base64 -d iv2.b64 | hex))
    "#;
    let objects = "--object secret,id=outer,format=base64,file=outer.b64 \
                   --object secret,id=inner,keyid=outer,format=base64,data=$INNER,iv=$(<iv1.b64) \
                   --object secret,id=sec0,keyid=inner,format=base64,data=$SECRET,iv=$(<iv2.b64)";
    for whose in [Whose::Real, Whose::Ours] {
        let ran = open(whose, dir.path(), setup, objects);
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{whose:?}");
    }
}

#[test]
fn what_is_wrong_with_an_object_is_said_as_the_real_tool_says_it() {
    let dir = image();
    for objects in [
        "--object secret,id=sec0,data=letmein,file=x",
        "--object secret,id=sec0",
        "--object secret,id=sec0,file=missing",
        "--object secret,id=sec0,data=%%%,format=base64",
        "--object secret,id=sec0,data=x,keyid=nobody,iv=AAAA",
        "--object secret,id=sec0,data=x,keyid=sec0,iv=AAAA",
        "--object secret,id=k,data=short --object secret,id=sec0,data=x,keyid=k,iv=AAAA",
        "--object secret,id=sec0,data=letmein --object secret,id=sec0,data=letmein",
        "--object secret,id=other,data=letmein",
        "--object secret,data=letmein",
        "--object nonsense,id=sec0",
        "--object secret,id=sec0,data=wrong",
    ] {
        let [ours, real] = [Whose::Ours, Whose::Real].map(|whose| {
            let ran = open(whose, dir.path(), "", objects);
            let first = ran.stderr.lines().next().unwrap_or_default().to_owned();
            (ran.code, first.replace(&*tests::bin_dir().to_string_lossy(), ""))
        });
        let plain = |text: &str| text.split_once(": ").map(|(_, rest)| rest.to_owned());
        assert_eq!((ours.0, plain(&ours.1)), (real.0, plain(&real.1)), "{objects}");
    }
}

#[test]
fn a_newline_at_the_end_of_a_password_file_is_named_as_the_reason() {
    let dir = image();
    let ran = open(Whose::Ours, dir.path(), "echo letmein > pw.txt", "--object secret,id=sec0,file=pw.txt");
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("newline"), "{}", ran.stderr);
}

/// Whether `needle` stands anywhere in the files of `dir` whose names begin with `core`.
fn cores_hold(dir: &Path, needle: &[u8]) -> Option<bool> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let cores: Vec<_> = names
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("core")))
        .collect();
    let holds = |path: &std::path::PathBuf| {
        fs::read(path).unwrap().windows(needle.len()).any(|window| window == needle)
    };
    (!cores.is_empty()).then(|| cores.iter().any(holds))
}

/// Starts a slow conversion with core files allowed, kills it with SIGABRT in the middle, and returns where it ran.
fn aborted(whose: Whose) -> (TempDir, Vec<u8>) {
    let dir = image();
    Whose::Real.run(dir.path(), "qemu-img resize -q -f raw disk.luks +64M").ok();
    fs::write(dir.path().join("pw.txt"), PASSWORD).unwrap();
    let dump = "cryptsetup luksDump --batch-mode --disable-locks --key-file pw.txt --dump-volume-key \
                --volume-key-file vk disk.luks";
    let words = tests::words(dump);
    Ran::of(Command::new(&words[0]).args(&words[1..]).current_dir(dir.path())).ok();
    let key = fs::read(dir.path().join("vk")).unwrap();
    fs::remove_file(dir.path().join("vk")).unwrap();
    let script = format!(
        "ulimit -c unlimited; exec \"$IMG\" convert -r 2M --object secret,id=sec0,data={PASSWORD}-not \
         --object secret,id=sec1,file=pw.txt \
         --image-opts driver=luks,key-secret=sec1,file.filename=disk.luks -O raw out.raw"
    );
    let program = whose.command("qemu-img");
    let mut child = Command::new("bash")
        .args(["-ec", &script])
        .env("IMG", program.get_program())
        .current_dir(dir.path())
        .spawn()
        .unwrap();
    // Once the target exists the image has been unlocked.
    let start = Instant::now();
    while !dir.path().join("out.raw").exists() && start.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(300));
    let pid = child.id().to_string();
    Ran::of(Command::new("kill").args(["-ABRT", &pid])).ok();
    assert_eq!(child.wait().unwrap().signal(), Some(6), "ends by the signal it was sent");
    (dir, key)
}

#[test]
fn a_core_file_holds_neither_password_nor_volume_key() {
    let (dir, _) = aborted(Whose::Real);
    match cores_hold(dir.path(), PASSWORD.as_bytes()) {
        Some(found) => assert!(found, "the search must find what is there"),
        None => tests::not_run("this machine writes no core files beside the process"),
    }
    let (dir, key) = aborted(Whose::Ours);
    assert_eq!(key.len(), 64);
    for needle in [PASSWORD.as_bytes(), &key[..32], &key[32..]] {
        assert_ne!(cores_hold(dir.path(), needle), Some(true));
    }
}
