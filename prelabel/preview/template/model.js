// The data, what the controls say, and which pictures follow from both. Nothing here touches the page.

const data = JSON.parse(document.getElementById("data").textContent);
const cards = data.cards;
const [CLASS, SCORE, X1, Y1, X2, Y2, OUTLINE] = [0, 1, 2, 3, 4, 5, 6];

// The slider starts where the thresholds are, and shows exactly what they keep there: those of single classes may lie
// below or above. Its lowest position shows all that the run keeps.
const hundredths = (score) => Math.floor(score * 100 + 1e-6) / 100;
const [START, LOWEST] = [hundredths(data.run.threshold), hundredths(data.run.kept)];

// Each detection knows its place in its card, which ties shape, label and list entry together.
for (const card of cards) {
  for (const one of card.below ?? []) one.below = true;
  card.all = card.below ? [...card.found, ...card.below].sort((a, b) => b[SCORE] - a[SCORE]) : card.found ?? [];
  card.all.forEach((one, place) => { one.place = place; });
}

const state = {
  query: "", class: -1, status: "all", sort: "run", least: START, boxes: true, masks: true, labels: true,
};

const names = new Intl.Collator(undefined, { numeric: true });
const count = new Intl.NumberFormat();

function counted(number, one, many) {
  return `${count.format(number)} ${number === 1 ? one : many}`;
}

function percent(score) {
  return `${Math.round(score * 100)}`;
}

// The detections of a card that the filters leave, best first.
function shownOf(card) {
  if (card.error) return [];
  const { class: wanted, least } = state;
  if (wanted < 0 && least === START) return card.found;
  const passes = (one) => (one.below ? least < START && one[SCORE] >= least : least <= START || one[SCORE] >= least);
  return card.all.filter((one) => (wanted < 0 || one[CLASS] === wanted) && passes(one));
}

// How unsure a detector is of an image: the mean of 1 - |2 score - 1|, 1 where every score is a half.
function doubt(shown) {
  return shown.length ? shown.reduce((sum, one) => sum + 1 - Math.abs(2 * one[SCORE] - 1), 0) / shown.length : -1;
}

const top = (shown) => (shown.length ? Math.max(...shown.map((one) => one[SCORE])) : -1);
const bottom = (shown) => (shown.length ? Math.min(...shown.map((one) => one[SCORE])) : 2);

const ORDERS = {
  run: () => 0,
  count: (a, b) => b.shown.length - a.shown.length,
  few: (a, b) => a.shown.length - b.shown.length,
  high: (a, b) => b.key - a.key,
  low: (a, b) => a.key - b.key,
  unsure: (a, b) => b.key - a.key,
  name: (a, b) => names.compare(cards[a.number].name, cards[b.number].name),
};
const KEYS = { high: top, low: bottom, unsure: doubt };

// Pictures that fit the filters, in order: their number in `cards` and what is shown of each. Failed ones come last.
function choose() {
  const query = state.query.trim().toLocaleLowerCase();
  const key = KEYS[state.sort];
  const chosen = [];
  cards.forEach((card, number) => {
    if (query && !`${card.name}\n${card.id ?? ""}`.toLocaleLowerCase().includes(query)) return;
    const shown = shownOf(card);
    if (!fits(card, shown)) return;
    chosen.push({ number, shown, key: key ? key(shown) : 0 });
  });
  const order = ORDERS[state.sort];
  const last = (one) => (state.sort === "name" || state.sort === "run" ? 0 : Number(Boolean(cards[one.number].error)));
  return chosen.sort((a, b) => last(a) - last(b) || order(a, b) || a.number - b.number);
}

function fits(card, shown) {
  if (card.error) return state.status === "failed" || (state.status === "all" && state.class < 0 && state.least <= START);
  if (state.status === "failed") return false;
  if (state.status === "empty") return shown.length === 0;
  // A class or a score that was asked for is what one wants to see.
  return shown.length > 0 || (state.status === "all" && state.class < 0 && state.least <= START);
}

function filtered() {
  return Boolean(state.query.trim()) || state.class >= 0 || state.status !== "all" || state.least !== START;
}

// "3 person, 1 dog"
function summary(shown) {
  const byClass = new Map();
  for (const one of shown) byClass.set(one[CLASS], (byClass.get(one[CLASS]) ?? 0) + 1);
  return [...byClass].sort((a, b) => b[1] - a[1]).map(([place, n]) => `${n} ${data.classes[place].name}`).join(", ");
}
