//! Backing chains: rebase, commit, amend and throw-away overlays next to the real tool.

use std::path::Path;
use tests::{Pair, Whose};

/// A chain of three on both sides, each layer with data of its own; the top is larger than what is below it.
fn chain(pair: &Pair) {
    for line in [
        "qemu-img create -q -f qcow2 base.qcow2 3M",
        "qemu-io -f qcow2 base.qcow2 -c 'write -q -P 1 0 1M' -c 'write -q -P 2 2M 64k'",
        "qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 mid.qcow2 4M",
        "qemu-io -f qcow2 mid.qcow2 -c 'write -q -P 3 512k 256k' -c 'write -q -z 2M 32k'",
        "qemu-img create -q -f qcow2 -b mid.qcow2 -F qcow2 top.qcow2 5M",
        "qemu-io -f qcow2 top.qcow2 -c 'write -q -P 4 600k 8k' -c 'write -q -P 5 4M 512'",
        "qemu-img create -q -f qcow2 other.qcow2 2M",
        "qemu-io -f qcow2 other.qcow2 -c 'write -q -P 1 0 640k' -c 'write -q -P 9 1500k 64k'",
    ] {
        pair.prepare(line);
    }
}

fn real(dir: &Path, line: &str) -> String {
    Whose::Real.run(dir, line).ok()
}

/// The same allocation on both sides, the same contents, no errors.
fn assert_same(pair: &Pair, image: &str) {
    let [ours, theirs] = [Whose::Ours, Whose::Real].map(|whose| {
        let map = real(pair.dir(whose), &format!("qemu-img map --output=json {image}"));
        map.lines().map(|l| l.split(", \"offset\"").next().unwrap().to_owned()).collect::<Vec<_>>()
    });
    assert_eq!(ours, theirs, "{image}");
    assert_reads_the_same(pair, image);
}

/// The same contents on both sides, no errors.
fn assert_reads_the_same(pair: &Pair, image: &str) {
    let [ours, theirs] = [Whose::Ours, Whose::Real].map(|whose| {
        let dir = pair.dir(whose);
        real(dir, &format!("qemu-img check -q {image}"));
        real(dir, &format!("qemu-img convert -O raw {image} contents.raw"));
        std::fs::read(dir.join("contents.raw")).unwrap()
    });
    assert!(ours == theirs, "{image} reads differently");
}

#[test]
fn an_image_moves_to_another_backing_file_and_reads_the_same() {
    for options in ["-b other.qcow2 -F qcow2", "-b ''", "-b base.qcow2 -F qcow2"] {
        let pair = Pair::new();
        chain(&pair);
        real(pair.dir(Whose::Ours), "qemu-img convert -O raw top.qcow2 before.raw");
        pair.check(&[format!("rebase {options} top.qcow2")]);
        assert_reads_the_same(&pair, "top.qcow2");
        real(pair.dir(Whose::Ours), "qemu-img compare -q -f raw -F qcow2 before.raw top.qcow2");
    }
}

#[test]
fn rebase_refuses_what_the_real_tool_refuses() {
    let pair = Pair::new();
    chain(&pair);
    pair.prepare("qemu-img create -q -f raw plain.raw 1M");
    pair.check(&[
        "rebase top.qcow2",
        "rebase -b missing.qcow2 -F qcow2 top.qcow2",
        "rebase -b other.qcow2 top.qcow2",
        "rebase -b other.qcow2 -F nonsense top.qcow2",
        "rebase -t nonsense -b other.qcow2 -F qcow2 top.qcow2",
        "rebase -f raw -b other.qcow2 -F qcow2 plain.raw",
        "rebase -c -f raw -b other.qcow2 -F qcow2 plain.raw",
        "rebase -u -b renamed.qcow2 -F qcow2 top.qcow2",
        "rebase -b other.qcow2 -F qcow2 top.qcow2",
        "rebase -u -b mid.qcow2 -F qcow2 top.qcow2",
    ]);
    assert_reads_the_same(&pair, "top.qcow2");
}

