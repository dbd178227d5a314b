"""An app that holds much: 200,000 small dicts, made at import."""

from hello import app as answer

HELD = [{"number": number, "name": str(number)} for number in range(200_000)]


async def app(scope, receive, send):
    """As hello; the dicts are only held."""
    await answer(scope, receive, send)
