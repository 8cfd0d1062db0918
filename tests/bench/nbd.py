"""Our `nbd-server` next to qemu-nbd and nbdkit: small requests by fio, whole disks by nbdcopy, over a Unix socket.

All serve the same file in memory, one after the other in each round; medians count. The figure of a row is requests per
second (fio) or bytes per second (nbdcopy); a target is a ratio ours/theirs.
"""

import dataclasses
import json
import statistics
import subprocess
import time

MIB = 1 << 20
# Seconds of one run of fio.
RUNTIME = 2
START_LIMIT = 10


@dataclasses.dataclass
class Row:
    """What is measured, of which image, and how much faster than each peer we must be."""

    name: str
    measure: object
    image: str
    targets: dict


class Servers:
    """Starts servers of the files of one benchmark."""

    def __init__(self, folder, ours, luks, secret):
        self.folder, self.ours, self.luks, self.secret = folder, ours, luks, secret
        self.socket = folder / "nbd.sock"
        self.uri = f"nbd+unix:///?socket={self.socket}"

    def command(self, who, image):
        raw = self.folder / "source.raw"
        if who == "nbdkit":
            return ["nbdkit", "-f", "-U", self.socket, "file", raw]
        tool = self.ours if who == "ours" else "qemu-nbd"
        served = ["-f", "raw", raw] if image == "raw" else [*self.secret, "--image-opts", self.luks]
        return [tool, "-k", self.socket, "-t", "-e", "0", *served]

    def run(self, who, row):
        """One figure of one server, started for it."""
        self.socket.unlink(missing_ok=True)
        command = [str(word) for word in self.command(who, row.image)]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL) as server:
            try:
                self.wait_for(server)
                return row.measure(self)
            finally:
                server.terminate()

    def wait_for(self, server):
        deadline = time.monotonic() + START_LIMIT
        while not self.socket.exists():
            if server.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("bench: a server does not start: " + " ".join(map(str, server.args)))
            time.sleep(0.01)


def fio(mode, depth):
    """Random 4 KiB requests a second."""

    def measure(servers):
        command = ["fio", "--name=x", "--ioengine=nbd", f"--uri={servers.uri}", f"--rw=rand{mode}", "--bs=4k"]
        command += [f"--iodepth={depth}", "--time_based", f"--runtime={RUNTIME}", "--output-format=json"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
        # fio may print a line of its own first.
        job = json.loads(done.stdout[done.stdout.index("{"):])["jobs"][0]
        return job[mode]["iops"]

    return measure


def nbdcopy(size):
    """The whole disk to nowhere, in bytes a second."""

    def measure(servers):
        start = time.monotonic()
        subprocess.run(["nbdcopy", servers.uri, "null:"], check=True, stdin=subprocess.DEVNULL)
        return size / (time.monotonic() - start)

    return measure


def rows(size):
    small = {"qemu-nbd": 2.0, "nbdkit": 1.2}
    return [
        Row("nbd 4k random read, depth 16", fio("read", 16), "raw", small),
        Row("nbd 4k random write, depth 16", fio("write", 16), "raw", small),
        Row("nbd 4k random read, depth 1", fio("read", 1), "raw", small),
        Row("nbd 4k random write, depth 1", fio("write", 1), "raw", small),
        Row("nbdcopy of a raw image", nbdcopy(size), "raw", {"qemu-nbd": 1.0, "nbdkit": 1.0}),
        Row("nbdcopy of a LUKS image", nbdcopy(size), "luks", {"qemu-nbd": 3.0}),
    ]


def shown(value):
    return f"{value / MIB:.0f} M/s" if value > 50 * MIB else f"{value / 1000:.1f} k/s"


def report(servers, size, rounds, line):
    """Prints a line for each row and peer; returns whether every target was reached."""
    good = []
    for row in rows(size):
        whose = ["ours", *row.targets]
        runs = [[servers.run(who, row) for who in whose] for _ in range(rounds)]
        ours, *theirs = [statistics.median(column) for column in zip(*runs)]
        for (peer, target), figure in zip(row.targets.items(), theirs):
            good.append(ours / figure >= target)
            verdict = "PASS" if good[-1] else "below"
            line(row.name, shown(ours), shown(figure), f"{ours / figure:.2f}x", f">= {target:g}x", f"{verdict} ({peer})")
    return all(good)
