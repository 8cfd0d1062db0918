//! `-T`: what it refuses and warns of is as in the real tools; what it tells is our own.

#![forbid(unsafe_code)]

use tests::{Pair, Ran, Whose};

fn with_image() -> Pair {
    let pair = Pair::new();
    pair.write("a.raw", &[0; 65536]);
    pair.write("names", b"# what nobody knows\n\nnosuch\n-nosuch\nno*such\n");
    pair
}

/// A run of our program in its directory.
fn run(pair: &Pair, line: &str) -> Ran {
    Whose::Ours.run(pair.dir(Whose::Ours), line)
}

#[test]
fn what_cannot_be_traced_is_told_in_the_same_words() {
    let pair = with_image();
    for spec in
        ["nosuch", "enable=nosuch", "-nosuch", "''", "no*such", "enable=a,enable=b", "events=names", "a,,b"]
    {
        for line in [format!("qemu-img -T {spec} info a.raw"), format!("qemu-io -T {spec} -c quit")] {
            let [ours, real] = pair.run(&line);
            assert_eq!(ours, real, "{line}");
        }
    }
    for spec in ["foo=1", "file=/nonexistent/log", "nosuch*,file="] {
        for line in [
            format!("qemu-img -T {spec} info a.raw"),
            format!("qemu-nbd -T {spec} a.raw"),
            format!("qemu-io -T {spec} -c quit"),
        ] {
            let [ours, real] = pair.run(&line);
            assert_eq!(ours, real, "{line}");
        }
    }
    let [ours, real] = pair.run("qemu-img -T events=/nonexistent info a.raw");
    assert_eq!(ours.code, real.code);
    assert!(ours.stderr.contains("/nonexistent: No such file or directory"), "{ours}");
}

#[test]
fn the_events_are_listed_instead_of_anything_else() {
    let pair = with_image();
    for line in ["qemu-img -T help", "qemu-io -T '?' nosuch", "qemu-nbd --trace enable=help -c nosuch"] {
        let events = run(&pair, line).ok();
        assert!(events.lines().any(|event| event == "node_write"), "{line}: {events}");
    }
}

#[test]
fn a_line_tells_of_each_request_and_what_became_of_it() {
    let pair = with_image();
    let ran = run(&pair, "qemu-io -T node_write -f raw a.raw -c 'write 4k 512' -c 'read 0 512'");
    let lines: Vec<_> =
        ran.stderr.lines().map(|line| line.split_once(" driver ").expect("a driver").1).collect();
    assert_eq!(lines, ["file offset 4096 bytes 512: ok", "raw offset 4096 bytes 512: ok"]);

    let image = "driver=blkdebug,image.filename=a.raw,inject-error.event=none,inject-error.iotype=read";
    let ran = run(&pair, &format!("qemu-io -T *read,file=log --image-opts {image} -c 'read 0 512'"));
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(1), ""));
    let log = std::fs::read_to_string(pair.dir(Whose::Ours).join("log")).expect("the log was made");
    assert!(log.ends_with(" driver blkdebug offset 0 bytes 512: Input/output error\n"), "{log}");
}
