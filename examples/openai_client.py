"""python examples/openai_client.py: the OpenAI client against `hedge serve --insecure`. pip install
openai
"""

from openai import OpenAI

client = OpenAI(base_url="http://127.0.0.1:8080/v1", api_key="unused")
answer = client.chat.completions.create(
    model="hedge",
    messages=[{"role": "user", "content": "What is 47 + 38?"}],
    temperature=0,
    stream=True,
)
for chunk in answer:
    choice = chunk.choices[0]
    hedge = (choice.model_extra or {}).get("hedge", {})
    if choice.finish_reason:
        stats = hedge["stats"]
        print(
            f"\n{stats['rounds']} round trips, {stats['uplink_payload_bytes']} bytes up, exact: "
            f"{hedge['exact']}"
        )
    else:
        print(choice.delta.content, end="", flush=True)