#[test]
fn a_commit_moves_the_contents_one_layer_down_or_more() {
    for options in ["", "-d", "-b base.qcow2", "-r 100M"] {
        let pair = Pair::new();
        chain(&pair);
        pair.check(&[format!("commit {options} top.qcow2")]);
        let images: &[&str] = match options {
            "-b base.qcow2" => &["base.qcow2"],
            _ => &["base.qcow2", "mid.qcow2", "top.qcow2"],
        };
        images.iter().for_each(|image| assert_same(&pair, image));
    }
}

#[test]
fn a_commit_past_a_shorter_layer_covers_what_the_lowest_one_has_behind_its_end() {
    let pair = Pair::new();
    for line in [
        "qemu-img create -q -f raw low.raw 2M",
        "qemu-io -f raw low.raw -c 'write -q -P 1 0 2M'",
        "qemu-img create -q -f qcow2 -b low.raw -F raw short.qcow2 512k",
        "qemu-img create -q -f qcow2 -b short.qcow2 -F qcow2 long.qcow2 1M",
        "qemu-io -f qcow2 long.qcow2 -c 'write -q -P 2 64k 64k'",
    ] {
        pair.prepare(line);
    }
    pair.check(&["commit -b low.raw -f qcow2 long.qcow2"]);
    let [ours, theirs] =
        [Whose::Ours, Whose::Real].map(|whose| std::fs::read(pair.dir(whose).join("low.raw")).unwrap());
    assert!(ours == theirs);
}

#[test]
fn a_copy_onto_a_backing_file_covers_it_where_the_source_has_nothing() {
    let pair = Pair::new();
    chain(&pair);
    pair.prepare("qemu-img create -q -f raw full.raw 6M");
    pair.prepare("qemu-io -f raw full.raw -c 'write -q -P 7 0 6M'");
    for (source, options) in [("other", ""), ("top", ""), ("base", "-o compat=0.10"), ("base", "-S 0")] {
        let line =
            format!("convert -B full.raw -F raw -O qcow2 {options} -f qcow2 {source}.qcow2 copy.qcow2");
        pair.check(&[line]);
        assert_same(&pair, "copy.qcow2");
    }
}

#[test]
fn commit_refuses_what_the_real_tool_refuses() {
    let pair = Pair::new();
    chain(&pair);
    pair.check(&[
        "commit base.qcow2",
        "commit -b missing.qcow2 top.qcow2",
        "commit -b top.qcow2 top.qcow2",
        "commit -t nonsense top.qcow2",
    ]);
}

#[test]
fn an_image_is_amended_step_by_step_as_by_the_real_tool() {
    let pair = Pair::new();
    chain(&pair);
    pair.check(&[
        "amend -o compat=0.10 top.qcow2",
        "amend -o lazy_refcounts=on top.qcow2",
        "amend -o refcount_bits=1 top.qcow2",
        "amend -o compat=1.1,lazy_refcounts=on top.qcow2",
        "amend -o refcount_bits=64 top.qcow2",
        "amend -o compat=0.10 top.qcow2",
        "amend -o refcount_bits=1,size=6M top.qcow2",
        "amend -o refcount_bits=16,compat=v2 top.qcow2",
        "amend -o size=5M top.qcow2",
        "amend -o size=0 top.qcow2",
        "amend -o compat=0.42 top.qcow2",
        "amend -o cluster_size=4k top.qcow2",
        "amend -o data_file=x top.qcow2",
        "amend -o data_file_raw=on top.qcow2",
        "amend -o backing_file=other.qcow2 top.qcow2",
        "amend -o encrypt.state=active top.qcow2",
        "amend -f raw -o size=1M top.qcow2",
    ]);
    assert_same(&pair, "top.qcow2");
}

