"""The journal: where the stock is kept from when the service ends until it starts again."""

import threading
import time


class Journal:
    """Holds the latest entries of a journal on another machine.

    `round_trip_s` is how long that machine takes to say that it has an entry.
    """

    def __init__(self, round_trip_s=0.004, entries=8):
        self.round_trip_s = round_trip_s
        self.entries = [[]] * entries
        self.written = 0

    def append(self, entry):
        """Return when the other machine has the entry."""
        time.sleep(self.round_trip_s)
        self.entries[self.written % len(self.entries)] = entry
        self.written += 1


class Keeper:
    """A thread that keeps writing a stock to its journal, for as long as the block lasts."""

    def __init__(self, stock, journal, pause_s=0.001):
        self.stock = stock
        self.journal = journal
        self.pause_s = pause_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._ended.set()
        self._thread.join()

    def _run(self):
        while not self._ended.wait(self.pause_s):
            self.stock.keep(self.journal)
