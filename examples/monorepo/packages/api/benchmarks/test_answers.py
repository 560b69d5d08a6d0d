"""Answer a query for two hundred articles."""

import json

from api.answers import answer

ARTICLES = [(f"table-of-oak-{number}", 1999 + 731 * number) for number in range(200)]


def test_answer(flame):
    text = flame(answer, ARTICLES)

    assert json.loads(text)[0]["prices"][0] == "19.99 EUR"