#[test]
fn zero_clusters_survive_the_way_to_version_2() {
    for options in ["-b base.qcow2 -F qcow2", ""] {
        let pair = Pair::new();
        pair.prepare("qemu-img create -q -f qcow2 base.qcow2 2M");
        pair.prepare("qemu-io -f qcow2 base.qcow2 -c 'write -q -P 1 0 2M'");
        pair.prepare(&format!("qemu-img create -q -f qcow2 {options} top.qcow2 2M"));
        pair.prepare("qemu-io -f qcow2 top.qcow2 -c 'write -q -P 2 0 1M' -c 'write -q -z 256k 1500k'");
        pair.check(&["amend -o compat=0.10 top.qcow2"]);
        for whose in [Whose::Ours, Whose::Real] {
            real(pair.dir(whose), "qemu-img check -q top.qcow2");
            real(pair.dir(whose), "qemu-img convert -O raw top.qcow2 contents.raw");
        }
        let [ours, theirs] =
            [Whose::Ours, Whose::Real].map(|w| std::fs::read(pair.dir(w).join("contents.raw")).unwrap());
        assert!(ours == theirs);
    }
}

#[test]
fn what_is_written_to_a_throw_away_overlay_is_gone() {
    let pair = Pair::new();
    chain(&pair);
    let dir = pair.dir(Whose::Ours);
    let before = std::fs::read(dir.join("top.qcow2")).unwrap();
    let line = "qemu-io -s -f qcow2 top.qcow2 -c 'write -q -P 7 0 3M' -c 'read -q -P 7 0 3M' -c 'read -q -P 5 4M 512'";
    Whose::Ours.run(dir, line).ok();
    assert!(std::fs::read(dir.join("top.qcow2")).unwrap() == before);
}

#[test]
fn a_chain_of_two_hundred_is_made_described_read_and_flattened() {
    let pair = Pair::new();
    let dir = pair.dir(Whose::Ours);
    Whose::Ours.run(dir, "qemu-img create -q -f qcow2 0.qcow2 1M").ok();
    Whose::Ours.run(dir, "qemu-io -f qcow2 0.qcow2 -c 'write -q -P 1 0 1M'").ok();
    for layer in 1..200 {
        let below = layer - 1;
        let line = format!("qemu-img create -q -f qcow2 -u -b {below}.qcow2 -F qcow2 {layer}.qcow2 1M");
        Whose::Ours.run(dir, &line).ok();
    }
    Whose::Ours.run(dir, "qemu-img create -q -f qcow2 -b 199.qcow2 -F qcow2 200.qcow2").ok();
    let info = Whose::Ours.run(dir, "qemu-img info --backing-chain 200.qcow2").ok();
    assert_eq!(info.matches("virtual size: 1 MiB").count(), 201);
    Whose::Ours
        .run(dir, "qemu-io -f qcow2 200.qcow2 -c 'write -q -P 2 64k 64k' -c 'read -q -P 1 128k 896k'")
        .ok();
    Whose::Ours.run(dir, "qemu-img convert -f qcow2 -O raw 200.qcow2 flat.raw").ok();
    real(dir, "qemu-img compare -q -f raw -F qcow2 flat.raw 200.qcow2");
}

#[test]
fn measure_says_how_much_a_qcow2_image_takes() {
    let pair = Pair::new();
    pair.prepare("qemu-img create -q -f qcow2 src.qcow2 10M");
    // Whole clusters: what is a hole in the file inside of one is looked for more often here (docs/differences.md).
    pair.prepare("qemu-io -f qcow2 src.qcow2 -c 'write -q 64k 64k' -c 'write -q 1M 128k'");
    let mut lines = vec!["measure -O qcow2 src.qcow2".to_owned()];
    for options in [
        "cluster_size=512",
        "cluster_size=2M",
        "extended_l2=on",
        "refcount_bits=1",
        "refcount_bits=64,cluster_size=4k",
        "preallocation=metadata",
        "preallocation=full",
        "compat=0.10",
    ] {
        lines.push(format!("measure -O qcow2 -o {options} --size 3G"));
        lines.push(format!("measure -O qcow2 -o {options} src.qcow2"));
    }
    lines.push("measure -O qcow2 --size 4E".to_owned());
    lines.push("measure -O qcow2 --size 1M -o cluster_size=600".to_owned());
    pair.check(&lines);
}

