"""Gets QEMU's I/O test suite: fetch the tarball, check it, unpack the two folders that are needed.

Everything lands in a cache, so a second run needs no network. Nothing of the suite is ever committed.
"""

import hashlib
import os
import pathlib
import shutil
import subprocess
import tempfile


class Unavailable(Exception):
    """The suite cannot be had on this machine now; the text says why."""


def prepare(root):
    """Returns the folder of the pristine, unpacked suite (holds `tests/qemu-iotests` and `python`)."""
    digest, name = (root / "tests/upstream/tarball.sha256").read_text().split()
    cache = cache_dir(root)
    unpacked = cache / f"qemu-iotests-{digest[:12]}"
    if not unpacked.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        tarball = cache / name
        if not tarball.is_file() or sha256(tarball) != digest:
            fetch(root, tarball, digest)
        unpack(tarball, unpacked)
    return unpacked


def cache_dir(root):
    """`$XDG_CACHE_HOME/blockimg`, or `.cache` in the checkout."""
    base = os.environ.get("XDG_CACHE_HOME")
    return pathlib.Path(base) / "blockimg" if base else root / ".cache"


def fetch(root, tarball, digest):
    """Downloads the tarball with apt, which knows the mirror, and checks it before it gets its name."""
    run([root / "scripts/peers", "--source"], "cannot prepare apt for the source package of qemu")
    release = [line.removeprefix("Suites: ") for line in peer_sources() if line.startswith("Suites: ")]
    suite = ["-t", release[0]] if release else []
    with tempfile.TemporaryDirectory(prefix="bi-fetch-") as folder:
        # apt's download user must be able to write here.
        os.chmod(folder, 0o755)
        command = ["apt-get", "source", "--download-only", *suite, "qemu"]
        print("upstream: " + " ".join(command), flush=True)
        # It may end in an error for the packaging part, which the mirror drops first; only the tarball counts.
        done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        got = pathlib.Path(folder) / tarball.name
        if not got.is_file():
            raise Unavailable(f"apt-get brought no {tarball.name}:\n{done.stderr.strip()}")
        if sha256(got) != digest:
            raise Unavailable(f"{tarball.name} has sha256 {sha256(got)}, not {digest}")
        shutil.move(got, tarball)


def peer_sources():
    """The lines of the apt source that scripts/peers adds."""
    try:
        return pathlib.Path("/etc/apt/sources.list.d/blockimg-peers.sources").read_text().splitlines()
    except FileNotFoundError:
        return []


def unpack(tarball, to):
    """Unpacks the suite and its Python library; the name appears only when all is there."""
    half = pathlib.Path(tempfile.mkdtemp(prefix=to.name + ".", dir=to.parent))
    wanted = ["*/tests/qemu-iotests/*", "*/python/*"]
    run(["tar", "-xJf", tarball, "-C", half, "--strip-components=1", "--wildcards", *wanted], "cannot unpack")
    half.chmod(0o755)
    try:
        half.rename(to)
    except OSError:
        # Another run was faster; its copy is the same.
        shutil.rmtree(half)


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def run(command, complaint):
    try:
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Unavailable(f"{complaint}: {error}") from error
