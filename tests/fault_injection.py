"""Fits and scorings that are interrupted, killed, run out of disk space or find damaged files.

After some faults, the same call without a fault must give the result of a call that had none. The
test suite runs a few hundred faults, and benchmarks/faults.py ten thousand.
"""

import contextlib
import hashlib
import linecache
import os
import random
import re
import resource
import shutil
import signal
import sys
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import joblib
import numpy as np
import torch

import skood
from skood import KNN, MLP
from skood._data.checked_data import CheckedData
from skood._torch import partial_results, run as run_module
from skood._torch.batching import map_batches
from skood._torch.partial_results import PartialResults

# Faults happen at lines of these files: skood, and what writes and reads the files.
TRACED = (
    str(Path(skood.__file__).parent),
    str(Path(joblib.__file__).parent),
    torch.serialization.__file__,
    np.lib.format.__file__,
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3)).astype(np.float32)
Y = np.arange(40) % 2

# Warnings that a call with the fault may give.
EXPECTED = {
    "Ctrl-C": "was interrupted|was ended before",
    "full disk": "cannot be written",
    "folder gone": "cannot be written|is gone",
    "kill -9": "no warning",
    "shared folder": "no warning",
    "damage": "no warning",
}
# Warnings that the following call without a fault may give.
AFTERWARDS = "Training starts anew|All items are scored|is computed again|is emptied"


def classifier(**settings):
    return MLP(
        (4,),
        max_epochs=2,
        batch_size=16,
        validation_fraction=0.2,
        dropout=0.1,
        device="cpu",
        random_state=0,
        verbose=0,
        **settings,
    )


def digest(*arrays):
    return hashlib.sha256(
        b"".join(np.asarray(array, dtype=float).tobytes() for array in arrays)
    ).hexdigest()


class Training:
    """A network that is saved after every step."""

    def __call__(self, folder):
        model = classifier(checkpoint_dir=folder).fit(X, Y)
        weights = [weight.numpy() for weight in model.module_.state_dict().values()]
        return digest(*weights, *model.history_.values())


class Scoring:
    """A slow score that is saved after every batch."""

    def __call__(self, folder):
        partial = None if folder is None else PartialResults(Path(folder) / "scores.npz")
        return digest(*map_batches(squares, CheckedData.of(X), 5, partial=partial))


def squares(items):
    x = torch.from_numpy(items)
    return x.square(), x.sum(1).to(torch.float64)


class Caching:
    """A detector that caches its trained network, and the outputs of the network."""

    def __call__(self, folder):
        memory = None if folder is None else str(folder)
        settings = {"n_neighbors": 3, "random_state": 0, "verbose": 0}
        detector = KNN(classifier(), memory=memory, **settings).fit(X, Y)
        # After Ctrl-C, there may be no threshold.
        return digest(detector.score_samples(X), getattr(detector, "offset_", None))


@contextlib.contextmanager
def at_line(number, action):
    """Call `action` when the block reaches its `number`-th line in the files of `TRACED`.

    It waits while a line starts with ``with``: an exception between the end of the block and
    ``__exit__``, where Python handles no signals, would leave a lock locked. Yields a list whose
    length is the number of lines so far.
    """
    seen, done = [], []

    def trace(frame, event, arg):
        if not frame.f_code.co_filename.startswith(TRACED):
            return None
        if event == "line":
            seen.append(None)
            if number and len(seen) >= number and not done:
                code = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
                if not code.lstrip().startswith("with "):
                    done.append(None)
                    action()
        return trace

    sys.settrace(trace)
    try:
        yield seen
    finally:
        sys.settrace(None)


@dataclass
class Tally:
    """Number of faults of each kind, and what went wrong after them."""

    faults: Counter = field(default_factory=Counter)
    # Calls that raised, or returned nothing, although the fault should not end them.
    lost: Counter = field(default_factory=Counter)
    # Results that differ from those without faults.
    wrong: Counter = field(default_factory=Counter)
    # Calls with warnings beyond those documented.
    noisy: Counter = field(default_factory=Counter)
    # Calls after which temporary files remained.
    littered: Counter = field(default_factory=Counter)
    examples: list = field(default_factory=list)

    def add(self, other):
        for name in ("faults", "lost", "wrong", "noisy", "littered"):
            getattr(self, name).update(getattr(other, name))
        self.examples += other.examples