#[test]
fn compressed_copies_are_whole_clusters_wherever_the_source_has_its_holes() {
    let pair = Pair::new();
    let dir = pair.dir(Whose::Ours);
    real(dir, "qemu-img create -q -f raw src.raw 5M");
    real(
        dir,
        "qemu-io -f raw src.raw -c 'write -q -P 1 4k 8k' -c 'write -q -P 2 1020k 100k' -c 'write -q 4M 512'",
    );
    for options in ["", "-S 0", "-o cluster_size=2M", "-o cluster_size=4k,compression_type=zstd", "-m 1 -W"] {
        Whose::Ours
            .run(dir, &format!("qemu-img convert -f raw -O qcow2 -c {options} src.raw dst.qcow2"))
            .ok();
        real(dir, "qemu-img check -q dst.qcow2");
        real(dir, "qemu-img compare -q -f raw -F qcow2 src.raw dst.qcow2");
    }
}

#[test]
fn who_only_looks_at_an_image_does_not_need_its_data_file() {
    let pair = Pair::new();
    pair.prepare("qemu-img create -q -f qcow2 -o data_file=data.raw top.qcow2 1M");
    for whose in [Whose::Ours, Whose::Real] {
        std::fs::remove_file(pair.dir(whose).join("data.raw")).unwrap();
    }
    pair.check(&["create -f qcow2 -b top.qcow2 -F qcow2 over.qcow2", "check top.qcow2", "map top.qcow2"]);
    let [ours, theirs] = pair.run("qemu-img info top.qcow2").map(|ran| {
        let told = ran.ok();
        // How much room files take is the file system's business.
        told.lines().filter(|line| !line.contains("disk size")).map(str::to_owned).collect::<Vec<_>>()
    });
    assert_eq!(ours, theirs);
}

#[test]
fn preallocated_files_are_as_long_as_the_real_tool_makes_them() {
    let pair = Pair::new();
    // The image's name, and the file that is measured.
    let files = [
        ("raw", "raw.data"),
        ("falloc", "falloc.data"),
        ("sparse", "sparse.data"),
        // The last cluster may end with a subcluster.
        ("wide", "wide.data"),
        ("inside", "inside.qcow2"),
    ];
    pair.check(&[
        "create -q -f qcow2 -o data_file=raw.data,data_file_raw=on raw.qcow2 100k",
        "create -q -f qcow2 -o data_file=falloc.data,preallocation=falloc falloc.qcow2 100k",
        "create -q -f qcow2 -o data_file=sparse.data sparse.qcow2 100k",
        "create -q -f qcow2 -o data_file=wide.data,data_file_raw=on,extended_l2=on wide.qcow2 100k",
        "create -q -f qcow2 -o extended_l2=on,preallocation=metadata inside.qcow2 100k",
    ]);
    // The last time the end moves inside of a cluster that has its place already.
    for (shrink, size) in [("", "150k"), ("", "1026k"), ("--shrink", "900k"), ("", "940k")] {
        let lines = files.map(|(image, _)| {
            let metadata = image == "inside" && shrink.is_empty();
            let prealloc = if metadata { "--preallocation=metadata" } else { "" };
            format!("resize -q -f qcow2 {shrink} {prealloc} {image}.qcow2 {size}")
        });
        pair.check(&lines);
        for (_, name) in files {
            let [ours, theirs] = [Whose::Ours, Whose::Real]
                .map(|whose| std::fs::metadata(pair.dir(whose).join(name)).unwrap().len());
            assert_eq!(ours, theirs, "{name} at {size}");
        }
    }
}
