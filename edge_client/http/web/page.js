"use strict";
const $ = (id) => document.getElementById(id);
const MEANING = {
  local: "released without a test: the device was sure",
  accepted: "drafted by the device, and the cloud's model agreed",
  corrected: "the cloud's model replaced what the device had drafted",
  bonus: "the cloud's model's own next word",
  offline: "written without the cloud",
};
const conversation = [];
// This conversation's name among those that the browser keeps.
let named = sessionStorage.getItem("hedge.conversation") ?? crypto.randomUUID();
const KEPT = 20;
const totals = { up: 0, down: 0, rounds: 0, tokens: 0, alone: 0 };
let running = null;

function element(name, className, text = "") {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

function bytes(count) {
  return count < 1000 ? `${count} B` : `${(count / 1000).toFixed(1)} kB`;
}

function describe(token) {
  const { provenance, proposed, rounds, place } = token.hedge;
  const chance = proposed ? ` The device gave it ${(100 * proposed).toFixed(1)} %.` : "";
  $("about").textContent = `Token ${place}, ${JSON.stringify(token.textContent)}: ${provenance}, ${MEANING[provenance]}.${chance} Round trips by then: ${rounds}.`;
  $("details").hidden = false;
}

function showToken(words, piece, hedge, place) {
  const token = element("span", `token ${hedge.provenance}`, piece);
  token.hedge = { ...hedge, place };
  token.title = hedge.provenance;
  token.tabIndex = 0;
  words.append(token);
}

function showMeters(answers) {
  const live = answers.map((answer) => answer.last).filter(Boolean);
  const sum = (name) => totals[name] + live.reduce((all, one) => all + (one[name] ?? 0), 0);
  const tokens = totals.tokens + answers.reduce((all, answer) => all + answer.tokens, 0);
  const alone = totals.alone + answers.reduce((all, answer) => all + answer.alone, 0);
  $("kept").textContent = tokens ? `${Math.round((100 * alone) / tokens)} %` : "-";
  $("up").textContent = bytes(sum("up"));
  $("down").textContent = bytes(sum("down"));
  $("rounds").textContent = sum("rounds");
  const latest = live.at(-1);
  if (latest?.verdict_ms) $("verdict").textContent = `${latest.verdict_ms.toFixed(0)} ms`;
  const speeds = answers.map((answer) => answer.tokens / ((performance.now() - answer.started) / 1000));
  if (speeds.length) $("speed").textContent = `${speeds.map((speed) => speed.toFixed(0)).join(" / ")} tokens/s`;
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let held = ""; ; ) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (held + value).split("\n\n");
    held = parts.pop();
    for (const part of parts) if (part.startsWith("data: {")) yield JSON.parse(part.slice(6));
  }
}

function sumUp({ stats, exact, seed }) {
  const vouched = exact ? "exactly the large model's words" : `${stats.skipped} of ${stats.tokens} tokens untested`;
  return `${vouched}; ${stats.rounds} round trips, ${bytes(stats.uplink_payload_bytes)} up, seed ${seed}`;
}

function kept() {
  try {
    return JSON.parse(localStorage.getItem("hedge.history") ?? "[]");
  } catch {
    return [];
  }
}

function keep() {
  const others = kept().filter((one) => one.name !== named);
  const all = conversation.length ? [{ name: named, messages: conversation, system: $("system").value }, ...others] : others;
  try {
    localStorage.setItem("hedge.history", JSON.stringify(all.slice(0, KEPT)));
    sessionStorage.setItem("hedge.conversation", named);
  } catch {
    // A browser that keeps nothing shows answers all the same.
  }
  listKept();
}

function listKept() {
  const options = kept().map(({ name, messages }) => new Option(messages[0].content.slice(0, 40), name, false, name === named));
  $("history").replaceChildren(new Option("choose", ""), ...options);
}

function open(name) {
  const found = kept().find((one) => one.name === name);
  conversation.length = 0;
  $("talk").replaceChildren();
  named = found?.name ?? crypto.randomUUID();
  for (const { role, content } of found?.messages ?? []) {
    conversation.push({ role, content });
    $("talk").append(element("p", role === "user" ? "said" : "words", content));
  }
  if (found) $("system").value = found.system;
  sessionStorage.setItem("hedge.conversation", named);
  listKept();
}

// A cell a token: who wrote it, and a bar before the first that a verdict brought.
function stripOf(words) {
  const tokens = [...words.children];
  const strip = element("div", "strip");
  let verdicts = 0;
  tokens.forEach(({ hedge }, index) => {
    const first = !index || hedge.rounds !== tokens[index - 1].hedge.rounds;
    verdicts += first;
    strip.append(element("span", `cell ${hedge.provenance}${first ? " first" : ""}`));
  });
  strip.setAttribute("role", "img");
  strip.setAttribute("aria-label", `${tokens.length} tokens, released in ${verdicts} parts`);
  strip.title = "a cell a token, by who wrote it; a bar begins what one verdict released";
  return strip;
}

