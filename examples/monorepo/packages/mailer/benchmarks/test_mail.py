"""Make a mail of the terms and conditions."""

from mailer.wrap import WIDTH, mail

TERMS = "\n\n".join(
    " ".join(f"clause {part}.{number} holds unless it does not," for number in range(60))
    for part in range(12)
)


def test_mail(flame):
    body = flame(mail, TERMS)

    assert max(map(len, body.split("\r\n"))) <= WIDTH
