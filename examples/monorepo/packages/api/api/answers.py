"""Answers: rows of the catalogue as JSON."""

import json

from api.prices import RATES, shown


def row(article, cents):
    """Return one row of an answer."""
    return {
        "article": article,
        "name": article.replace("-", " ").title(),
        "prices": [shown(cents, currency) for currency in RATES],
    }


def answer(articles):
    """Return the JSON of many articles and their prices in cents."""
    return json.dumps([row(article, cents) for article, cents in articles])
