"""Runs tests of the suite, several at a time, each worker on its own private copy.

The suite writes into its own folder, so two workers never share one. A test that takes too long is killed together with
every server it left behind: all of them carry the worker's mark in their environment.
"""

import concurrent.futures
import dataclasses
import json
import os
import pathlib
import queue
import re
import shutil
import signal
import subprocess
import tempfile
import time

import tools

MARK = "BLOCKIMG_UPSTREAM_WORKER"
TMPFS = pathlib.Path("/dev/shm")
# What a run of all formats needs at its peak, with room to spare.
NEEDED_BYTES = 4 << 30
# For a test of which no duration is known.
USUAL_SECONDS = 3.0


@dataclasses.dataclass
class Plan:
    """How to run: the pristine suite, the programs, where results go, how many at once, how long each, argv logs or not."""

    source: pathlib.Path
    programs: tools.Programs
    results: pathlib.Path
    jobs: int
    timeout: int
    trace: bool


@dataclasses.dataclass
class Outcome:
    """What one run did. `status` is pass, fail, notrun or timeout; `reason` is one line; `log` names the file with the rest."""

    format: str
    test: str
    status: str
    seconds: float
    reason: str = ""
    log: str = ""


class Worker:
    """One private copy of the suite with its own folders for images and sockets."""

    def __init__(self, plan, folder):
        self.plan = plan
        self.folder = folder
        self.suite = folder / "src/tests/qemu-iotests"
        shutil.copytree(plan.source, folder / "src", symlinks=True)
        programs = tools.install(plan.programs, folder / "bin", plan.trace)
        keep = {name: os.environ[name] for name in ("PATH", "HOME", "USER") if name in os.environ}
        folders = {"TEST_DIR": str(folder / "t"), "SOCK_DIR": str(folder / "s")}
        self.env = keep | programs | folders | {"LANG": "C.UTF-8", MARK: str(folder)}

    def run(self, image_format, test):
        """Runs one test from clean folders and says what came of it."""
        for name in ("t", "s"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
            (self.folder / name).mkdir()
        stem = self.plan.results / f"{image_format}-{test}"
        log = stem.with_name(stem.name + ".log")
        env = self.env | ({"BLOCKIMG_TRACE": f"{stem}.argv"} if self.plan.trace else {})
        start = time.monotonic()
        timed_out = self.check(image_format, test, log, env)
        seconds = round(time.monotonic() - start, 1)
        kill_marked(str(self.folder))
        status, reason = ("timeout", f"took more than {self.plan.timeout} s") if timed_out else self.judge(test, log)
        self.keep_output(test, stem)
        if status == "pass":
            log.unlink()
        return Outcome(image_format, test, status, seconds, reason, "" if status == "pass" else str(log))

    def check(self, image_format, test, log, env):
        """Runs the suite's own driver for one test; true when it ran out of time."""
        command = ["./check", "-tap", f"-{image_format}", test]
        with open(log, "wb") as out:
            child = subprocess.Popen(
                command, cwd=self.suite, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )
            try:
                child.wait(self.plan.timeout)
                return False
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
                return True

    def judge(self, test, log):
        """Reads the outcome from the driver's report and, when the test was not run, the reason from the test's own file."""
        text = log.read_text(errors="replace")
        line = re.search(r"^(not ok|ok) \S+ \S+(.*)$", text, re.MULTILINE)
        if not line:
            return "fail", "the suite's driver did not report: " + last_line(text)
        if line.group(1) == "not ok":
            return "fail", first_difference(text)
        if "SKIP" in line.group(2):
            return "notrun", "; ".join(self.written(test, "notrun")) or line.group(2).strip()
        return "pass", "; ".join(self.written(test, "casenotrun"))

    def written(self, test, kind):
        """Lines the test left in its `.notrun` or `.casenotrun` file."""
        files = (self.folder / "t").glob(f"*/{test}.{kind}")
        return [line.strip() for file in files for line in file.read_text(errors="replace").splitlines() if line.strip()]

    def keep_output(self, test, stem):
        """Saves the output of a test that did not give what was expected."""
        for file in (self.folder / "t").glob(f"*/{test}.out.bad"):
            shutil.copyfile(file, stem.with_name(stem.name + ".out"))


def last_line(text):
    return (text.strip().splitlines() or ["no output"])[-1]


def first_difference(text):
    """The first line the program printed that was not expected, or the first one that is missing."""
    lines = text.splitlines()
    for sign in "+-":
        for line in lines:
            if line.startswith(sign) and not line.startswith(sign * 3) and line[1:].strip():
                return line[:160]
    return last_line(text)


def kill_marked(mark):
    """Kills what a test left running. Only processes that carry this worker's mark: they were started by it."""
    wanted = f"{MARK}={mark}".encode()
    for entry in pathlib.Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and wanted in (entry / "environ").read_bytes().split(b"\0"):
                os.kill(int(entry.name), signal.SIGKILL)
        except OSError:
            # Gone already, or another user's.
            continue


def scratch_base():
    """Memory when there is enough of it, else the usual place for temporary files."""
    try:
        if os.access(TMPFS, os.W_OK) and shutil.disk_usage(TMPFS).free >= NEEDED_BYTES:
            return TMPFS
    except OSError:
        pass
    return pathlib.Path(tempfile.gettempdir())


def run_all(plan, runs, progress):
    """Runs `runs` ((format, test) pairs), the longest first, calls `progress` for each outcome, returns them in order."""
    durations = last_durations(plan.results)
    clear(plan.results)
    # Short, because a socket's path may have 107 bytes; letters and digits only, because some tests insist.
    base = pathlib.Path(tempfile.mkdtemp(prefix="bi-", dir=scratch_base()))
    try:
        idle = queue.Queue()
        for number in range(max(1, min(plan.jobs, len(runs)))):
            idle.put(Worker(plan, base / f"w{number}"))

        def one(run):
            worker = idle.get()
            try:
                outcome = worker.run(*run)
            finally:
                idle.put(worker)
            progress(outcome)
            return outcome

        longest_first = sorted(runs, key=lambda run: -durations.get(run, USUAL_SECONDS))
        with concurrent.futures.ThreadPoolExecutor(max_workers=idle.qsize()) as pool:
            outcomes = list(pool.map(one, longest_first))
        return sorted(outcomes, key=lambda outcome: runs.index((outcome.format, outcome.test)))
    finally:
        shutil.rmtree(base, ignore_errors=True)


def last_durations(results):
    """How long each run took last time, where that is known."""
    try:
        saved = json.loads((results / "results.json").read_text())
        return {(run["format"], run["test"]): run["seconds"] for run in saved["runs"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def clear(results):
    """Empties the results folder of what an earlier run wrote."""
    results.mkdir(parents=True, exist_ok=True)
    for pattern in ("*.log", "*.out", "*.argv"):
        for file in results.glob(pattern):
            file.unlink()
