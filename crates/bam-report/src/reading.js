"use strict";
// The page reads without this. It adds the choice of head and measure, and a line about one token.
{
  const reader = document.querySelector(".reader");
  const [controls, text, about] = [".controls", ".text", ".about"].map((part) => reader.querySelector(part));
  const tokens = [...text.children];
  const glances = JSON.parse(document.getElementById("glances").textContent);
  const names = ["ln evidence", "tokens, mean distance", "mass within " + reader.dataset.near];
  const digits = [2, 1, 2];
  let current = -1;

  const chosen = () => glances[Number(controls.elements.head.value) + 1];
  const measure = () => Number(controls.elements.measure.value);

  // Evidence is linear between its outer twentieths, distance logarithmic, mass as it is.
  const scale = (values, kind) => {
    if (kind === 0) {
      const sorted = [...values].sort((a, b) => a - b);
      const at = (part) => sorted[Math.round(part * (sorted.length - 1))] ?? 0;
      return [at(0.05), at(0.95)];
    }
    return kind === 1 ? [0, Math.max(1, values.length - 1)] : [0, 1];
  };
  // With a minus where there is something to it.
  const figure = (value, digits) => {
    const text = value.toFixed(digits);
    return text.replace("-", Number(text) === 0 ? "" : "−");
  };
  const share = (value, [low, high], kind) => {
    const part = kind === 1 ? Math.log1p(value) / Math.log1p(high) : (value - low) / (high - low || 1);
    return Math.min(1, Math.max(0, part));
  };

  const paint = () => {
    const kind = measure();
    const values = chosen()[kind];
    const ends = scale(values, kind);
    tokens.forEach((token, index) => token.style.setProperty("--v", share(values[index], ends, kind).toFixed(2)));
    reader.querySelector(".low").textContent = figure(ends[0], kind === 1 ? 0 : 2);
    reader.querySelector(".high").textContent = figure(ends[1], kind === 1 ? 0 : 2);
    reader.querySelector(".measure").textContent = names[kind];
    reader.dataset.measure = kind;
    tell(current);
  };

  const tell = (index) => {
    tokens[current]?.classList.remove("current");
    current = Math.min(tokens.length - 1, index);
    if (current < 0) {
      return;
    }
    tokens[current].classList.add("current");
    const numbers = chosen().map((values, kind) => figure(values[current], digits[kind]) + " " + names[kind]);
    about.textContent = "token " + current + " “" + tokens[current].textContent.trim() + "”: " + numbers.join(" · ");
  };

  text.addEventListener("pointerover", (event) => tell(tokens.indexOf(event.target)));
  text.addEventListener("click", (event) => tell(tokens.indexOf(event.target)));
  text.addEventListener("keydown", (event) => {
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10, Home: -tokens.length, End: tokens.length };
    const step = steps[event.key];
    if (step !== undefined) {
      event.preventDefault();
      tell(Math.min(tokens.length - 1, Math.max(0, current + step)));
      tokens[current].scrollIntoView({ block: "nearest" });
    }
  });
  controls.addEventListener("change", paint);
  controls.addEventListener("submit", (event) => event.preventDefault());
  controls.hidden = false;
  about.textContent = "Point at a token, or go to the text and use the arrow keys.";
  paint();
}
