"""The programs under test as the suite wants to see them: names, links, and stubs for what it must not find.

The suite calls `qemu-img`, `qemu-io` and `qemu-nbd` and insists that an emulator and a storage daemon exist. Ours are
release binaries behind symbolic links of those names; the other two are stubs that only answer what the suite asks before
a test: which drivers there are, and which devices an emulator would have.
"""

import dataclasses
import os
import pathlib
import re
import shutil
import subprocess

NAMES = {"qemu-img": "img", "qemu-io": "io-tool", "qemu-nbd": "nbd-server"}

# The python tests ask for these devices before they start, also those that never start an emulator.
STUB = """#!/bin/sh
# Stands for the emulator and the storage daemon, which are no part of what is tested here.
case "$*" in
*format=help*)
    echo 'Supported formats: {drivers}'
    echo 'Supported formats (read-only): {drivers}' ;;
*'-device help'*)
    echo 'name "virtio-blk", bus virtio-bus'
    echo 'name "virtio-scsi-pci", bus PCI' ;;
*'-machine help'*) ;;
*)
    echo "$(basename "$0"): there is no emulator in this run" >&2
    exit 1 ;;
esac
"""

# Records the arguments of a call, then becomes the tool under its proper name.
TRACER = """#!/bin/bash
{{ printf '%s' {name}; printf ' %q' "$@"; echo; }} >>"${{BLOCKIMG_TRACE:-/dev/null}}"
exec -a {name} {tool} "$@"
"""


@dataclasses.dataclass
class Programs:
    """What stands behind each name, and the drivers `qemu-img --help` claims to have."""

    paths: dict
    drivers: list


def ours(root):
    """Our release binaries."""
    folder = target_dir(root) / "release"
    return programs({name: folder / binary for name, binary in NAMES.items()})


def real():
    """The real tools, wherever the PATH has them."""
    return programs({name: pathlib.Path(shutil.which(name) or f"/usr/bin/{name}") for name in NAMES})


def target_dir(root):
    """Cargo's target folder."""
    return pathlib.Path(os.environ.get("CARGO_TARGET_DIR", root / "target")).absolute()


def programs(paths):
    for name, path in paths.items():
        if not os.access(path, os.X_OK):
            raise SystemExit(f"upstream: {name} would be {path}, which is not there")
    return Programs(paths, drivers(paths["qemu-img"]))


def drivers(image_tool):
    """The names in the `Supported formats:` paragraph of the tool's help (10.1: `Supported image formats:` and a blank
    line first): the one list that both the stub and expect.toml go by."""
    help_text = subprocess.run([image_tool, "--help"], capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout
    paragraph = re.search(r"^Supported (?:image )?formats:\s*(.*?)(?:\n\s*\n|\Z)", help_text, re.MULTILINE | re.DOTALL)
    if not paragraph:
        print(f"upstream: {image_tool} --help names no supported formats; tests that ask for a driver are not run")
        return []
    return paragraph.group(1).split()


def install(found, folder, trace):
    """Fills `folder` with links (or tracers) and stubs and returns the suite's environment for them."""
    folder.mkdir(parents=True)
    for name, tool in found.paths.items():
        if trace:
            script(folder / name, TRACER.format(name=name, tool=tool))
        else:
            (folder / name).symlink_to(tool)
    for name in ("qemu-system-stub", "storage-daemon-stub"):
        script(folder / name, STUB.format(drivers=" ".join(found.drivers)))
    return {
        "QEMU_IMG_PROG": str(folder / "qemu-img"),
        "QEMU_IO_PROG": str(folder / "qemu-io"),
        "QEMU_NBD_PROG": str(folder / "qemu-nbd"),
        "QEMU_PROG": str(folder / "qemu-system-stub"),
        "QSD_PROG": str(folder / "storage-daemon-stub"),
    }


def script(path, text):
    path.write_text(text)
    path.chmod(0o755)
