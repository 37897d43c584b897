"""Reading an HTTP answer to its end, within bounds."""

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
