"""Take orders while another thread keeps the journal, as the service does all day."""

import time

import pytest
from warehouse.journal import Journal, Keeper
from warehouse.stock import Stock

ARTICLES = [f"article {number}" for number in range(200)]
ORDERS = ARTICLES[::10]


@pytest.fixture
def stock():
    shared = Stock(dict.fromkeys(ARTICLES, 1_000_000_000))
    with Keeper(shared, Journal()):
        yield shared


def reply(left):
    """Send an order's answer over the network: a millisecond."""
    time.sleep(0.001)
    return left


def serve(stock):
    return [reply(stock.take(article)) for article in ORDERS]


def test_orders(stock, flame):
    left = flame(serve, stock)

    assert len(left) == len(ORDERS)
