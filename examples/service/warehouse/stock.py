"""The stock that all threads of the service share."""

import threading


class Stock:
    """Articles and how many of each are left; every method may be called by any thread."""

    def __init__(self, counts):
        self.counts = dict(counts)
        self.lock = threading.Lock()

    def take(self, article, number=1):
        """Take goods for an order; returns how many are left, or raises KeyError."""
        with self.lock:
            left = self.counts[article] - number
            self.counts[article] = left
        return left

    def keep(self, journal):
        """Write the whole stock to the journal, as it is at one moment."""
        with self.lock:
            moment = sorted(self.counts.items())
        journal.append(moment)
