"""Seeds of random draws, each from what is drawn alone, so that a draw can be made again without the ones before it."""

import hashlib


def seed_for(*parts: int | str) -> int:
    """A 63-bit seed from what identifies a draw, such as (seed, step, rank, purpose). Near parts, unrelated seeds."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