function receiptOf(receipt) {
  const { llm, bytes: sizes, sent, cloud, tokens, cost } = receipt;
  const kinds = Object.entries(tokens).filter(([name, count]) => name !== "all" && count);
  const lines = [
    `${tokens.all} tokens: ${kinds.map(([name, count]) => `${count} ${name}`).join(", ")}; ${receipt.guarantee}`,
    `The large model made ${llm.passes} passes over ${llm.positions} positions; alone it makes ${llm.passes_alone}.`,
    `Left this device: ${sent.join(", ") || "nothing"}; ${bytes(sizes.up)} up, ${bytes(sizes.down)} down.`,
    ...(cloud ? [`To: ${cloud.model} at ${cloud.address}, ${cloud.engine}.`] : []),
    `${receipt.seconds.toFixed(2)} s, ${receipt.waited_s.toFixed(2)} s of them waiting; ${receipt.near_ties} near ties.`,
    ...(cost ? [`${cost.hedge} ${cost.currency}; the large model alone ${cost.llm_alone}.`] : []),
  ];
  const box = element("details", "receipt");
  box.append(element("summary", "", "receipt"), ...lines.map((line) => element("p", "", line)));
  return box;
}

async function answerWith(system, answers, column, seed, signal) {
  const card = element("article", "answer");
  card.append(element("h2", "", system));
  const words = element("div", "words");
  card.append(words);
  column.append(card);
  const answer = { system, tokens: 0, alone: 0, text: "", last: null, started: performance.now() };
  answers.push(answer);
  let ended = null;
  const before = $("system").value ? [{ role: "system", content: $("system").value }] : [];
  const asked = {
    model: system, messages: [...before, ...conversation], stream: true, seed, temperature: Number($("temperature").value || 0),
    ...($("threshold").value === "" ? {} : { hedge: { threshold: Number($("threshold").value) } }),
  };
  try {
    const response = await fetch("v1/chat/completions", { method: "POST", body: JSON.stringify(asked), signal });
    if (!response.ok) throw new Error((await response.json()).error.message);
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      const choice = event.choices[0];
      if (!choice?.hedge) continue;
      if (choice.finish_reason) {
        ended = choice.hedge;
        continue;
      }
      for (const line of choice.hedge.link ?? []) card.append(element("p", "note", line));
      answer.tokens += 1;
      answer.alone += ["local", "offline"].includes(choice.hedge.provenance);
      answer.last = choice.hedge;
      answer.text += choice.delta.content;
      showToken(words, choice.delta.content, choice.hedge, answer.tokens);
      showMeters(answers);
      card.scrollIntoView({ block: "nearest" });
    }
    // Not before the response has ended: who sees the sum may ask again.
    if (ended) card.append(stripOf(words), element("p", "sum", sumUp(ended)), receiptOf(ended.receipt));
  } catch (error) {
    card.append(element("p", "note wrong", error.name === "AbortError" ? "stopped" : error.message));
  }
  return answer;
}

async function ask(text) {
  const turn = element("section", "turn");
  const column = element("div", "answers");
  turn.append(element("p", "said", text), column);
  $("talk").append(turn);
  conversation.push({ role: "user", content: text });
  running = new AbortController();
  $("send").hidden = true;
  $("stop").hidden = false;
  const systems = [$("left").value, $("right").value].filter(Boolean);
  const seed = $("seed").value === "" ? Math.floor(Math.random() * 2 ** 31) : Number($("seed").value);
  const answers = [];
  const done = await Promise.all(systems.map((system) => answerWith(system, answers, column, seed, running.signal)));
  for (const answer of done) {
    totals.tokens += answer.tokens;
    totals.alone += answer.alone;
    for (const name of ["up", "down", "rounds"]) totals[name] += answer.last?.[name] ?? 0;
  }
  conversation.push({ role: "assistant", content: done[0].text });
  keep();
  running = null;
  $("send").hidden = false;
  $("stop").hidden = true;
  $("prompt").focus();
}

function press(button, pressed) {
  button.setAttribute("aria-pressed", String(pressed));
}

async function setLink(wanted) {
  await fetch("hedge/link", { method: "POST", body: JSON.stringify(wanted) });
  await look();
}

async function look() {
  try {
    const state = await (await fetch("hedge/state")).json();
    const up = state.up && !state.link?.cut;
    $("state").textContent = state.cloud
      ? `${state.slm} here, ${state.cloud} at ${state.address}: ${up ? "the link is up" : "the link is down"}`
      : `${state.slm} here, no cloud answers yet`;
    $("state").className = up ? "" : "down";
    $("knobs").hidden = !state.link;
    if (state.link) {
      press($("cut"), state.link.cut);
      press($("slow"), state.link.delay > 0.1);
      $("cut").textContent = state.link.cut ? "Mend the link" : "Cut the link";
    }
    if (!$("left").options.length) {
      for (const name of state.systems) for (const id of ["left", "right"]) $(id).append(new Option(name, name));
      $("left").value = "hedge";
    }
  } catch {
    $("state").textContent = "the device's own server does not answer";
    $("state").className = "down";
  }
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("prompt").value.trim();
  if (!text || running) return;
  $("prompt").value = "";
  ask(text);
});
$("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("ask").requestSubmit();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    running?.abort();
    $("details").hidden = true;
  }
});
$("talk").addEventListener("click", (event) => event.target.hedge && describe(event.target));
$("talk").addEventListener("keydown", (event) => {
  if (event.target.hedge && ["Enter", " "].includes(event.key)) describe(event.target);
});
$("stop").addEventListener("click", () => running?.abort());
$("close").addEventListener("click", () => ($("details").hidden = true));
$("forget").addEventListener("click", () => {
  conversation.length = 0;
  keep();
  open("");
});
$("history").addEventListener("change", () => open($("history").value));
$("cut").addEventListener("click", () => setLink({ cut: $("cut").getAttribute("aria-pressed") !== "true" }));
$("slow").addEventListener("click", () => setLink($("slow").getAttribute("aria-pressed") === "true" ? { delay: 0, rate: 0 } : { delay: 0.15, rate: 1e5 }));
open(named);
look();
setInterval(look, 2000);
