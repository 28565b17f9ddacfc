"""The page in headless Chromium: typing, streaming, provenance, a link that is cut and mended, two
tabs. `make web-test`.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect, sync_playwright

from hedge.evaluation.processes import BIN, free_port, run_cloud

ROOT = Path(__file__).parents[2]
SHOTS = Path(os.environ["HEDGE_SCREENSHOTS"]) if "HEDGE_SCREENSHOTS" in os.environ else None
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or "chromium"
QUIET = (
    *"--no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking".split(),
    *"--disable-component-update --disable-sync".split(),
)
expect.set_options(timeout=20_000)
TALE = "Tell me a tale about a king."


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """`make demo-web` on a free port."""
    where = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "tools.demo_web", where]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stderr
    try:
        next(line for line in process.stderr if re.search(r"listening on (\S+)", line))
        yield where
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": 1100, "height": 820})
    yield context
    context.close()


def opened(context: BrowserContext, address: str) -> Page:
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "console", lambda message: wrong.append(message.text) if message.type == "error" else None
    )
    page.goto(f"http://{address}/")
    expect(page.locator("#state")).to_contain_text("the link is up")
    expect(page.locator("#left")).to_have_value("hedge")
    assert not wrong
    return page


def shoot(page: Page | Locator, name: str) -> None:
    if SHOTS:
        SHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SHOTS / f"{name}.png")


def test_typing_streaming_and_whose_words_they_are(context: BrowserContext, address: str) -> None:
    page = opened(context, address)
    page.get_by_label("your message").fill("What is 47 + 38?")
    page.keyboard.press("Enter")
    expect(page.locator(".words .token").first).to_be_visible()
    expect(page.locator(".words")).to_contain_text("Answer: 85")
    expect(page.locator(".sum")).to_contain_text("exactly the large model's words")
    kinds = {
        name
        for one in page.locator(".words .token").all()
        for name in (one.get_attribute("class") or "").split()[1:]
    }
    assert "accepted" in kinds
    assert kinds <= {"accepted", "corrected", "bonus"}
    expect(page.locator("#up")).not_to_have_text("0 B")
    expect(page.locator("#kept")).to_have_text("0 %")
    page.locator(".words .token").nth(2).click()
    expect(page.locator("#about")).to_contain_text("Token 3")
    page.keyboard.press("Escape")
    expect(page.locator("#details")).to_be_hidden()
    # By shape too, not by colour alone.
    borders = {
        one: page.locator(f"#legend .{one}").evaluate("e => getComputedStyle(e).borderBottomStyle")
        for one in ("local", "accepted", "corrected", "bonus", "offline")
    }
    assert borders["accepted"] == "solid"
    assert len({borders[one] for one in ("accepted", "corrected", "bonus", "offline")}) == 4
    shoot(page, "page")


def test_two_systems_side_by_side_give_the_same_words_where_both_are_exact(
    context: BrowserContext, address: str
) -> None:
    page = opened(context, address)
    page.locator("#right").select_option("llm")
    page.locator("#temperature").fill("1")
    page.get_by_label("your message").fill("What is 12 + 9?")
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".sum")).to_have_count(2, timeout=20_000)
    ours, theirs = page.locator(".words").all_inner_texts()
    assert ours == theirs != ""


def test_a_cut_link_is_seen_and_mended(context: BrowserContext, address: str) -> None:
    page = opened(context, address)
    page.locator("#temperature").fill("1")
    page.get_by_role("button", name="Slow the link").click()
    expect(page.get_by_role("button", name="Slow the link")).to_have_attribute(
        "aria-pressed", "true"
    )
    page.get_by_label("your message").fill(TALE)
    page.keyboard.press("Enter")
    expect(page.locator(".words .token").first).to_be_visible()
    page.get_by_role("button", name="Cut the link").click()
    expect(page.locator("#state")).to_contain_text("the link is down")
    expect(page.locator(".words .offline").first).to_be_visible(timeout=20_000)
    shoot(page, "page-cut")
    expect(page.locator(".sum")).to_be_visible(timeout=60_000)
    # With the cloud down the page works.
    page.get_by_label("your message").fill("What is 2 + 3?")
    page.keyboard.press("Enter")
    expect(page.locator(".sum")).to_have_count(2, timeout=60_000)
    page.get_by_role("button", name="Mend the link").click()
    page.get_by_role("button", name="Slow the link").click()
    expect(page.locator("#state")).not_to_contain_text("down", timeout=60_000)
    page.get_by_label("your message").fill("What is 4 + 5?")
    page.keyboard.press("Enter")
    expect(page.locator(".turn").last.locator(".accepted, .corrected, .bonus").first).to_be_visible(
        timeout=60_000
    )


def test_stopping_an_answer(context: BrowserContext, address: str) -> None:
    page = opened(context, address)
    page.locator("#left").select_option("llm")
    page.get_by_label("your message").fill(TALE)
    page.keyboard.press("Enter")
    expect(page.locator(".words .token").first).to_be_visible()
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".note")).to_have_text("stopped")
    expect(page.get_by_role("button", name="Send")).to_be_visible()


def test_two_tabs_are_two_conversations(context: BrowserContext, address: str) -> None:
    first = opened(context, address)
    second = opened(context, address)
    for page, sum_ in ((first, "20 + 11"), (second, "30 + 12")):
        page.get_by_label("your message").fill(f"What is {sum_}?")
        page.keyboard.press("Enter")
    expect(first.locator(".words")).to_contain_text("Answer: 31", timeout=20_000)
    expect(second.locator(".words")).to_contain_text("Answer: 42", timeout=20_000)
    expect(first.locator(".turn")).to_have_count(1)


def test_system_prompt_seed_receipt_and_history(context: BrowserContext, address: str) -> None:
    page = opened(context, address)
    page.get_by_label("system prompt").fill("Answer shortly.")
    page.get_by_label("seed").fill("7")
    page.get_by_label("temperature").fill("1")
    with page.expect_request("**/v1/chat/completions") as sent:
        page.get_by_label("your message").fill(TALE)
        page.keyboard.press("Enter")
    body = sent.value.post_data_json
    assert body["messages"][0] == {"role": "system", "content": "Answer shortly."}
    assert (body["seed"], body["temperature"]) == (7, 1)
    expect(page.locator(".sum")).to_contain_text("seed 7")
    page.locator(".receipt summary").click()
    expect(page.locator(".receipt")).to_contain_text("Left this device: prompt ids, draft ids")
    expect(page.locator(".receipt")).to_contain_text("alone it makes")
    # The strip: a cell a token, and a bar for each verdict that released some.
    tokens = page.locator(".answer .token")
    expect(page.locator(".strip .cell")).to_have_count(tokens.count())
    rounds = {token.evaluate("token => token.hedge.rounds") for token in tokens.all()}
    expect(page.locator(".strip .first")).to_have_count(len(rounds))
    assert (
        page.locator(".strip").get_attribute("aria-label")
        == f"{tokens.count()} tokens, released in {len(rounds)} parts"
    )
    said = page.locator(".words").inner_text()
    page.reload()
    expect(page.locator(".said")).to_have_text(TALE)
    expect(page.locator("#talk .words")).to_have_text(said)
    page.get_by_role("button", name="Forget").click()
    expect(page.locator(".said")).to_have_count(0)
    expect(page.locator("#history option")).to_have_count(1)


def test_a_conversation_of_another_tab_can_be_opened(context: BrowserContext, address: str) -> None:
    page = opened(context, address)
    page.get_by_label("your message").fill("What is 5 + 6?")
    page.keyboard.press("Enter")
    expect(page.locator(".sum")).to_be_visible()
    other = opened(context, address)
    expect(other.locator(".said")).to_have_count(0)
    other.get_by_label("earlier").select_option(label="What is 5 + 6?")
    expect(other.locator(".said")).to_have_text("What is 5 + 6?")


def test_by_keyboard_alone_on_a_small_phone(browser: Browser, address: str) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 640})
    page = opened(context, address)
    page.locator("#prompt").focus()
    page.keyboard.type("What is 47 + 38?")
    page.keyboard.press("Enter")
    expect(page.locator(".sum")).to_be_visible()
    # Nothing is cut off at the side, and every knob is within reach of the tabulator.
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.locator("#prompt").focus()
    reached = set()
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id"))
    assert {
        "send",
        "left",
        "right",
        "threshold",
        "temperature",
        "seed",
        "system",
        "history",
        "forget",
    } <= reached
    page.locator(".words .token").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#about")).to_contain_text("Token 1")
    context.close()


def test_dark_and_narrow(browser: Browser, address: str) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme="dark")
    page = opened(context, address)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
    shoot(page, "page-phone")
    context.close()


def test_the_operator_sees_what_the_cloud_does(context: BrowserContext) -> None:
    http = f"127.0.0.1:{free_port()}"
    with run_cloud("--threads", "1", "--http", http) as cloud:
        page = context.new_page()
        page.goto(f"http://{http}/")
        expect(page.locator("#state")).to_have_text("ready")
        words = [
            str(BIN / "hedge-cloud"),
            "loadtest",
            "--cloud",
            cloud,
            "--devices",
            "4",
            "--seconds",
            "6",
        ]
        loading = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        expect(page.locator("#now div", has_text="sessions open").locator("dd")).not_to_have_text(
            "0"
        )
        expect(page.locator("#tokens tr", has_text="accepted")).to_be_visible()
        expect(page.locator("#batches tr").first).to_be_visible()
        assert loading.wait(60) == 0
        shoot(page, "operator")
        expect(page.locator("#now div", has_text="sessions open").locator("dd")).to_have_text("0")
