// The pictures as rows of one height. Cards come in batches as one scrolls, and only those near the window have shapes.

const BATCH = 60;
const gallery = byId("gallery");
let chosen = [];
let appended = 0;

const made = new Map(); // number of a card -> its elements
const near = new Set(); // numbers of the cards near the window
const shownAt = new Map(); // number of a card -> what is shown of it now

const nearby = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    const number = Number(target.dataset.card);
    if (isIntersecting) near.add(number);
    else near.delete(number);
    paint(number);
  }
}, { rootMargin: "500px 0px" });

const end = new IntersectionObserver((entries) => {
  if (entries.some((entry) => entry.isIntersecting)) append();
}, { rootMargin: "1200px 0px" });

function paint(number) {
  const { frame } = made.get(number);
  if (near.has(number) && shownAt.has(number)) draw(frame, cards[number], shownAt.get(number), "small");
  else clear(frame);
}

function paintNear() {
  for (const number of near) paint(number);
}

// All pictures anew, after a filter or the order has changed.
function fillGallery() {
  chosen = choose();
  shownAt.clear();
  for (const { number, shown } of chosen) shownAt.set(number, shown);
  const start = Math.min(chosen.length, BATCH);
  gallery.replaceChildren(...chosen.slice(0, start).map(cardOf));
  appended = start;
  paintNear();
  byId("more").hidden = appended >= chosen.length;
  rewatch();
}

function append() {
  if (appended >= chosen.length) return;
  const next = Math.min(chosen.length, appended + BATCH);
  gallery.append(...chosen.slice(appended, next).map(cardOf));
  appended = next;
  byId("more").hidden = appended >= chosen.length;
  rewatch();
}

// An observer speaks of changes only: still in sight, the end has to be looked at again.
function rewatch() {
  end.disconnect();
  end.observe(byId("more"));
}

function cardOf({ number, shown }) {
  if (!made.has(number)) made.set(number, makeCard(number));
  const { item, button, facts } = made.get(number);
  const card = cards[number];
  button.setAttribute("aria-label", spoken(card, shown));
  facts.replaceChildren(...brief(card, shown));
  return item;
}

function spoken(card, shown) {
  if (card.error) return `${card.name}: failed, ${card.error.type}`;
  return `${card.name}: ${shown.length ? summary(shown) : "nothing found"}`;
}

function brief(card, shown) {
  if (card.error) return [el("span", { class: "bad" }, "failed")];
  if (!shown.length) return [el("span", {}, "nothing found")];
  return [el("span", { title: counted(shown.length, "detection", "detections") }, `${shown.length}`),
    el("span", { class: "best", title: "Best score" }, top(shown).toFixed(2))];
}

function makeCard(number) {
  const card = cards[number];
  // Very long or high pictures get a cell of a usual shape, with room left and right or above and below.
  const ratio = card.w ? card.w / card.h : 4 / 3;
  const cell = Math.min(Math.max(ratio, 0.6), 2.4);
  const fit = ratio > cell ? { width: "100%", height: `${(100 * cell) / ratio}%` } : { width: `${(100 * ratio) / cell}%`, height: "100%" };
  const frame = el("span", { class: "frame", "data-card": `${number}`, style: fit });
  if (card.thumbnail) {
    frame.append(el("img", { src: card.thumbnail, alt: "", loading: "lazy", decoding: "async", draggable: "false" }));
  } else {
    frame.append(placeholder(card));
  }
  const button = el("button", { type: "button", class: "shot", "data-number": `${number}`, style: { "aspect-ratio": `${cell}` } }, frame);
  const facts = el("span", { class: "brief" });
  const item = el("li", { class: card.error ? "card lost" : "card", style: { "--ratio": cell.toFixed(4) } },
    button, el("div", { class: "caption" }, name(card.name.split("/").pop() || card.name, { class: "file", title: card.name, dir: "auto" }), facts));
  nearby.observe(frame);
  return { item, button, frame, facts };
}

function placeholder(card) {
  const title = card.error ? card.error.type : "No picture";
  const text = card.error ? card.error.text : card.missing ?? "";
  return el("span", { class: "placeholder" }, el("strong", {}, name(title)), name(text, { class: "why" }));
}

// Arrow keys go from picture to picture as they stand on the page.
function moveFocus(event) {
  const button = event.target.closest(".shot");
  if (!button || event.altKey || event.ctrlKey || event.metaKey) return;
  const at = chosen.findIndex((one) => one.number === Number(button.dataset.number));
  const to = { ArrowLeft: () => at - 1, ArrowRight: () => at + 1, Home: () => 0, End: () => chosen.length - 1,
    ArrowUp: () => inRow(at, -1), ArrowDown: () => inRow(at, 1) }[event.key]?.();
  if (to === undefined) return;
  event.preventDefault();
  focusCard(Math.min(Math.max(to, 0), chosen.length - 1));
}

function focusCard(position) {
  while (appended <= position && appended < chosen.length) append();
  made.get(chosen[position].number).button.focus();
}

// The picture above or below whose middle is nearest.
function inRow(at, step) {
  const item = (position) => made.get(chosen[position].number).item;
  const middle = item(at).offsetLeft + item(at).offsetWidth / 2;
  let best = at;
  let row = null;
  for (let position = at + step; position >= 0 && position < chosen.length; position += step) {
    while (appended <= position) append();
    const { offsetTop, offsetLeft, offsetWidth } = item(position);
    if (offsetTop === item(at).offsetTop) continue;
    row ??= offsetTop;
    if (offsetTop !== row) break;
    const distance = Math.abs(offsetLeft + offsetWidth / 2 - middle);
    if (best === at || distance < Math.abs(item(best).offsetLeft + item(best).offsetWidth / 2 - middle)) best = position;
  }
  return best;
}
