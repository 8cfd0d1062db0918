//! Command lines of `io-tool`, given to ours and to the real tool: reports, messages, exit status and the image must be
//! the same.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{Read, Write};
use std::process::Stdio;
use tests::{Pair, Ran, Whose};

/// What both said, without what differs on purpose or by chance: times, rates, our own words in usage and help.
fn same(ran: &Ran) -> Ran {
    let mut ran = ran.clone();
    ran.stdout =
        ran.stdout.lines().map(|line| without_usage(&without_times(line))).collect::<Vec<_>>().join("\n");
    // Ours is printed on request only.
    if ran.stdout.starts_with("Usage: ") {
        ran.stdout.clear();
    }
    let stderr = ran.stderr.lines().filter(|line| !line.starts_with("Try '"));
    ran.stderr = stderr.map(without_numbers).collect::<Vec<_>>().join("\n");
    ran
}

/// A report without how long it took.
fn without_times(line: &str) -> String {
    if let Some((size, _)) = line.split_once(", 1 ops; ") {
        return format!("{size}, 1 ops; TIME");
    }
    match line.split(',').collect::<Vec<_>>()[..] {
        [bytes, "1", _, _, _] => format!("{bytes},1,TIME"),
        _ => line.to_owned(),
    }
}

/// A line of usage, of which only the name matters.
fn without_usage(line: &str) -> String {
    match line.split_once(" -- ") {
        Some((usage, _)) if !line.contains("error") => usage.split(' ').next().unwrap_or_default().to_owned(),
        _ => line.to_owned(),
    }
}

/// An error without the number of a node nobody named.
fn without_numbers(line: &str) -> String {
    match line.split_once("#block") {
        Some((before, after)) => {
            format!("{before}#block{}", after.trim_start_matches(|c: char| c.is_ascii_digit()))
        }
        None => line.to_owned(),
    }
}

/// Runs each line on both sides, on copies of the same images, and tells all that differ.
fn check(lines: &[&str]) {
    let mut differing = String::new();
    for line in lines {
        let pair = with_images();
        let [ours, real] = pair.run(&format!("qemu-io {line}")).map(|ran| same(&ran));
        let image = |whose| std::fs::read(pair.dir(whose).join("a.raw")).expect("the image is still there");
        if ours != real {
            differing.push_str(&format!("--- {line}\n ours {ours}\n real {real}\n"));
        } else if image(Whose::Ours) != image(Whose::Real) {
            differing.push_str(&format!("--- {line}\n the images differ\n"));
        }
    }
    assert!(differing.is_empty(), "{differing}");
}

/// A raw image whose bytes tell where they are, with a hole.
fn with_images() -> Pair {
    let pair = Pair::new();
    let mut bytes: Vec<u8> = (0..65536u32).map(|i| (i ^ (i >> 8)) as u8).collect();
    bytes.resize(131_072, 0);
    pair.write("a.raw", &bytes);
    pair.write("b.raw", &[b'b'; 1024]);
    pair.write("pattern", b"abc");
    pair.write("empty", b"");
    pair
}