class Campaign:
    """Faults drawn at random.

    Parameters
    ----------
    seed : int
    folder : Path
        For the files of the subjects.
    """

    def __init__(self, seed, folder):
        self.rng = random.Random(seed)
        self.seed = seed
        self.root = Path(folder)
        self.tally = Tally()
        self.subjects = [Training(), Scoring(), Caching()]
        self.expected, self.n_lines = {}, {}
        for subject in self.subjects:
            self.expected[subject] = subject(None)
            with at_line(0, None) as seen:
                subject(self.root / "first")
            self.n_lines[subject] = len(seen)
        self.foreign = [path for path in (self.root / "first").rglob("*") if path.is_file()]

    def run(self, n_faults):
        """Cause at least `n_faults` faults, up to three before each call without a fault."""
        number = 0
        while self.tally.faults.total() < n_faults:
            subject = self.rng.choice(self.subjects)
            number += 1
            # A folder that has been written to before would not be refused.
            folder = self.root / str(number)
            self.n_damaged, kinds = 0, []
            for _ in range(self.rng.randint(1, 3)):
                kind = self.rng.choice(list(EXPECTED))
                kinds.append(kind)
                self.tally.faults[kind] += 1
                getattr(self, FAULTS[kind])(subject, folder, kind)
            self.check(subject, folder, kinds)
            shutil.rmtree(folder, ignore_errors=True)
        return self.tally

    def note(self, column, kind, subject, text):
        column[kind] += 1
        self.tally.examples.append(f"seed {self.seed}: {kind}, {type(subject).__name__}: {text}")

    def call(self, subject, folder, kind, allowed, n_allowed):
        """Run the subject; return its result, or the exception."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                result = subject(folder)
            except (Exception, KeyboardInterrupt) as error:
                result = error
        # Python ignores them by default; Ctrl-C can leave a file to the garbage collector.
        shown = [w for w in caught if not issubclass(w.category, ResourceWarning)]
        # Joblib's own, where it cannot write that file.
        messages = [m for m in (str(w.message) for w in shown) if ".gitignore" not in m]
        others = [message for message in messages if not re.search(allowed, message)]
        if others or len(messages) > n_allowed:
            self.note(self.tally.noisy, kind, subject, messages)
        return result

    def line(self, subject):
        return self.rng.randint(1, self.n_lines[subject])

    def judge(self, subject, kind, result):
        if isinstance(result, BaseException):
            text = "".join(traceback.format_exception(result)[-6:])
            self.note(self.tally.lost, kind, subject, text)
        elif result != self.expected[subject]:
            self.note(self.tally.wrong, kind, subject, result)

    def check(self, subject, folder, kinds):
        """Run the subject without a fault."""
        kind = kinds[-1]
        result = self.call(subject, folder, kind, AFTERWARDS, self.n_damaged)
        self.judge(subject, kind, result)
        left = [str(path) for path in folder.rglob("*") if path.name.endswith(".tmp")]
        if left:
            self.note(self.tally.littered, kind, subject, f"{kinds} {left}")

    def interrupt(self, subject, folder, kind):
        run_module._ctrl_c.first_at = -np.inf
        with at_line(self.line(subject), lambda: signal.raise_signal(signal.SIGINT)):
            allowed = f"{EXPECTED[kind]}|{AFTERWARDS}"
            result = self.call(subject, folder, kind, allowed, n_allowed=3 + self.n_damaged)
        if isinstance(result, Exception):
            self.judge(subject, kind, result)

    def fill_disk(self, subject, folder, kind):
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        size = self.rng.choice([0, 100, 5000, self.rng.randint(0, 20_000)])

        def fill():
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))

        try:
            with at_line(self.line(subject), fill):
                result = self.starved(subject, folder, kind)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        self.judge_starved(subject, folder, kind, result)

    def remove_folder(self, subject, folder, kind):
        away = self.root / "away"

        def remove():
            if folder.exists():
                folder.rename(away)
            if self.rng.random() < 0.7:
                # A file in its place: no folder can be made.
                folder.touch()

        try:
            with at_line(self.line(subject), remove):
                result = self.starved(subject, folder, kind)
        finally:
            if folder.is_file():
                folder.unlink()
            if away.exists():
                shutil.rmtree(folder, ignore_errors=True)
                away.rename(folder)
        self.judge_starved(subject, folder, kind, result)

    def starved(self, subject, folder, kind):
        allowed = f"{EXPECTED[kind]}|{AFTERWARDS}"
        return self.call(subject, folder, kind, allowed, 1 + self.n_damaged)

    def judge_starved(self, subject, folder, kind, result):
        # Before any work is done, the folder is refused.
        if not (isinstance(result, OSError) and "nothing can be written to" in str(result)):
            self.judge(subject, kind, result)

    def kill(self, subject, folder, kind):
        self.wait(subject, kind, [self.fork(subject, folder, kills=True)])

    def share(self, subject, folder, kind):
        kills = self.rng.random() < 0.3
        others = [self.fork(subject, folder, kills=kills), self.fork(subject, folder)]
        self.wait(subject, kind, others)

    def fork(self, subject, folder, *, kills=False):
        """Run the subject in another process, which is killed at some line."""
        line = self.line(subject)
        reads, writes = os.pipe()
        child = os.fork()
        if child:
            os.close(writes)
            return child, reads, kills
        # A killed process writes nothing to the pipe.
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                kill = at_line(line, lambda: os.kill(os.getpid(), signal.SIGKILL))
                with kill if kills else contextlib.nullcontext():
                    result = subject(folder)
            except BaseException:
                result = traceback.format_exc()[-1500:]
        shown = [str(w.message) for w in caught if not issubclass(w.category, ResourceWarning)]
        unexpected = [message for message in shown if not re.search(AFTERWARDS, message)]
        os.write(writes, "\n".join([result, *unexpected])[:4000].encode())
        os._exit(0)

    def wait(self, subject, kind, children):
        for child, reads, kills in children:
            with os.fdopen(reads) as pipe:
                result, *unexpected = pipe.read().split("\n")
            _, status = os.waitpid(child, 0)
            if kills and os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
                continue
            if result.startswith("Traceback") or not result:
                text = "\n".join([result, *unexpected, f"status {status}"])
                self.note(self.tally.lost, kind, subject, text)
            elif result != self.expected[subject]:
                self.note(self.tally.wrong, kind, subject, result)
            elif unexpected:
                self.note(self.tally.noisy, kind, subject, unexpected)

    def damage(self, subject, folder, kind):
        """Damage one of the files of a call that was interrupted or not."""
        if not folder.exists() or self.rng.random() < 0.5:
            self.interrupt(subject, folder, kind="Ctrl-C")
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        if not files:
            return
        self.n_damaged += 1
        path = self.rng.choice(files)
        content = bytearray(path.read_bytes())
        how = self.rng.choice(["flip"] * 5 + ["cut", "zeros", "longer", "empty", "foreign", "pipe"])
        if not content:
            how = "longer"
        if how == "flip":
            for _ in range(self.rng.choice([1, 1, 1, 5])):
                content[self.rng.randrange(len(content))] ^= 1 << self.rng.randrange(8)
        elif how == "cut":
            content = content[: self.rng.randrange(len(content))]
        elif how == "zeros":
            start = self.rng.randrange(len(content))
            content[start : start + 512] = bytes(len(content[start : start + 512]))
        elif how == "longer":
            content += self.rng.randbytes(self.rng.randint(1, 2000))
        elif how == "empty":
            content.clear()
        elif how == "foreign":
            content = self.rng.choice(self.foreign).read_bytes()
        if how == "pipe":
            path.unlink()
            os.mkfifo(path)
        else:
            path.write_bytes(content)


FAULTS = {
    "Ctrl-C": "interrupt",
    "full disk": "fill_disk",
    "folder gone": "remove_folder",
    "kill -9": "kill",
    "shared folder": "share",
    "damage": "damage",
}


def cause_faults(n_faults, seed, folder):
    """Return the tally of at least `n_faults` faults, drawn with `seed`, in a new `folder`."""
    torch.set_num_threads(1)
    # Every step and every batch is saved.
    run_module._SECONDS_BETWEEN_CHECKPOINTS = partial_results._SECONDS_BETWEEN_SAVES = 0.0
    return Campaign(seed, folder).run(n_faults)
