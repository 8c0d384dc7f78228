// A page of `bam serve`: ask, watch tokens come, look where the heads looked.
"use strict";

const $ = (id) => document.getElementById(id);
const tokens = []; // {id, name, answer}
let characters = whole(); // of tokens that are bytes
let chosen = -1;
let beliefs = null;
let asking = null;

const headers = () => {
  const key = $("key").value.trim();
  const json = { "Content-Type": "application/json" };
  return key ? { ...json, Authorization: `Bearer ${key}` } : json;
};

async function call(path, body) {
  const answer = await fetch(path, body === undefined
    ? { headers: headers() }
    : { method: "POST", headers: headers(), body: JSON.stringify(body), signal: asking?.signal });
  if (!answer.ok) {
    const wrong = await answer.json().catch(() => null);
    throw new Error(wrong?.error?.message ?? `${path}: ${answer.status}`);
  }
  return answer;
}

function say(text, wrong = false) {
  $("status").textContent = text;
  $("status").className = wrong ? "wrong" : "";
}

async function introduce() {
  try {
    const model = (await (await call("v1/models")).json()).data[0];
    $("model").textContent = model.id;
    // The key is right, now if not before.
    if ($("status").className === "wrong") say("");
    $("about").textContent = `${model.encoding}, trained at ${model.train_length} tokens, `
      + `reads up to ${model.max_model_len.toLocaleString("en")}`;
  } catch (error) {
    say(error.message, true);
  }
}

// Tokens as text to choose from.

function whole() {
  return new TextDecoder("utf-8", { ignoreBOM: true });
}

// The text that a token ends, of the name that the server gave it: bytes join into characters.
function shown(name) {
  if (!/^bytes:(\\x[0-9a-f]{2})+$/.test(name)) return characters.decode() + name;
  const bytes = name.match(/[0-9a-f]{2}(?=\\|$)/g).map((byte) => parseInt(byte, 16));
  return characters.decode(new Uint8Array(bytes), { stream: true });
}

function add(id, name, answer) {
  const index = tokens.length;
  const text = shown(name);
  tokens.push({ id, name: text || name, answer });
  const span = document.createElement("span");
  span.textContent = text || "·";
  span.role = "option";
  span.tabIndex = index === 0 ? 0 : -1;
  span.dataset.index = index;
  span.setAttribute("aria-selected", "false");
  span.classList.toggle("answer", answer);
  if (!text) {
    span.classList.add("part");
    span.title = name ? `a part of a character, ${name}` : `the id ${id}, which has no text`;
    span.setAttribute("aria-label", span.title);
  }
  $("text").append(span);
}

function clear() {
  tokens.length = 0;
  characters = whole();
  chosen = -1;
  $("text").replaceChildren();
  $("beliefs").hidden = true;
}

$("text").addEventListener("click", (event) => {
  const index = event.target.dataset?.index;
  if (index !== undefined) choose(Number(index));
});

$("text").addEventListener("keydown", (event) => {
  const at = Number(document.activeElement?.dataset?.index ?? chosen);
  const to = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1,
    Home: 0, End: tokens.length - 1, Enter: at, " ": at }[event.key];
  if (to === undefined || to < 0 || to >= tokens.length) return;
  event.preventDefault();
  if (event.key === "Enter" || event.key === " ") choose(to);
  else focus(to);
});

function focus(index) {
  for (const span of $("text").querySelectorAll("[tabindex='0']")) span.tabIndex = -1;
  const span = $("text").children[index];
  span.tabIndex = 0;
  span.focus();
}

// Asking.

$("stop").addEventListener("click", () => asking?.abort());

$("ask").addEventListener("submit", async (event) => {
  event.preventDefault();
  asking = new AbortController();
  $("send").disabled = true;
  $("stop").disabled = false;
  clear();
  say("reading…");
  try {
    const prompt = await (await call("tokenize", { prompt: $("prompt").value, return_token_strs: true })).json();
    prompt.tokens.forEach((id, at) => add(id, prompt.token_strs[at], false));
    await generate(prompt.tokens);
  } catch (error) {
    say(error.name === "AbortError" ? "stopped" : error.message, error.name !== "AbortError");
  } finally {
    asking = null;
    $("send").disabled = false;
    $("stop").disabled = true;
  }
});

async function generate(prompt) {
  const begun = performance.now();
  let count = 0;
  const answer = await call("v1/completions", {
    prompt, stream: true, return_token_ids: true, logprobs: 0,
    max_tokens: Number($("tokens").value), temperature: Number($("temperature").value),
    seed: $("seed").value === "" ? undefined : Number($("seed").value),
  });
  for await (const data of events(answer.body)) {
    if (data.error) throw new Error(data.error.message);
    const choice = data.choices[0];
    (choice.token_ids ?? []).forEach((id, at) => {
      add(id, choice.logprobs.tokens[at], true);
      count += 1;
    });
    const seconds = (performance.now() - begun) / 1000;
    say(`${count} tokens, ${(count / seconds).toFixed(1)} a second${choice.finish_reason ? ", " + choice.finish_reason : ""}`);
  }
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    const parts = held.split("\n\n");
    held = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: ?/, "");
      if (!part.startsWith("data:")) continue;
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

