//! Images in memory: what is written comes back, in whatever order tables reach the file.

use super::header::{BYTES, Geometry, Header};
use super::image::{Parts, Qcow};
use crate::encrypt::LegacyAes;
use crate::mapped::Mapped;
use block::protocol::memory::Memory;
use block::{Child, Image, IoVec, Node, NodeFlags, NodeName, WriteCache, WriteFlags};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::sync::Arc;

const SIZE: u64 = 1 << 20;

fn header(cluster_bits: u8, l2_bits: u8, encrypted: bool) -> Header {
    let geometry = Geometry { cluster_bits, l2_bits };
    Header { geometry, size: SIZE, encrypted, l1_offset: BYTES as u64, backing: (0, 0) }
}

fn fresh(header: &Header) -> Child {
    let mut bytes = header.to_bytes().to_vec();
    bytes.resize(BYTES + header.geometry.l1_bytes(SIZE) as usize, 0);
    Memory::child(bytes)
}

fn open(header: &Header, file: &Child) -> Image {
    let cipher = header.encrypted.then(|| Arc::new(LegacyAes::from_passphrase(b"pw").unwrap()) as _);
    let (file, header) = (file.clone(), header.clone());
    let parts = Parts { header, file, backing: None, backing_file: None, cipher, writable: true };
    let driver = Mapped::new(Qcow::new(parts).unwrap());
    let node = Node::new(Box::new(driver), NodeName::default(), NodeFlags::default());
    Image::new(node, WriteCache::Back)
}

#[test]
fn reads_give_what_was_written_and_so_do_those_of_the_next_user() {
    for (cluster_bits, l2_bits, encrypted) in [(9, 6, false), (12, 9, false), (12, 9, true), (16, 13, false)]
    {
        let header = header(cluster_bits, l2_bits, encrypted);
        let file = fresh(&header);
        let mut model = vec![0; SIZE as usize];
        let mut rng = SmallRng::seed_from_u64(7);
        for _ in 0..4 {
            let image = open(&header, &file);
            for _ in 0..40 {
                let start = rng.random_range(0..SIZE as usize);
                let end = model.len().min(start + rng.random_range(1..=70_000));
                rng.fill(&mut model[start..end]);
                image.write(start as u64, &model[start..end]).unwrap();
            }
            let mut back = vec![0; model.len()];
            image.read(0, &mut back).unwrap();
            assert!(back == model, "cluster bits {cluster_bits}");
            image.flush().unwrap();
        }
        let mut back = vec![0; model.len()];
        open(&header, &file).read(0, &mut back).unwrap();
        assert!(back == model, "cluster bits {cluster_bits}, reopened");
    }
}

#[test]
fn a_compressed_cluster_is_replaced_whole_or_in_part() {
    let header = header(12, 9, false);
    let file = fresh(&header);
    let image = open(&header, &file);
    let compress = |at, byte| image.writev(at, &IoVec::from(&[byte; 4096][..]), WriteFlags::COMPRESSED);
    compress(0, 1).unwrap();
    compress(4096, 2).unwrap();
    compress(0, 3).unwrap();
    image.write(4096 + 512, &[9; 512]).unwrap();
    let mut back = [0; 8192];
    image.read(0, &mut back).unwrap();
    assert_eq!(back[..4096], [3; 4096]);
    assert_eq!((back[4096], back[4096 + 512], back[4096 + 1024]), (2, 9, 2));
    assert_eq!(
        image.writev(512, &IoVec::from(&[1; 4096][..]), WriteFlags::COMPRESSED).unwrap_err().errno(),
        22
    );
}

#[test]
fn tables_that_point_into_the_header_are_refused() {
    let header = header(12, 9, false);
    let file = fresh(&header);
    file.write_all(header.l1_offset, &8u64.to_be_bytes()).unwrap();
    let image = open(&header, &file);
    let error = image.read(0, &mut [0; 512]).unwrap_err();
    assert!(error.to_string().contains("L2 table for guest offset 0x0 is at 0x8"), "{error}");
}

#[test]
fn a_header_comes_back_and_every_illegal_field_is_refused() {
    let good = header(12, 9, true);
    assert_eq!(Header::parse(&good.to_bytes()).unwrap(), good);
    for (at, bytes, text) in [
        (0, &b"X"[..], "Image not in qcow format"),
        (7, &[2], "qcow (v1) does not support qcow version 2"),
        (24, &[0; 8], "Image size is too small (must be at least 2 bytes)"),
        (24, &[0x7f; 8], "Image too large"),
        (32, &[8], "Cluster size must be between 512 and 64k"),
        (32, &[17], "Cluster size must be between 512 and 64k"),
        (33, &[5], "L2 table size must be between 512 and 64k"),
        (33, &[255], "L2 table size must be between 512 and 64k"),
        (39, &[2], "invalid encryption method in qcow header"),
        (40, &[0xff; 8], "Invalid L1 table offset"),
        (40, &[0; 8], "Invalid L1 table offset"),
    ] {
        let mut disk = good.to_bytes();
        disk[at..at + bytes.len()].copy_from_slice(bytes);
        assert_eq!(Header::parse(&disk).unwrap_err().to_string(), text);
    }
    let mut disk = good.to_bytes();
    (disk[15], disk[18]) = (48, 4);
    assert_eq!(Header::parse(&disk).unwrap_err().to_string(), "Backing file name too long");
}
