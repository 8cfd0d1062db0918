"""The rows of `scripts/bench` about qcow2: copies in and out, compression, small writes, tables of many clusters."""

import array
import dataclasses
import pathlib
import random
import struct
import subprocess
import sys

MIB = 1 << 20
CLUSTER = 65536
# Clusters of the image that is checked, and of the one whose every second cluster is zero.
CHECKED = 4 << 20
EXTENTS = 1 << 20
WRITES = 100_000
# What is compressed, and how much of one file at most: no kind of data should be most of it.
SYSTEM = ["/usr/bin", "/usr/lib", "/usr/share"]
LONGEST_FILE = 4 * MIB
# How much larger than the real tool's a compressed image may be.
LARGER = 1.03
# A step that visits an image of whole MiB in no order a cache could like.
STEP = 1_052_672 + 4096 * 37


class Files:
    """What the rows read, made by the real tool and shared by both."""

    def __init__(self, bench):
        self.bench = bench
        self.system = bench.folder / "system.raw"
        self.filled = bench.folder / "filled.qcow2"
        self.tables = bench.folder / "tables.qcow2"
        self.extents = bench.folder / "extents.qcow2"

    def make(self):
        real = self.bench.chosen.real
        make_system(self.system, max(self.bench.chosen.size // 4, 1))
        quiet = {"check": True, "stdout": subprocess.DEVNULL}
        subprocess.run([real, "convert", "-f", "raw", "-O", "qcow2", self.bench.source, self.filled], **quiet)
        create = [real, "create", "-q", "-f", "qcow2", "-o", "preallocation=metadata"]
        subprocess.run([*create, self.tables, str(CHECKED * CLUSTER)], **quiet)
        subprocess.run([*create, self.extents, str(EXTENTS * CLUSTER)], **quiet)
        punch_every_second_cluster(self.extents)

    def compressed_sizes(self):
        """Bytes that the compressed clusters take: ours, the real tool's."""
        sizes = []
        for tool in (self.bench.chosen.ours, self.bench.chosen.real):
            self.bench.nothing()
            subprocess.run([tool, "convert", "-c", "-f", "raw", "-O", "qcow2", self.system, self.bench.out], check=True)
            sizes.append(self.bench.out.stat().st_size)
        return sizes

    def empty(self):
        """A new image to write to."""
        self.bench.nothing()
        size = str(self.bench.bytes)
        subprocess.run([self.bench.chosen.real, "create", "-q", "-f", "qcow2", self.bench.out, size], check=True)


def make_system(path, mib):
    """The files of this machine's system one after the other, in random order: programs, libraries and texts, as images have them."""
    files = sorted(file for folder in SYSTEM for file in pathlib.Path(folder).rglob("*") if file.is_file() and not file.is_symlink())
    random.Random(1).shuffle(files)
    left = mib * MIB
    with open(path, "wb") as out:
        while left > 0:
            for file in files:
                with open(file, "rb") as bytes:
                    left -= out.write(bytes.read(max(min(left, LONGEST_FILE), 0)))


def punch_every_second_cluster(path):
    """Makes every second entry of the L2 tables say zero, so that no extent is longer than a cluster."""
    with open(path, "r+b") as file:
        file.seek(36)
        count, at = struct.unpack(">IQ", file.read(12))
        file.seek(at)
        for entry in struct.unpack(f">{count}Q", file.read(8 * count)):
            table = entry & 0x00FF_FFFF_FFFF_FE00
            file.seek(table)
            entries = array.array("Q", file.read(CLUSTER))
            entries[1::2] = array.array("Q", [1 if sys.byteorder == "big" else 1 << 56]) * (len(entries) // 2)
            file.seek(table)
            file.write(entries.tobytes())


def rows(row, bench, files):
    """The rows, made with the constructor `row`."""
    raw, system = ["-f", "raw", bench.source], ["-c", "-f", "raw", files.system, "-O", "qcow2"]
    writes = ["bench", "-w", "-t", "writeback", "-d", "16", "-c", str(WRITES), "-S", str(STEP), "-f", "qcow2", bench.out]
    nothing = bench.nothing
    encrypted = [*bench.secret, *raw, "-O", "qcow2", "-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"]
    found = [
        row("raw to qcow2", [*raw, "-O", "qcow2", bench.out], nothing, 1.5),
        row("raw to qcow2, payload", ["-n", *raw, "-O", "qcow2", bench.out], bench.made(files.filled), 1.5),
        row("raw to qcow2+luks, whole", [*encrypted, bench.out], nothing, 7),
        row("raw to qcow2, no options", [*raw, "-O", "qcow2", bench.out], nothing, None, plain=True),
        row("raw to qcow2+luks, no options", [*encrypted, bench.out], nothing, 7, plain=True),
        row("qcow2 to raw", ["-f", "qcow2", files.filled, "-O", "raw", bench.out], nothing, 1.5),
        row("raw to qcow2, zlib", [*system, bench.out], nothing, 2),
        row("raw to qcow2, zstd", [*system, "-o", "compression_type=zstd", bench.out], nothing, 1),
        row("4 KiB writes to qcow2", writes, files.empty, 1.5, convert=False),
        row("check of 4 Mi clusters", ["check", "-f", "qcow2", files.tables], lambda: None, 2, convert=False),
        row("map of 1 Mi extents", ["map", "--output=json", "-f", "qcow2", files.extents], lambda: None, 2, convert=False),
    ]
    return [dataclasses.replace(one, lean=True) for one in found]
