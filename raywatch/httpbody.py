"""What requests and answers hold: a body to its end, within bounds, and what a header would rather have."""

import aiohttp


async def whole(answer: aiohttp.ClientResponse, limit: int) -> bytes | None:
    """Return a body, None where it is longer than `limit` bytes. One `read(n)` gives what has come, not all."""
    pieces, room = [], limit
    while piece := await answer.content.read(room + 1):
        pieces.append(piece)
        room -= len(piece)
        if room < 0:
            return None
    return b"".join(pieces)


def weights(header: str) -> dict[str, float]:
    """Return how much each thing that an Accept or Accept-Encoding names is wanted, in small letters; the best of several.

    0 is not wanted, and so is what has a weight that is none.
    """
    found: dict[str, float] = {}
    for part in header.lower().split(","):
        name, *given = (p.strip() for p in part.split(";"))
        told = [p.replace(" ", "")[2:] for p in given if p.replace(" ", "").startswith("q=")]
        try:
            weight = float(told[0]) if told else 1.0
        except ValueError:
            weight = 0.0
        found[name] = max(found.get(name, 0.0), weight)
    return found
