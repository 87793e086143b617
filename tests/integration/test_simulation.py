"""Ten thousand calls on virtual time: the short form of `python -m tests.simulate_calls`."""

import asyncio
import sys

CALLS, SEEDS, TIMEOUT_S = 5_000, (1, 2), 240


async def test_the_books_are_balanced():
    """After cuts, crashes and races every call has ended once, and nobody rings."""
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.simulate_calls", "--calls", str(CALLS), "--seed", str(seed)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        for seed in SEEDS
    ]
    async with asyncio.timeout(TIMEOUT_S):
        said = await asyncio.gather(*(process.communicate() for process in processes))
    for process, (out, _) in zip(processes, said, strict=True):
        assert process.returncode == 0, out.decode()
        assert "0 violations" in out.decode()
        assert " 0 crashes" not in out.decode()