// Looking.

async function choose(index) {
  chosen = index;
  for (const span of $("text").children) {
    span.setAttribute("aria-selected", String(Number(span.dataset.index) === index));
  }
  focus(index);
  try {
    // The row that made a token is that of the token before it.
    const row = Math.max(index - 1, 0);
    beliefs = await (await call("inspect", { tokens: tokens.slice(0, row + 1).map((t) => t.id) })).json();
    if (chosen !== index) return;
    const layers = beliefs.layers.map((_, layer) => {
      const option = document.createElement("option");
      option.value = layer;
      option.textContent = layer;
      return option;
    });
    const layer = Math.min(Number($("layer").value || 0), layers.length - 1);
    $("layer").replaceChildren(...layers);
    $("layer").value = layer;
    $("beliefs").hidden = false;
    $("beliefs-about").textContent = about(index, row, beliefs.keys);
    $("looked").hidden = beliefs.keys === 1;
    draw();
  } catch (error) {
    say(error.message, true);
  }
}

function about(index, row, keys) {
  const quoted = (at) => JSON.stringify(tokens[at].name);
  const alone = `The row of ${quoted(row)} has only itself to look at: every head gives it all its mass.`;
  if (index === 0) return `Nothing comes before the first token. ${alone}`;
  if (keys === 1) return `${alone} Then ${quoted(index)} came.`;
  return `The posterior of the row of ${quoted(row)} over ${keys.toLocaleString("en")} keys, before ${quoted(index)} came.`;
}

$("layer").addEventListener("change", draw);

function draw() {
  const layer = beliefs.layers[Number($("layer").value)];
  const seen = new Set();
  $("heads").replaceChildren(...layer.heads.map((head, number) => {
    for (const key of head.top) if (key.posterior > 0.1 && beliefs.keys > 1) seen.add(key.position);
    return card(head, number);
  }));
  for (const span of $("text").children) span.classList.toggle("seen", seen.has(Number(span.dataset.index)));
}

function card(head, number) {
  const card = document.createElement("article");
  card.className = "head";
  const title = document.createElement("h3");
  title.textContent = `Head ${number}, ${head.class.replace("_", "-")}`;
  const numbers = document.createElement("p");
  numbers.textContent = `ln evidence ${head.ln_evidence.toFixed(2)}, KL from prior ${head.kl.toFixed(2)} nats`;
  card.append(title, plot(head.bins), numbers, table(head.top.slice(0, 5)));
  return card;
}

const SVG = "http://www.w3.org/2000/svg";
function element(name, attributes, text) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

function plot(bins) {
  const [width, height, left, top, bottom] = [260, 122, 4, 16, 14];
  const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": "Mass by distance: prior, likelihood, posterior" });
  const most = Math.max(...bins.flatMap((bin) => [bin.prior, bin.likelihood, bin.posterior]), 1e-9);
  const x = (at) => left + (at + 0.5) * (width - 2 * left) / bins.length;
  const y = (mass) => (height - bottom) - mass / most * (height - bottom - top);
  svg.append(element("line", { x1: left, x2: width - left, y1: y(0), y2: y(0) }));
  for (const name of ["prior", "likelihood", "posterior"]) {
    const points = bins.map((bin, at) => `${x(at).toFixed(1)},${y(bin[name]).toFixed(1)}`).join(" ");
    svg.append(element("polyline", { class: name, points }));
  }
  const last = bins.length - 1;
  for (const at of new Set([0, Math.round(last / 2), last])) {
    const ends = [...new Set([bins[at].from, bins[at].to])].map((end) => end.toLocaleString("en"));
    svg.append(element("text", { x: x(at), y: height - 3,
      "text-anchor": at === 0 ? "start" : at === last ? "end" : "middle" }, ends.join("–")));
  }
  svg.append(element("text", { x: left, y: 9 }, `${(100 * most).toFixed(0)} %`));
  return svg;
}

function table(keys) {
  const table = document.createElement("table");
  const row = (cells, name) => {
    const tr = document.createElement("tr");
    for (const cell of cells) {
      const node = document.createElement(name);
      node.textContent = cell;
      tr.append(node);
    }
    return tr;
  };
  table.append(row(["key", "lag", "prior", "likel.", "post."], "th"));
  const percent = (mass) => `${(100 * mass).toFixed(mass < 0.1 ? 1 : 0)} %`;
  for (const key of keys) {
    const text = JSON.stringify(tokens[key.position]?.name ?? "").slice(1, -1).replaceAll(" ", "␣");
    table.append(row([text, key.lag, percent(key.prior), percent(key.likelihood), percent(key.posterior)], "td"));
  }
  return table;
}

$("key").addEventListener("change", introduce);
introduce();
