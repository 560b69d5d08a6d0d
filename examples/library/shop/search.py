"""Full-text search over the catalogue."""

from collections import defaultdict
from math import log

from shop.text import significant


class Index:
    """An inverted index: word -> product -> how often."""

    def __init__(self, products):
        self.size = len(products)
        self.postings = defaultdict(dict)
        for number, product in enumerate(products):
            self.add(number, product)

    def add(self, number, product):
        """Count the words of one product."""
        for word in significant(product):
            counts = self.postings[word]
            counts[number] = counts.get(number, 0) + 1

    def find(self, query, limit=5):
        """Return the numbers of the best products, best first."""
        scores = defaultdict(float)
        for word in significant(query):
            counts = self.postings.get(word, {})
            weight = log(1 + self.size / (1 + len(counts)))
            for number, count in counts.items():
                scores[number] += weight * count
        return sorted(scores, key=lambda number: (-scores[number], number))[:limit]
