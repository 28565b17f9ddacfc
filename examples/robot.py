"""python examples/robot.py: a loop that may not stop. Decisions at a bounded risk, the device alone
while the link is away.

Needs `hedge-cloud serve --insecure`; stop and start it while this runs. The risk that was taken is
known where the cloud was asked.
"""

import asyncio
from collections.abc import Iterator

from hedge import (
    AsyncHedge,
    CloudConfig,
    GateConfig,
    GenerationConfig,
    LinkConfig,
    Provenance,
    SamplingParams,
    ThresholdRule,
    VerificationConfig,
    Warp,
)

CLOUD = CloudConfig(("127.0.0.1:7411",), insecure=True)
# The share of tokens that may be released although the large model would have rejected them.
MAX_RISK = 0.05


def observations() -> Iterator[str]:
    for step in range(60):
        yield f"What is {10 + step} + {3 * step}?"


SYSTEM = GenerationConfig(
    "robot",
    gate=GateConfig(
        "threshold", "expected_perturbation", ThresholdRule("max-risk", max_risk=MAX_RISK)
    ),
    verification=VerificationConfig(draft_from="sent"),
    link=LinkConfig(on_disconnect="continue", patience=1.0),
)


async def main() -> None:
    async with AsyncHedge(CLOUD, system=SYSTEM) as hedge:
        for step, observation in enumerate(observations()):
            answer = await hedge.generate(
                observation, SamplingParams(Warp(0), seed=step, max_new_tokens=48)
            )
            alone = answer.statistics.count(Provenance.OFFLINE)
            risk = answer.statistics.realised_risk
            taken = "not known" if risk is None else f"{risk:.3f}"
            print(
                f"{observation:20} {answer.text.rpartition('Answer: ')[2]:8} risk taken "
                f"{taken}{', alone' if alone else ''}"
            )


if __name__ == "__main__":
    asyncio.run(main())
