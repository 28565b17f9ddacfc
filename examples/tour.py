"""python examples/tour.py: the Python API from end to end. Needs a cloud: `hedge-cloud serve
--insecure`, elsewhere.
"""

from hedge import CloudConfig, Hedge, Provenance, SamplingParams, Warp, load

CLOUD = CloudConfig(("127.0.0.1:7411",), insecure=True)
QUESTION = "What is 47 + 38?"


def main() -> None:
    # Any decoder's folder, .gguf file or name on the hub; "bundled" is the pair that comes with the
    # package.
    slm = load("bundled", "slm")
    for system in ("slm", "cu-hlm", "hedge"):
        with Hedge(CLOUD, slm=slm, system=system) as hedge:
            sampling = SamplingParams(Warp(0), max_new_tokens=64)
            words = []
            for emitted in hedge.stream(QUESTION, sampling):
                # Text is released when it is final, and says who vouches for it.
                words.append(
                    f"[{emitted.text}]"
                    if emitted.provenance is Provenance.CORRECTED
                    else emitted.text
                )
            answer = hedge.generate(QUESTION, sampling)
            assert answer.text == "".join(words).replace("[", "").replace("]", "")
            print(
                f"{system:7} {''.join(words)}   ({answer.statistics.rounds} round trips, "
                f"{answer.guarantee})"
            )


if __name__ == "__main__":
    main()