/// Each of the commands, which stand between bars, alone on the raw image.
fn check_commands(commands: &str) {
    let lines: Vec<_> = commands.split(" | ").map(|command| format!("-f raw a.raw -c '{command}'")).collect();
    check(&lines.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn reads_report_and_verify_alike() {
    check_commands(
        "read 0 4k | read -v 0 40 | read -v 5 300 | read -C 0 64k | read -q 0 1k | read -vq 0 16 | \
         read -vC 0 16 | read | read 0 | read 0 1 2 | read -x 0 1 | read x 1 | read 0 x | read -1 1 | \
         read 0 -1 | read - 1 | read -q -- -1 2 | read -P 256 0 1k | read -P x 0 1k | read -P -1 0 1k | \
         read -P 010 0 1k | read -P | read -s 1 0 1k | read -P 0 64k 1k | read -P 0 -s 1k 63k 4k | \
         read -P 0 -s 512 -l 1k 0 1k | read -l 2 0 1k | read -l x 0 1k | read -P0xa 0 1k | \
         read -P 1 -s 1 -l 1 0 1k | read -P 1 -s 2k 0 1k | read -P 1 -l 2k 0 1k | read -P 0 -s 1k 0 1k | \
         read -l 0 -P 1 0 4k | read 1M 1k | read 127k 4k | read 0 2G | read 0 2147483136 | read 9E 1k | \
         read 0 0 | read 128k 0 | read 16E 1 | read -b 0 1k | read -a 0 1k | read -p 0 1k | read -r 0 1k | \
         read 0 1.5k | read 0 1kk | read 8191P 1 | read 0\t 4k | read 0 \t4k | read 0 4k -q | \
         read -qP 0 64k 4k | read 0 4k -P | read -P +1 0 1 | read -P 0b1 0 1 | read -P 08 0 1 | \
         read -P 99999999999999999999 0 1 | read 1 1 | read -s 1 x 1 | read -P 1 -s 2k x 1 | \
         read -P 1 -s x x 1 | readv 0 1k 1k | readv -P 0 64k 1k 512 | readv -P 1 64k 1k 512 | \
         readv -v 0 16 16 | readv -v 5 20 3 | readv 0 | readv 0 x | readv x 1 | readv 0 1k -1 | \
         readv -s 1 0 1k | readv 0 2G | readv 0 2147483136 | readv 0 0 | readv 0 0 1k | readv 1M 1k | \
         readv 0 1G 1G | readv -C 0 1k | readv -x | readv -P x 0 1k | readv -q 0 1k | readv 1 1 | \
         readv -q 0 | READ 0 1 |   read   -q  0   1k  | r -q 0 1k | r 0",
    );
}

#[test]
fn writes_report_and_change_the_image_alike() {
    check_commands(
        "write 0 1k | write -P 0 0 1k | write -P 1 -s pattern 0 1k | write -s nosuch 0 1k | \
         write -z -P 1 0 1k | write -zc 0 1k | write -bc 0 1k | write -bz 0 1k | write -n 0 1k | \
         write -u 0 1k | write -fb 0 1k | write -fc 0 1k | write -bf 0 1k | write -c 0 1k | write -b 0 1k | \
         write -z 1k 4k | write -zu 8k 4k | write -zn 0 4k | write -zf 0 4k | write -f 3 5 | write 1M 1k | \
         write 0 2G | write -z 0 2G | write -zn 0 2G | write -z 0 2147483136 | write 0 | write a b | \
         write 0 1k extra | write -r 0 1k | write -p 0 1k | write 127k 4k | write 0 0 | write -c 0 0 | \
         write -sz pattern 0 1k | write -s pattern 1 1k | write -s empty 0 1k | write -s . 0 1k | \
         write -zr 0 1k | write -rn 0 1k | write -u -n 0 1k | write -n -b 0 1k | write -zn x 1 | \
         write -bn 0 1 | write -bzf 0 1 | write -zs x 0 1 | write -cn 0 1k | write -q 0 | write -q 0 1k | \
         write -s pattern 0 2 | write -qP 7 100 10000 | write -z 5 100000 | writev 0 1k 1k | \
         writev -P 1 3 1k | writev 0 | writev 0 x | writev -f 0 1k | writev -z 0 1k | writev 0 0 | \
         writev 1M 1k | writev -C 0 1k | writev 0 2G | writev x 1 | writev 0 1G 1G | writev -q 0 | w 1 2 | \
         flush | flush x | f | discard 0 4k | discard 0 | discard x 1 | discard 0 x | discard -q 0 4k | \
         discard -C 0 4k | discard 0 2G | discard 1M 1k | discard -x 0 1 | discard 0 0 | discard -q 0 | \
         discard 0 1 2 | d 4k 4k | discard 4k 64k | truncate 256k | truncate | truncate x | \
         truncate -m off 256k | truncate -m foo 1M | truncate -m falloc 256k | truncate -m full 256k | \
         truncate 1000 | truncate 0 | truncate -x 1 | truncate 9E | t 4k | truncate 256k 2",
    );
}

#[test]
fn asynchronous_requests_report_alike() {
    check_commands(
        "aio_read 0 1k | aio_read -P 1 0 1k | aio_read -v 0 16 | aio_read -C 0 1k | aio_read 0 | \
         aio_read x 1 | aio_read 0 x | aio_read -i 0 1k | aio_read -i -x 0 1 | aio_read -x -i 0 1 | \
         aio_read -i x 1 | aio_read -i | aio_read 1M 1k | aio_read 0 2G | aio_read -q 0 1k | aio_read -x | \
         aio_read 0 0 | aio_read -P x 0 1 | aio_read 0 1 2 3 | aio_read -q x | aio_write 0 1k | \
         aio_write -z 0 1k | aio_write -z 0 1k 1k | aio_write -zP 1 0 1k | aio_write -u 0 1k | \
         aio_write -zu 0 4k | aio_write -f 0 1k | aio_write -i 0 1k | aio_write -iz 0 1 2 | \
         aio_write 1M 1k | aio_write -z 1M 1k | aio_write -z x 1 | aio_write -z 0 x | aio_write -z 0 3G | \
         aio_write 0 | aio_write x 1 | aio_write -C 0 1k | aio_write -zq 0 1k | aio_write -zq 0 | \
         aio_write -q 0 | aio_write 0 1G 1G | aio_flush | aio_flush 1",
    );
    check(&[
        "-f raw a.raw -c 'aio_write -P 1 0 4k' -c aio_flush -c 'aio_read -v -P 1 0 32' -c aio_flush -c 'aio_read -P 2 0 1k'",
    ]);
}

#[test]
fn status_and_control_commands_answer_alike() {
    check_commands(
        "length | length 1 | info | info x | alloc | alloc 0 | alloc 0 1k | alloc x | alloc 0 x | \
         alloc 0 1 | alloc 1 | alloc 0 2M | alloc 2M | alloc 0 3G | alloc 0 1 2 | alloc 512 0 | \
         alloc 0 9E | alloc -1 | alloc 0 -1 | alloc 128k 512 | map | map 1 | sleep 1 | sleep | sleep x | \
         sleep -1 | sleep 1x | sleep 0x1 | sleep 010 | sleep 1.5 | sleep +1 | sleep 5 5 | sigraise | \
         sigraise x | sigraise 0 | sigraise 999 | sigraise -1 | sigraise 9 | sigraise 15 | sigraise 10 | \
         sigraise 13 | sigraise 14 | abort | abort 1 | help nope | help read x | quit | quit 1 | q | \
         zone_report 0 1 | zone_report | zone_report x 1 | zone_report 0 x | zone_open 0 1M | \
         zone_close 0 1M | zone_finish 0 1M | zone_reset 0 1M | zone_open 0 4k | zone_reset 128k 1 | \
         zone_reset x 1 | zone_reset 0 x | zone_reset 0 | zone_append 0 4k | zone_append -p 0 4k | \
         zone_append 0 | zone_append x 4k | zone_append 0 4k 4k | zone_append -p x 4k | \
         zone_append -p 0 x | zone_append -p 0 2G | zrp 0 1 | zap 0 1 | bogus |  |     |  length | \
         length  | zone_report -x 0 1 | zone_reset -x | zone_report 0 10000000000000 | break read_aio A | \
         break | break x | break foo A | remove_break A | resume A | resume | wait_break | l | i | a 0 | \
         ?  nope",
    );
}

#[test]
fn images_are_opened_and_closed_alike() {
    check(&[
        "-c length",
        "nonexist",
        "-f raw nonexist",
        "-f foo a.raw",
        "--image-opts file.filename=a.raw,driver=raw -c length",
        "--image-opts -f raw a.raw",
        "--image-opts driver=foo",
        "-x",
        "--bogus",
        "-t foo a.raw",
        "--cache=foo a.raw",
        "-i foo a.raw",
        "-d foo a.raw",
        "-d on -f raw a.raw -c length",
        "-d off -f raw a.raw -c 'discard 0 64k'",
        "-k -f raw a.raw -c length",
        "-k -t none -f raw a.raw -c 'read -v 1 16'",
        "-i native -f raw a.raw -c length",
        "-i io_uring -f raw a.raw -c length",
        "-n -f raw a.raw -c 'write 1 1'",
        "-n -t foo a.raw",
        "-r -f raw a.raw -c 'write 0 1k' -c 'writev 0 1k' -c 'aio_write 0 1k' -c 'write -z 0 1k' -c 'discard 0 1k'",
        "-r -f raw a.raw -c 'truncate 2M' -c flush -c write -c 'write x' -c 'write x y' -c 'zone_reset 0 1'",
        "-U -f raw a.raw",
        "-U -r -f raw a.raw -c length",
        "-m -f raw a.raw -c 'read -v 0 16' -c 'write -P 1 1 700'",
        "-f",
        "-c",
        "-t",
        "--cmd length --format=raw a.raw",
        "-rf raw a.raw -c length",
        "--re -f raw a.raw -c length",
        "--no -f raw -c length a.raw",
        "-f raw a.raw -c length --",
        "-f raw -c length -- a.raw",
        "''",
        "-f raw . ",
        "-f raw file:a.raw -c length",
        "foo:bar",
        "-f raw a.raw -c 'read 0 1k' -c quit -c length",
        "-f raw a.raw -c bogus -c length",
        "-f raw a.raw -c 'open a.raw' -c close -c length -c 'length 1' -c close",
        "-f raw a.raw -c close -c 'open -r -o driver=raw b.raw' -c length -c 'write 0 1'",
        "-f raw a.raw -c 'open -o'",
        "-c open -c 'open -x' -c 'open -o driver=raw,file.filename=a.raw' -c length",
        "-c 'open a.raw b.raw' -c 'open -t foo a.raw' -c 'open -d foo a.raw' -c 'open -i foo a.raw' -c 'open -U -o driver=raw a.raw'",
        "-c 'open -rU -o driver=raw a.raw' -c length -c close -c 'open -n -k -o driver=raw a.raw' -c length",
        "-c 'open -o driver=raw -o size=512 a.raw' -c length -c 'read 512 1'",
        "-c 'open -o driver=foo a.raw'",
        "-c 'open -o driver=raw,foo.bar=1 a.raw' -c 'open -o driver=raw,file.foo=1 a.raw'",
        "--image-opts -c 'open -o driver=raw a.raw' -c 'open driver=raw,file.filename=a.raw' -c length -c open",
        "-r -c 'open -o driver=raw a.raw' -c 'write 0 1k'",
        "-c 'o -o driver=raw a.raw' -c 'w 0 1k' -c 'r 0 1k' -c l -c c -c l",
        "--object secret,id=x,data=y -f raw a.raw -c length",
        "--object secret -f raw a.raw",
        "--image-opts driver=file,filename=a.raw -c info -c 'read -v 3 3' -c 'write -P 5 3 3' -c map",
        "--image-opts driver=raw,offset=512,size=1024,file.filename=a.raw -c length -c 'write 1k 1' -c 'write -P 1 0 1k'",
        "-f raw b.raw -c map -c length -c 'truncate 2k' -c length -c map",
        "-s -r -f raw a.raw -c 'write 0 1k'",
        "-c 'open -s -r -o driver=raw a.raw' -c 'write 0 1k'",
        "-f raw a.raw -c 'reopen -o foo'",
        "--image-opts driver=raw,read-only,file.filename=a.raw",
        "--image-opts driver=raw,filename=a.raw",
    ]);
}

#[test]
fn what_every_node_takes_is_checked_alike() {
    let names = ["0a", "a/b", "_a", "''", "#block1", "a-b.c_d", &"n".repeat(31), &"n".repeat(32)];
    let named =
        names.map(|name| format!("--image-opts driver=raw,node-name={name},file.filename=a.raw -c length"));
    let others = [
        "node-name=f,file.node-name=f",
        "cache.writeback=off",
        "cache.direct=x",
        "cache.bogus=on",
        "file.cache.bogus=on",
        "backing=",
        "active=on",
        "active=off",
        "node-name=a,file.node-name=b,file.active=off",
    ];
    let others =
        others.map(|options| format!("--image-opts driver=raw,file.filename=a.raw,{options} -c length"));
    check(&named.iter().chain(&others).map(String::as_str).collect::<Vec<_>>());
}

/// Types lines at ours on a terminal, each when there is a prompt for it. Gives what was shown, and the exit status.
fn type_in(lines: &[&str]) -> (String, Option<i32>) {
    let pair = with_images();
    let terminal = nix::pty::openpty(None, None).expect("a terminal can be had");
    let end = || Stdio::from(terminal.slave.try_clone().expect("a descriptor can be copied"));
    let mut command = Whose::Ours.command("qemu-io");
    command.args(["-f", "raw", "a.raw"]).current_dir(pair.dir(Whose::Ours)).env("TERM", "xterm");
    let mut child = command.stdin(end()).stdout(end()).stderr(end()).spawn().expect("a program that starts");
    drop((command, terminal.slave));
    let mut keys = File::from(terminal.master);
    let mut shown = String::new();
    for (n, line) in lines.iter().enumerate() {
        let mut answer = String::new();
        // A line is shown with its prompt while it is edited; what is typed before the next one may be thrown away.
        let prompted = |answer: &str| match answer.rsplit_once('\n') {
            Some((_, last)) => last.contains("qemu-io> "),
            None => n == 0 && answer.contains("qemu-io> "),
        };
        while !prompted(&answer) {
            answer.push_str(&read_some(&mut keys).expect("the program is still there"));
        }
        shown.push_str(&answer);
        keys.write_all(line.as_bytes()).expect("the program reads its input");
    }
    while let Some(more) = read_some(&mut keys) {
        shown.push_str(&more);
    }
    (shown, child.wait().expect("a program that ends").code())
}

/// What a terminal shows next; nothing when the program has left it.
fn read_some(terminal: &mut File) -> Option<String> {
    let mut bytes = [0; 4096];
    let n = terminal.read(&mut bytes).unwrap_or(0);
    (n > 0).then(|| String::from_utf8_lossy(&bytes[..n]).into_owned())
}

#[test]
fn a_terminal_has_editing_history_and_completion() {
    // Tab; up; to the beginning of the line; give the line up.
    let (shown, status) = type_in(&["len\t\r", "\x1b[A\r", "nfo\x01i\r", "length\x03", "q\r"]);
    assert_eq!((shown.matches("128 KiB").count(), status), (2, Some(0)), "{shown:?}");
    assert!(shown.contains("format name: raw") && !shown.contains("not found"), "{shown:?}");
}

/// Runs both with `input` on standard input.
fn feed(pair: &Pair, input: &str) -> [Ran; 2] {
    [Whose::Ours, Whose::Real].map(|whose| {
        let mut command = whose.command("qemu-io");
        command.args(["-f", "raw", "a.raw"]).current_dir(pair.dir(whose));
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a program that starts");
        let mut stdin = child.stdin.take().expect("standard input is a pipe");
        stdin.write_all(input.as_bytes()).expect("the program reads its input");
        drop(stdin);
        let output = child.wait_with_output().expect("a program that ends");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ran { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    })
}

#[test]
fn commands_from_standard_input_follow_a_prompt() {
    let long = format!("{}\nlength\n", "x".repeat(2000));
    let mut differing = String::new();
    for input in [
        "length\nread 0 1k\nquit\nlength\n",
        "length",
        "",
        "\n\n",
        "bogus\nlength\n",
        "sleep 1\nabort\nlength\n",
        "length\nsigraise 9\nlength\n",
        "length\nabort\n",
        &long,
        "length\nq",
        "length \r\n",
        "close\nread 0 1k\nlength\nopen nonexist\nopen -o driver=raw a.raw\nlength\nopen -r a.raw\ninfo\n",
    ] {
        let pair = with_images();
        let [ours, real] = feed(&pair, input).map(|ran| same(&ran));
        if ours != real {
            differing.push_str(&format!("--- {input}\n ours {ours}\n real {real}\n"));
        }
    }
    assert!(differing.is_empty(), "{differing}");
}

#[test]
fn images_are_reopened_alike() {
    let part = "--image-opts driver=raw,offset=512,size=1024,file.filename=a.raw";
    let lines = [
        "-c reopen -c 'reopen x' -c 'reopen -x' -c 'reopen -c' -c 'reopen -rw' -c 'reopen -r -r'",
        "-c 'reopen -c foo' -c 'reopen -r -o read-only=on' -c 'reopen -c none -o cache.direct=on'",
        "-c 'reopen -r' -c 'write 0 1' -c 'read -v 0 4' -c 'reopen -w' -c 'write 0 1k' -c 'reopen -o read-only=on'",
        "-c 'reopen -o foo=bar' -c 'reopen -o driver=raw' -c 'reopen -o driver=qcow2' -c 'reopen -o node-name=x'",
        "-c 'reopen -o file.filename=b.raw' -c 'reopen -o file.filename=a.raw' -c 'reopen -o file.locking=off'",
        "-c 'reopen -o file.driver=file' -c 'reopen -o file.aio=io_uring' -c 'reopen -o file.foo=1' -c 'reopen -o file=x'",
        "-c 'reopen -o size=x' -c 'reopen -o size=1000' -c 'reopen -o size=1G' -c 'reopen -o offset=3M' -c length",
        "-c 'reopen -o offset=1k,size=512' -c 'write -P 1 0 512' -c 'write 512 1' -c length -c 'reopen -o size=1k' -c length",
        "-c 'reopen -o discard=off' -c 'discard 0 64k' -c 'reopen -o discard=on' -c 'reopen -o detect-zeroes=foo'",
        "-c 'reopen -o force-share=on' -c 'reopen -o auto-read-only=on' -c 'reopen -o cache.writeback=off'",
        "-c 'reopen -o backing.driver=raw' -c 'reopen -c none' -c 'write -P 3 1 1' -c 'reopen -o cache.direct=off'",
        "-c 'reopen -o cache.no-flush=on' -c flush -c 'reopen -c writethrough' -c 'write -P 4 7 9'",
    ];
    let lines: Vec<_> = lines.iter().map(|line| format!("-f raw a.raw {line}")).collect();
    let copying = "-C --image-opts node-name=n,driver=raw,file.filename=a.raw";
    check(&[
        &format!(
            "{copying} -c 'reopen -r' -c 'write 0 1' -c 'reopen -o read-only=on' -c 'reopen -r -o foo=1'"
        ),
        &format!("{copying} -c 'reopen -w' -c 'reopen -c none' -c 'write 0 1'"),
    ]);
    check(&lines.iter().map(String::as_str).collect::<Vec<_>>());
    check(&[
        "-r -f raw a.raw -c 'reopen -w -o size=512' -c 'write 0 1k' -c 'write 0 512' -c length",
        &format!(
            "{part} -c 'reopen -o size=512' -c 'write 512 1' -c 'write 0 512' -c 'reopen -o offset=0' -c 'write 0 1'"
        ),
        "null-co:// -c 'reopen -r' -c 'write 0 512' -c 'reopen -w' -c 'write 0 512' -c 'reopen -o foo=1'",
    ]);
}

#[test]
fn filters_that_make_errors_do_so_alike() {
    let on = |image: &str, commands: &str| {
        format!("-t writeback --image-opts {image},image.filename=a.raw {commands}")
    };
    let rules = [
        "event=none",
        "event=none,inject-error.errno=28",
        "event=none,inject-error.bogus=1",
        "errno=5",
        "errno=x,inject-error.event=none",
        "event=bogus",
        "event.x=1",
        "0=1",
        "0.event=none,inject-error.errno=5",
        "0.event=none,inject-error.2.event=none",
        "1.event=none",
        "1.event=none,inject-error.event=none",
        "event=none,set-state.event=none,set-state.new_state=x",
    ];
    let lines = rules.map(|rule| on(&format!("driver=blkdebug,inject-error.{rule}"), "-c 'read 0 512'"));
    check(&lines.iter().map(String::as_str).collect::<Vec<_>>());
    let below = "-t writeback --image-opts driver=raw,file.driver=blkdebug,file.image.filename=a.raw";
    let flush = "file.inject-error.event=none,file.inject-error.iotype=flush,file.inject-error.once=on";
    check(&[
        &format!("{below},{flush} -c 'write 0 512' -c flush -c 'read 0 512'"),
        &format!("{below},file.take-child-perms.0=resize -r -c 'read 0 512'"),
        &format!("{below},file.take-child-perms.0=write -r -c 'read 0 512'"),
        &format!("{below},file.take-child-perms.0=write-unchanged -r -c 'read 0 512'"),
        &format!(
            "{below},file.inject-error.event=none,file.inject-error.iotype=flush -c 'write -f 0 512' -c 'write -f 0 512'"
        ),
        &format!("{below},file.inject-error.event=flush_to_disk -c 'write -f 0 512' -c flush"),
        "--image-opts driver=blkverify,raw.filename=a.raw,test.filename=a.raw -c 'read 0 512'",
        &format!(
            "{below},file.inject-error.event=none,file.inject-error.iotype=block-status -c map -c 'alloc 0 4k'"
        ),
        "-f raw blkverify:a.raw:a.raw -c 'read 0 512'",
        "blkverify:a.raw:a.raw -c 'read 0 512'",
    ]);
}

#[test]
fn filters_see_what_is_read_and_written_alike() {
    let group = "--object throttle-group,id=t,x-iops-total=1000";
    let image = "file.driver=file,file.filename=a.raw";
    check(&[
        &format!(
            "{group} --image-opts driver=throttle,throttle-group=t,{image} -c 'write -P 1 3 999' -c 'read -P 1 3 999'"
        ),
        &format!("--image-opts driver=copy-on-read,{image} -c 'read -v 0 32' -c 'write 0 512' -c map"),
        &format!("-r --image-opts driver=copy-on-read,{image} -c 'read 0 32'"),
        &format!("--image-opts driver=compress,{image} -c 'read 0 32'"),
        "--image-opts driver=raw,detect-zeroes=unmap,discard=unmap,file.filename=a.raw -c 'write -P 0 0 8k' -c map",
        "--image-opts driver=raw,detect-zeroes=unmap,file.filename=a.raw -c 'write -P 0 0 8k' -c map",
        "--image-opts driver=raw,snapshot=on,file.filename=a.raw -c 'write 0 8k'",
        "-s -f raw a.raw -c 'write -P 1 0 8k' -c 'read -P 1 0 8k'",
        "--image-opts driver=preallocate,prealloc-align=1000,file.filename=a.raw -c length",
        "--image-opts driver=preallocate,bogus=1,file.filename=a.raw -c length",
        "--image-opts driver=preallocate,file.filename=a.raw -c 'truncate 1M' -c 'write 1000k 24k' -c 'truncate 96k' -c length",
        "--image-opts driver=quorum,vote-threshold=1,children.0.driver=raw,children.0.file.filename=a.raw -c 'read 0 512'",
        "--image-opts driver=quorum,vote-threshold=1,children.0.driver=raw,children.0.file.filename=a.raw,\
         children.1.driver=raw,children.1.file.filename=a.raw -c 'read 0 512'",
    ]);
}

#[test]
fn room_allocated_ahead_is_given_back() {
    let pair = Pair::new();
    pair.prepare("qemu-img create -q -f qcow2 a.qcow2 1G");
    let image = "driver=qcow2,file.driver=preallocate,file.prealloc-align=64k,file.prealloc-size=1M,file.file.filename=a.qcow2";
    let writes = "-c 'write 0 1M' -c 'write -z 8M 1M' -c 'reopen -r' -c 'reopen -w' -c 'write 2M 64k'";
    let [ours, real] =
        pair.run(&format!("qemu-io --image-opts {image} {writes} -c 'write 3M 64k'")).map(|ran| same(&ran));
    assert_eq!(ours, real);
    let len = |whose| std::fs::metadata(pair.dir(whose).join("a.qcow2")).unwrap().len();
    assert_eq!(len(Whose::Ours), len(Whose::Real));
    Whose::Real.run(pair.dir(Whose::Ours), "qemu-img check -q a.qcow2").ok();
    // After a crash it is there: the file ends where what was allocated does.
    let crash = format!("qemu-io --image-opts {image} -c 'write 8M 1M' -c abort");
    pair.run(&crash);
    assert!(len(Whose::Ours) > 3 << 20 && len(Whose::Ours) == len(Whose::Real));
}

#[test]
fn a_format_that_was_guessed_may_write_to_a_last_unit_that_is_not_whole() {
    let pair = with_images();
    pair.prepare("qemu-img create -q -f qcow2 q.qcow2 1M");
    pair.prepare("qemu-io -f qcow2 q.qcow2 -c 'write -q -c 0 64k'");
    pair.prepare("qemu-img resize -q -f raw --shrink a.raw 66048");
    for name in ["q.qcow2", "a.raw"] {
        let file = format!(
            r#"{{"driver":"blkdebug","align":4096,"image":{{"driver":"file","filename":"{name}"}}}}"#
        );
        let line = format!(r#"qemu-io 'json:{{"file":{file}}}' -c 'write 0 4k'"#);
        let [ours, real] = pair.run(&line).map(|ran| same(&ran));
        assert_eq!((ours.code, ours.stdout), (real.code, real.stdout), "{name}");
    }
}
