"""python examples/robot.py: a loop that may not stop. Decisions at a bounded risk, the device alone while the link is away.

Needs `hedge-cloud serve --insecure`; stop and start it while this runs. The risk that was taken is known where the
cloud was asked.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import replace

from edge_client import GrpcLink, Provenance, Session, choose, load

# The share of tokens that may be released although the large model would have rejected them.
MAX_RISK = 0.05


def observations() -> Iterator[str]:
    for step in range(60):
        yield f"What is {10 + step} + {3 * step}?"


async def main() -> None:
    slm = load("bundled", "slm")
    async with GrpcLink("127.0.0.1:7411") as link:
        settings = choose(
            "cu-hlm",
            slm=slm,
            link=link,
            measure="expected_perturbation",
            draft_from="sent",
            threshold_rule="max-risk",
            max_risk=MAX_RISK,
            temperature=0,
            on_disconnect="continue",
            patience=1.0,
            max_new_tokens=48,
        )
        for step, observation in enumerate(observations()):
            prompt = slm.encode_chat([{"role": "user", "content": observation}])
            session = Session(slm, prompt, replace(settings, seed=step), link)
            async for _ in session.tokens():
                pass
            alone = session.statistics.count(Provenance.OFFLINE)
            risk = session.statistics.realised_risk
            taken = "not known" if risk is None else f"{risk:.3f}"
            print(f"{observation:20} {session.text.rpartition('Answer: ')[2]:8} risk taken {taken}{', alone' if alone else ''}")


if __name__ == "__main__":
    asyncio.run(main())
