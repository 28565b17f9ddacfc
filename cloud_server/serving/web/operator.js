"use strict";
const $ = (id) => document.getElementById(id);
const EVERY = 2000;
const KEPT = 60;
const samples = [];

function parsed(text) {
  const found = { at: performance.now() / 1000 };
  for (const line of text.split("\n")) {
    const split = line.lastIndexOf(" ");
    if (line && line[0] !== "#") found[line.slice(0, split)] = Number(line.slice(split + 1));
  }
  return found;
}

function labelled(sample, name, label) {
  const pattern = new RegExp(`^${name}\\{${label}="([^"]+)"\\}$`);
  return Object.entries(sample).flatMap(([key, value]) => (pattern.test(key) ? [[pattern.exec(key)[1], value]] : []));
}

function quantile(now, then, share) {
  const counts = labelled(now, "hedge_cloud_verdict_seconds_bucket", "le").map(([le, n]) => [Number(le.replace("+Inf", "Infinity")), n - (then[`hedge_cloud_verdict_seconds_bucket{le="${le}"}`] ?? 0)]);
  const all = counts.at(-1)?.[1] ?? 0;
  return all ? counts.find(([, n]) => n >= share * all)[0] : null;
}

function rows(table, entries) {
  const most = Math.max(1, ...entries.map(([, value]) => value));
  table.replaceChildren(...entries.map(([name, value]) => {
    const row = document.createElement("tr");
    for (const text of [name, value.toLocaleString()]) row.insertCell().textContent = text;
    const bar = document.createElement("meter");
    bar.max = most;
    bar.value = value;
    row.insertCell().append(bar);
    return row;
  }));
}

function show() {
  const now = samples.at(-1);
  const last = samples.at(-2) ?? now;
  const minute = samples.at(-30) ?? samples[0];
  const seconds = Math.max(1e-9, now.at - last.at);
  const rate = (name) => (now[name] - (last[name] ?? 0)) / seconds;
  const grown = (name) => now[name] - (minute[name] ?? 0);
  const passes = grown("hedge_cloud_batch_sessions_count");
  const milliseconds = (value) => (value === null ? "-" : value === Infinity ? "> 10 s" : `<= ${1000 * value} ms`);
  const values = {
    "sessions open": now.hedge_cloud_sessions,
    "waiting for a pass": now.hedge_cloud_queue_length,
    "sessions a pass": passes ? (grown("hedge_cloud_batch_sessions_sum") / passes).toFixed(1) : "-",
    "positions/s": rate("hedge_cloud_positions_total").toFixed(0),
    "found instead": `${now.hedge_cloud_found_tokens_total} tokens`,
    "verdict, median": milliseconds(quantile(now, minute, 0.5)),
    "verdict, 99 %": milliseconds(quantile(now, minute, 0.99)),
    "KV memory": `${(100 * now.hedge_cloud_kv_bytes / now.hedge_cloud_kv_budget_bytes).toFixed(1)} % of ${(now.hedge_cloud_kv_budget_bytes / 2 ** 20).toFixed(0)} MiB`,
    "evicted": now.hedge_cloud_evictions,
    "rows": now.hedge_cloud_logit_difference ? `rounding, up to ${now.hedge_cloud_logit_difference.toPrecision(2)}; ${now.hedge_cloud_near_ties_total} near ties` : "bitwise",
    "refused": labelled(now, "hedge_cloud_refusals_total", "reason").map(([reason, n]) => `${n} ${reason}`).join(", ") || "none",
  };
  $("now").replaceChildren(...Object.entries(values).map(([name, value]) => {
    const pair = document.createElement("div");
    pair.append(Object.assign(document.createElement("dt"), { textContent: name }), Object.assign(document.createElement("dd"), { textContent: value }));
    return pair;
  }));
  rows($("tokens"), labelled(now, "hedge_cloud_tokens_total", "outcome"));
  let before = 0;
  rows($("batches"), labelled(now, "hedge_cloud_batch_sessions_bucket", "le").flatMap(([le, n]) => {
    const count = n - (minute[`hedge_cloud_batch_sessions_bucket{le="${le}"}`] ?? 0);
    const own = count - before;
    before = count;
    return own > 0 ? [[le === "+Inf" ? "more" : `up to ${Number(le)}`, own]] : [];
  }));
  const rates = samples.slice(1).map((one, i) => (one.hedge_cloud_positions_total - samples[i].hedge_cloud_positions_total) / (one.at - samples[i].at));
  const most = Math.max(1, ...rates);
  const points = rates.map((value, i) => `${(240 * i) / (KEPT - 1)},${58 - (56 * value) / most}`).join(" ");
  const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
  line.setAttribute("points", points);
  $("trend").replaceChildren(line);
}

async function look() {
  try {
    samples.push(parsed(await (await fetch("metrics")).text()));
    if (samples.length > KEPT) samples.shift();
    const ready = await fetch("readyz");
    $("state").textContent = ready.ok ? "ready" : "draining: no new sessions";
    $("state").className = ready.ok ? "" : "down";
    show();
  } catch {
    $("state").textContent = "the server does not answer";
    $("state").className = "down";
  }
}

look();
setInterval(look, EVERY);
