"""python examples/tour.py: the Python API from end to end. Needs a cloud: `hedge-cloud serve --insecure`, elsewhere."""

import asyncio

from edge_client import GrpcLink, Provenance, Session, choose, load

QUESTION = [{"role": "user", "content": "What is 47 + 38?"}]


async def main() -> None:
    # Any decoder's folder, .gguf file or name on the hub; "bundled" is the pair that comes with the package.
    slm = load("bundled", "slm")
    async with GrpcLink("127.0.0.1:7411") as link:
        print(f"{slm.name} here, {link.info.model_name} there")
        for system in ("slm", "cu-hlm", "hedge"):
            settings = choose(system, slm=slm, link=link, temperature=0, max_new_tokens=64)
            session = Session(slm, slm.encode_chat(QUESTION), settings, link if settings.needs_cloud else None)
            words = []
            async for emitted in session.tokens():
                # Text is released when it is final, and says who vouches for it.
                words.append(f"[{emitted.text}]" if emitted.provenance is Provenance.CORRECTED else emitted.text)
            print(f"{system:7} {''.join(words)}   ({session.statistics.rounds} round trips, exact: {session.exact})")


if __name__ == "__main__":
    asyncio.run(main())
