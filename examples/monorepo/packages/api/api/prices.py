"""Prices as the front end shows them."""

RATES = {"EUR": 100, "USD": 108, "CHF": 97, "NZD": 186, "SEK": 1134}
ROUNDED = {"CHF": 5, "NZD": 10, "SEK": 100}  # the smallest coin


def convert(cents, currency):
    """Return an amount in cents of another currency, rounded to its smallest coin."""
    coin = ROUNDED.get(currency, 1)
    amount = cents * RATES[currency] // 100
    return (amount + coin // 2) // coin * coin


def shown(cents, currency):
    """Return an amount as a text: `1,234.50 EUR`."""
    amount = convert(cents, currency)
    return f"{amount // 100:,}.{amount % 100:02} {currency}"
