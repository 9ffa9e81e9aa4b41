// Shows the images in rows of equal height. Cards are added in batches while scrolling; shapes are drawn only on cards
// near the visible part of the page.

const BATCH = 60;
const gallery = byId("gallery");
let matches = [];
let appended = 0;

const elements = new Map(); // number of a card -> its elements
const near = new Set(); // numbers of the cards near the visible part of the page
const visibleOf = new Map(); // number of a card -> its visible detections

const nearby = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    const card = Number(target.dataset.card);
    if (isIntersecting) near.add(card);
    else near.delete(card);
    paint(card);
  }
}, { rootMargin: "500px 0px" });

const end = new IntersectionObserver((entries) => {
  if (entries.some((entry) => entry.isIntersecting)) append();
}, { rootMargin: "1200px 0px" });

const positionOf = (card) => matches.findIndex((match) => match.card === card);

function paint(card) {
  const { frame } = elements.get(card);
  if (near.has(card) && visibleOf.has(card)) draw(frame, cards[card], visibleOf.get(card), "small");
  else clear(frame);
}

function paintNear() {
  for (const card of near) paint(card);
}

// Replaces all images after the filters or the order have changed.
function fillGallery() {
  matches = matchingImages();
  visibleOf.clear();
  for (const { card, visible } of matches) visibleOf.set(card, visible);
  const start = Math.min(matches.length, BATCH);
  gallery.replaceChildren(...matches.slice(0, start).map(cardElement));
  appended = start;
  paintNear();
  byId("more").hidden = appended >= matches.length;
  watchEnd();
}

function append() {
  if (appended >= matches.length) return;
  const next = Math.min(matches.length, appended + BATCH);
  gallery.append(...matches.slice(appended, next).map(cardElement));
  appended = next;
  byId("more").hidden = appended >= matches.length;
  watchEnd();
}

// An observer reports only changes. If the end is still in sight, it has to be observed again.
function watchEnd() {
  end.disconnect();
  end.observe(byId("more"));
}

function cardElement({ card, visible }) {
  if (!elements.has(card)) elements.set(card, makeCard(card));
  const { item, button, figures } = elements.get(card);
  button.setAttribute("aria-label", spoken(cards[card], visible));
  figures.replaceChildren(...cardFigures(cards[card], visible));
  return item;
}

function spoken(card, visible) {
  if (card.error) return `${card.name}: failed, ${card.error.type}`;
  return `${card.name}: ${visible.length ? summary(visible) : "no detections"}`;
}

function cardFigures(card, visible) {
  if (card.error) return [el("span", { class: "bad" }, "failed")];
  if (!visible.length) return [el("span", {}, "no detections")];
  return [el("span", {}, counted(visible.length, ...DETECTIONS)), el("span", {}, `best score ${highest(visible).toFixed(2)}`)];
}

function makeCard(position) {
  const card = cards[position];
  // A very wide or tall image gets a cell with a limited aspect ratio, and margins.
  const ratio = card.w ? card.w / card.h : 4 / 3;
  const cell = Math.min(Math.max(ratio, 0.6), 2.4);
  const fit = ratio > cell ? { width: "100%", height: `${(100 * cell) / ratio}%` } : { width: `${(100 * ratio) / cell}%`, height: "100%" };
  const frame = el("span", { class: "frame", "data-card": `${position}`, style: fit });
  if (card.thumbnail) {
    frame.append(el("img", { src: card.thumbnail, alt: "", loading: "lazy", decoding: "async", draggable: "false" }));
  } else {
    frame.append(placeholder(card));
  }
  const button = el("button", { type: "button", class: "shot", "data-number": `${position}`, style: { "aspect-ratio": `${cell}` } }, frame);
  const figures = el("span", { class: "figures" });
  const item = el("li", { class: card.error ? "card lost" : "card", style: { "--ratio": cell.toFixed(4) } },
    button, el("div", { class: "caption" }, name(card.name.split("/").pop() || card.name, { class: "file", title: card.name, dir: "auto" }), figures));
  nearby.observe(frame);
  return { item, button, frame, figures };
}

function placeholder(card) {
  const title = card.error ? card.error.type : "Image not available";
  const text = card.error ? card.error.text : card.missing ?? "";
  return el("span", { class: "placeholder" }, el("strong", {}, name(title)), name(text, { class: "why" }));
}

// The arrow keys move between images in the directions in which they are on the page.
function moveFocus(event) {
  const button = event.target.closest(".shot");
  if (!button || event.altKey || event.ctrlKey || event.metaKey) return;
  const from = positionOf(Number(button.dataset.number));
  const to = { ArrowLeft: () => from - 1, ArrowRight: () => from + 1, Home: () => 0, End: () => matches.length - 1,
    ArrowUp: () => inNextRow(from, -1), ArrowDown: () => inNextRow(from, 1) }[event.key]?.();
  if (to === undefined) return;
  event.preventDefault();
  focusCard(Math.min(Math.max(to, 0), matches.length - 1));
}

function focusCard(position) {
  while (appended <= position && appended < matches.length) append();
  elements.get(matches[position].card).button.focus();
}

// The position of the image in the row above (-1) or below (1) whose middle is nearest.
function inNextRow(from, direction) {
  const item = (position) => elements.get(matches[position].card).item;
  const middle = item(from).offsetLeft + item(from).offsetWidth / 2;
  let best = from;
  let row = null;
  for (let position = from + direction; position >= 0 && position < matches.length; position += direction) {
    while (appended <= position) append();
    const { offsetTop, offsetLeft, offsetWidth } = item(position);
    if (offsetTop === item(from).offsetTop) continue;
    row ??= offsetTop;
    if (offsetTop !== row) break;
    const distance = Math.abs(offsetLeft + offsetWidth / 2 - middle);
    if (best === from || distance < Math.abs(item(best).offsetLeft + item(best).offsetWidth / 2 - middle)) best = position;
  }
  return best;
}
