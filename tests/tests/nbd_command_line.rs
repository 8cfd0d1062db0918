//! `nbd-server` beside the real tool: what it refuses, in which words.

#![forbid(unsafe_code)]

use tests::Pair;

#[test]
fn options_that_make_no_sense_are_refused_alike() {
    let pair = Pair::new();
    pair.write("a.raw", &[0; 4096]);
    let lines = [
        "",
        "a b",
        "-p abc a.raw",
        "-k relative a.raw",
        "-e -1 a.raw",
        "-e x a.raw",
        "--handshake-limit x a.raw",
        "-f raw -o x a.raw",
        "-f raw -k /nonexistent/s -o 8192 a.raw",
        "-L a.raw",
        "-L --fork",
        "-L -x a",
        "-L -r",
        "-L -k /nonexistent/s",
        "-L -k relative",
        "-L -f raw",
        "-L -n",
        "-L --aio threads",
        "-L -B x",
        "-L -l x",
        "-L -c /dev/nbd-none",
        "-L -d /dev/nbd-none",
        "--aio native -k SOCKET a.raw",
        "-f raw nofile -k SOCKET",
        "-f foo a.raw -k SOCKET",
        "--image-opts -f raw a.raw",
        "--image-opts driver=raw,file.filename=nofile -k SOCKET",
        "--cache foo a.raw",
        "--cache none -n a.raw",
        "-n -n a.raw",
        "--discard foo a.raw",
        "--discard ignore --discard ignore a.raw",
        "--aio foo a.raw",
        "--aio threads --aio threads a.raw",
        "--detect-zeroes foo a.raw",
        "--detect-zeroes unmap a.raw",
        "-d",
        "-d /dev/nbd-none",
        "-k /nonexistent/s a.raw",
        "-b nohost.invalid a.raw",
        "--pid-file /nonexistent/pid -f raw -k SOCKET a.raw",
    ];
    let mut differing = String::new();
    for options in lines {
        // Every one of these ends before it serves.
        let line = format!("qemu-nbd {}", options.replace("SOCKET", "/dev/shm/blockimg-never-listens"));
        let [ours, real] = pair.run(&line);
        if ours != real {
            differing.push_str(&format!("--- {line}\n ours {ours}\n real {real}\n"));
        }
    }
    assert!(differing.is_empty(), "{differing}");
}
